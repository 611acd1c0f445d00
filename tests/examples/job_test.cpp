// The whole job, with real processes, on a graph so small that it takes a second.
#include <doctest/doctest.h>

#include <set>

#include <troupe/shards/table_shard.hpp>

#include "examples/job.hpp"
#include "examples/one_blas_thread.hpp"
#include "wordnet/reference_trainer.hpp"
#include "wordnet/wordnet_task.hpp"

namespace troupe::wordnet {
namespace {

/// All rows of a table as the shards first make them.
std::vector<float> first_rows(const shards::TableSpec& spec, std::size_t count) {
  auto shard = shards::TableShard::create(spec);
  REQUIRE(shard);
  std::vector<std::uint64_t> keys(count);
  for (std::size_t i = 0; i < count; ++i) keys[i] = i;
  std::vector<float> rows(count * spec.dim);
  REQUIRE(shard->peek(keys, rows.data()));
  return rows;
}

/// The losses of the epochs, as one process without shards computes them from the same first rows.
std::vector<double> reference_losses(const JobFolder& folder, std::size_t epochs) {
  const OneBlasThread one_thread;
  DatasetOptions dataset;
  dataset.folder = folder / "graph";
  HyperParameters parameters;
  parameters.dimension = 16;
  parameters.batch_size = 32;
  parameters.negatives = 16;
  parameters.n3 = 0.01F;
  parameters.initial_scale = 0.1F;
  auto graph = load_graph(dataset);
  REQUIRE(graph);
  ReferenceTrainer trainer(*graph, parameters);
  trainer.start_from({parameters.dimension, first_rows(entity_table(parameters), graph->entity_count()),
                      first_rows(relation_table(parameters), 2 * graph->relation_count())});
  std::vector<double> losses;
  for (std::uint64_t epoch = 1; epoch <= epochs; ++epoch) losses.push_back(trainer.run_epoch(epoch, 1).loss);
  return losses;
}

}  // namespace

TEST_CASE("two servers and three workers, one of them throttled, train, evaluate and report") {
  JobFolder folder;
  const Finished done = run(folder.train({"--epochs", "60", "--words", "e7", "nobody"}));
  CHECK(done.err == "");
  REQUIRE(done.code == 0);
  const auto result = folder.result();
  CHECK(result["test_mrr"] > 0.5);
  CHECK(result["hits_at_1"] <= result["hits_at_3"]);
  CHECK(result["hits_at_3"] <= result["hits_at_10"]);
  CHECK(result["hits_at_10"] <= 1.0);
  CHECK(result["train_seconds"] > 0.0);
  CHECK(result["triples_per_second"] > 0.0);
  CHECK_FALSE(result.contains("reference_mrr"));
  CHECK(result["failures"].empty());
  CHECK(result["epochs"].size() == 60);
  CHECK(result["epochs"][59]["loss"] < result["epochs"][0]["loss"]);
  REQUIRE(result["workers"].size() == 3);
  std::uint64_t triples = 0;
  for (const auto& worker : result["workers"]) {
    CHECK(worker["alive"] == true);
    triples += worker["triples"].get<std::uint64_t>();
  }
  CHECK(triples == 60 * 2 * kTrain);
  for (const auto& worker : result["workers"]) {
    // The parts of a worker's time are the whole.
    double sum = 0;
    for (const auto& [part, seconds] : worker["seconds"].items()) sum += seconds.get<double>();
    CHECK(worker["seconds"]["compute"] > 0);
    CHECK(worker["seconds"]["shard"] > 0);
    CHECK(worker["seconds"]["bound"] == 0);
    CHECK(sum > 0.98 * result["train_seconds"].get<double>());
    CHECK(sum < 1.2 * result["train_seconds"].get<double>() + 0.5);
  }
  // After each batch the throttled worker rests for 1.5 times as long as the batch took, on any machine. How
  // long the others are idle is a matter of the machine's load, so they are no measure of it.
  const auto& throttled = result["workers"][2];
  CHECK(throttled["speed"] == 0.4);
  CHECK(throttled["seconds"]["idle"] > throttled["seconds"]["compute"]);
  CHECK(2 * throttled["batches"].get<std::uint64_t>() <
        result["workers"][0]["batches"].get<std::uint64_t>() +
            result["workers"][1]["batches"].get<std::uint64_t>());
  const auto& staleness = result["staleness"][0];
  CHECK(staleness["mode"] == "asynchronous");
  for (const char* field : {"mean", "p50", "p90", "p99", "max"}) CHECK(staleness.contains(field));
  const std::string page = folder.read("out/report.html");
  for (const char* part : {"<svg", "worker-2", "Staleness", "Latency", "e7", "</html>"})
    CHECK_MESSAGE(page.find(part) != std::string::npos, part);
  CHECK(std::filesystem::exists(folder / "out/checkpoint/manifest.json"));
  CHECK(done.out.find("e7:") != std::string::npos);
  CHECK(done.out.find("\033") == std::string::npos);  // a pipe gets plain lines
}

TEST_CASE("one worker learns what a single process learns: no update is lost, doubled or torn") {
  for (const char* servers : {"1", "2", "4"}) {
    CAPTURE(servers);
    JobFolder folder;
    const Finished done =
        run(folder.train({"--epochs", "5", "--workers", "1", "--servers", servers, "--throttle", "none"}));
    REQUIRE_MESSAGE(done.code == 0, done.err);
    const auto expected = reference_losses(folder, 5);
    const auto result = folder.result();
    REQUIRE(result["epochs"].size() == expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i)
      CHECK(result["epochs"][i]["loss"].get<double>() == doctest::Approx(expected[i]).epsilon(1e-5));
    CHECK(result["staleness"][0]["max"] == 0);  // there are no others
  }
}

TEST_CASE("a run that is resumed in the middle is the run that went through") {
  JobFolder folder;
  const auto flags = [&](const char* epochs) {
    return folder.train({"--epochs", epochs, "--workers", "1", "--servers", "2", "--throttle", "none"});
  };
  REQUIRE(run(flags("3")).code == 0);
  const Finished resumed = run({"train", "--resume", folder.out(), "--epochs", "6"});
  REQUIRE_MESSAGE(resumed.code == 0, resumed.err);
  CHECK(resumed.out.find("resuming after epoch 3") != std::string::npos);
  const auto expected = reference_losses(folder, 6);
  const auto result = folder.result();
  REQUIRE(result["epochs"].size() == 6);  // of both parts
  for (std::size_t i = 0; i < 6; ++i)
    CHECK(result["epochs"][i]["loss"].get<double>() == doctest::Approx(expected[i]).epsilon(1e-5));
}

TEST_CASE("each mode of consistency, many servers and workers, one direction of symmetric kinds, no epochs") {
  const std::vector<std::vector<std::string>> cases{
      {"--staleness", "0"},
      {"--staleness", "1"},
      {"--staleness", "4", "--workers", "4"},
      {"--servers", "4", "--workers", "6"},
      {"--servers", "1", "--workers", "1"},
      {"--symmetric", "one", "--transport", "tcp"},
      {"--consistency", "sync", "--schedule", "cosine:400,0.1"},
      {"--consistency", "k-of-n:2", "--warm-up", "20,0.1"},
  };
  for (const auto& more : cases) {
    CAPTURE(more[0] + " " + more[1]);
    JobFolder folder;
    auto flags = folder.train({"--epochs", "4"});
    flags.insert(flags.end(), more.begin(), more.end());
    const Finished done = run(flags);
    CHECK(done.err == "");
    REQUIRE(done.code == 0);
    const auto result = folder.result();
    std::uint64_t triples = 0;
    double bound = 0;
    for (const auto& worker : result["workers"]) {
      triples += worker["triples"].get<std::uint64_t>();
      bound += worker["seconds"]["bound"].get<double>();
    }
    CHECK(triples == 4 * 2 * kTrain);
    if (more[0] != "--consistency") CHECK((bound > 0) == (more[0] == "--staleness"));
    if (more[0] == "--staleness") CHECK(result["staleness"][0]["mode"] == "bounded, " + more[1]);
  }
  JobFolder folder;
  const Finished untrained = run(folder.train({"--epochs", "0"}));
  CHECK(untrained.code == 0);
  CHECK(folder.result()["test_mrr"] < 0.5);
}

TEST_CASE("both modes of consistency are timed for the report") {
  JobFolder folder;
  auto flags = folder.train({"--epochs", "2"});
  for (std::size_t i = 0; i < flags.size(); ++i)
    if (flags[i] == "--compare-seconds") flags[i + 1] = "0.4";
  const Finished done = run(flags);
  REQUIRE_MESSAGE(done.code == 0, done.err);
  const auto result = folder.result();
  REQUIRE(result["staleness"].size() == 2);
  CHECK(result["staleness"][0]["waiting_seconds"] == 0.0);
  CHECK(result["staleness"][1]["mode"] == "bounded, 1");
  CHECK(result["staleness"][1]["triples_per_second"] > 0.0);
  CHECK(result["staleness"][1]["waiting_seconds"] >= 0.0);
}

}  // namespace troupe::wordnet
