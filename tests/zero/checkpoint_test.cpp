// Checkpoints of one group are gone on from by another one.
#include <chrono>
#include <filesystem>
#include <fstream>
#include <span>
#include <thread>

#include <troupe/runtime/checksum.hpp>
#include <troupe/runtime/files.hpp>
#include <troupe/shards/safetensors.hpp>
#include <troupe/shards/snapshot.hpp>

#include "model.hpp"
#include "support/temporary_folder.hpp"
#include "zero/checkpoint.hpp"
#include "zero/loss_scaler.hpp"
#include "zero/member.hpp"

namespace troupe::training {
namespace {

using namespace test;
namespace fs = std::filesystem;

constexpr std::int64_t kRows = 24;

ZeroOptions options_of(int stage) {
  ZeroOptions options;
  options.stage = static_cast<ZeroStage>(stage);
  options.bucket = 40;
  return options;
}

}  // namespace

TEST_CASE("a checkpoint is gone on from in other stages, by other numbers of members") {
  const troupe::test::TemporaryFolder temp;
  const fs::path folder = temp.path() / "checkpoint";
  const Model model;
  Alone one(model);
  std::vector<double> expected;
  for (std::uint64_t step = 0; step < 12; ++step)
    expected.push_back(one.step(batch_of(model, step, 0, kRows)));
  const std::vector<double> after(expected.begin() + 5, expected.end());

  struct Group {
    int members;
    int stage;
  };
  for (const Group from : {Group{3, 2}, Group{2, 3}, Group{1, 0}, Group{2, 0}, Group{4, 1}}) {
    CAPTURE(from.members);
    CAPTURE(from.stage);
    in_group(from.members, [&](shards::Communicator& group) {
      const auto zero = member_of(model, group, options_of(from.stage));
      train(model, *zero, group, 0, 5, kRows);
      zero->save(folder).value();
      // Going on after it changes nothing.
      return difference(train(model, *zero, group, 5, 7, kRows), after, 1e-5);
    });
    for (const Group to : {Group{2, 3}, Group{1, 0}, Group{3, 1}}) {
      CAPTURE(to.members);
      CAPTURE(to.stage);
      in_group(to.members, [&](shards::Communicator& group) -> std::string {
        ZeroOptions options = options_of(to.stage);
        options.bucket = 1000;
        options.keep_below = 4;
        const auto zero = member_of(model, group, options);
        zero->restore(folder).value();
        if (zero->steps() != 5) return "not five steps";
        return difference(train(model, *zero, group, 5, 7, kRows), after, 1e-5);
      });
    }
  }
}

TEST_CASE("float32 weights and the loss scale of 16 bits are in the checkpoint") {
  const troupe::test::TemporaryFolder temp;
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    const fs::path folder = temp.path() / std::string(to_string(dtype));
    ZeroOptions options = options_of(2);
    options.dtype = dtype;
    options.loss_scaling.first = 64;
    options.loss_scaling.window = 2;
    std::vector<double> after;
    in_group(2, [&](shards::Communicator& group) -> std::string {
      const auto zero = member_of({}, group, options);
      train({}, *zero, group, 0, 3, kRows);
      zero->save(folder).value();
      const std::vector<double> losses = train({}, *zero, group, 3, 4, kRows);
      if (group.rank() == 0) after = losses;
      return "";
    });
    options.stage = ZeroStage::kParameters;
    in_group(2, [&](shards::Communicator& group) -> std::string {
      const auto zero = member_of({}, group, options);
      zero->restore(folder).value();
      if (zero->loss_scale() != (dtype == DType::kFloat16 ? 128 : 1)) return "another loss scale";
      // To the bit: the sums are the same ones.
      return difference(train({}, *zero, group, 3, 4, kRows), after, 0);
    });
  }
}

TEST_CASE("a checkpoint that does not fit, or is damaged, is refused at each member") {
  const troupe::test::TemporaryFolder temp;
  const fs::path folder = temp.path() / "checkpoint";
  in_group(2, [&](shards::Communicator& group) -> std::string {
    const auto zero = member_of({}, group, options_of(1));
    if (zero->restore(folder).error().code != Code::kNotFound) return "found";
    if (!zero->whole()) return "what was not found has changed something";
    train({}, *zero, group, 0, 1, kRows);
    zero->save(folder).value();

    ZeroOptions other = options_of(1);
    other.optimizer = shards::Sgd{};
    const auto sgd = member_of({}, group, other);
    if (sgd->restore(folder).error().code != Code::kFailedPrecondition) return "another optimizer";
    const auto wider = member_of({{7, 13, 6, 3}}, group, options_of(1));
    if (wider->restore(folder).error().code != Code::kFailedPrecondition) return "other parameters";
    if (!wider->whole() || !sgd->whole()) return "what does not fit has changed something";
    pass({}, *zero, batch_of({}, 0, 0, 4));
    if (zero->save(folder).error().code != Code::kFailedPrecondition) return "in the middle of a step";
    group.barrier().wait().value();
    return "";
  });

  // A byte of each place, and a file that is gone.
  const fs::path file = folder / "zero.1.safetensors";
  const std::string good = read_file(file.string()).value();
  std::vector<std::size_t> places;
  for (std::size_t at = 0; at < good.size(); at += 97) places.push_back(at);
  in_group(2, [&](shards::Communicator& group) -> std::string {
    const auto zero = member_of({}, group, options_of(1));
    for (const std::size_t place : places) {
      if (group.rank() == 0) {
        std::string bad = good;
        bad[place] = static_cast<char>(bad[place] ^ 0x11);
        std::ofstream(file, std::ios::binary) << bad;
      }
      group.barrier().wait().value();
      const Result<void> restored = zero->restore(folder);
      if (restored || restored.error().code != Code::kDataLoss) return "taken at " + std::to_string(place);
      if (zero->whole() || zero->parameter(0)) return "parameters of it are shown";
      group.barrier().wait().value();
    }
    if (group.rank() == 0) std::ofstream(file, std::ios::binary) << good;
    group.barrier().wait().value();
    zero->restore(folder).value();
    if (!zero->whole() || !zero->parameter(0)) return "the good one was not taken";
    group.barrier().wait().value();
    if (group.rank() == 0) fs::remove(file);
    group.barrier().wait().value();
    return zero->restore(folder).error().code == Code::kNotFound ? "" : "a file is missing";
  });
}

TEST_CASE("a checkpoint with some elements twice and others not at all is refused") {
  const troupe::test::TemporaryFolder temp;
  const fs::path folder = temp.path();
  const auto write = [&](const std::vector<std::int64_t>& lines) {
    const std::uint64_t count = lines.size() / 3;
    const std::string header = shards::encode_safetensors_header(
        {{"parts", "I64", {count, 3}, 0, count * 24}, {"weights", "F32", {8}, 0, 32}}, {});
    std::string text = header;
    text.append(reinterpret_cast<const char*>(lines.data()), lines.size() * sizeof(std::int64_t));
    text.append(32, '\0');
    std::ofstream(folder / "zero.0.safetensors", std::ios::binary) << text;
    zero::Saved saved;
    saved.optimizer = "sgd";
    saved.parameters = {{"p", Shape{8}, 0}};
    saved.files.resize(1);
    saved.files[0].file = "zero.0.safetensors";
    saved.files[0].bytes = text.size();
    saved.files[0].crc32c = crc32c(std::as_bytes(std::span(text)));
    std::ofstream(folder / shards::kManifestName) << to_text(saved);
  };
  in_group(1, [&](shards::Communicator& group) -> std::string {
    ZeroOptions options;
    options.optimizer = shards::Sgd{};
    const auto made = Zero::create(group, {{"p", Shape{8}, 0}}, options,
                                   [](int) { return Tensor::zeros(DType::kFloat32, Shape{8}); });
    write({0, 0, 4, 0, 4, 4});
    (*made)->restore(folder).value();
    write({0, 0, 4, 0, 0, 4});
    if ((*made)->restore(folder).error().code != Code::kDataLoss) return "the same half twice";
    // Whoever goes on all the same is told.
    const Tensor gradient = Tensor::zeros(DType::kFloat32, Shape{8});
    if ((*made)->gradient(0, gradient).error().code != Code::kFailedPrecondition) return "taken";
    if ((*made)->step().error().code != Code::kFailedPrecondition) return "stepped";
    return "";
  });
}

TEST_CASE("a manifest with a loss scale or counts that cannot be is refused") {
  const troupe::test::TemporaryFolder temp;
  const fs::path path = temp.path() / shards::kManifestName;
  zero::Saved saved;
  saved.optimizer = "sgd";
  saved.scaled = true;
  saved.scaler = {64, 2, 5};
  saved.steps = 7;
  const std::string good = to_text(saved);
  const auto read_with = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    text.replace(text.find(from), from.size(), to);
    std::ofstream(path) << text;
    return zero::read_saved(temp.path());
  };
  CHECK(read_with("64.0", "64.0")->scaler.scale == 64);
  const std::pair<std::string, std::string> wrong[] = {
      {"64.0", "1e39"},
      {"64.0", "0"},
      {R"("overflows_left": 2)", R"("overflows_left": -2147483648)"},
      {R"("overflows_left": 2)", R"("overflows_left": 0)"},
      {R"("good_steps": 5)", R"("good_steps": -1)"},
      {R"("good_steps": 5)", R"("good_steps": 9223372036854775807)"},
      {R"("steps": 7)", R"("steps": -7)"},
      {R"("steps": 7)", R"("steps": 7.5)"}};
  for (const auto& [from, to] : wrong) {
    CAPTURE(to);
    const auto read = read_with(from, to);
    CHECK(!read);
    if (!read) CHECK(read.error().code == Code::kDataLoss);
  }
  // Those of another job's options are held within one's own.
  LossScaling options;
  options.window = 4;
  zero::LossScaler scaler(options, DType::kFloat16);
  scaler.set_state({64, 2'000'000'000, 4'000'000'000});
  CHECK(scaler.state().overflows_left == options.hysteresis);
  CHECK(scaler.state().good_steps == 3);

  fs::rename(path, temp.path() / "kept.json");
  fs::create_directory(temp.path().string() + ".previous");
  std::ofstream(temp.path().string() + ".previous/manifest.json") << good;
  CHECK(zero::read_saved(temp.path()).error().message.find(".previous") != std::string::npos);
  fs::remove_all(temp.path().string() + ".previous");
}

TEST_CASE("files that the first member does not see are no checkpoint") {
  const troupe::test::TemporaryFolder temp;
  temp.write("zero.0.safetensors", "12345");
  std::vector<shards::FileEntry> files(2);
  files[0].file = "zero.0.safetensors";
  files[0].bytes = 5;
  files[1].file = "zero.1.safetensors";
  const Result<void> missing = zero::check_files(temp.path(), files);
  REQUIRE(!missing);
  CHECK(missing.error().message.find("member 1") != std::string::npos);
  files.pop_back();
  CHECK(zero::check_files(temp.path(), files).ok());
  files[0].bytes = 6;
  CHECK(!zero::check_files(temp.path(), files).ok());
}

TEST_CASE("a disk that is slow at one member ends no group, and what it says is heard by all") {
  constexpr auto kTimeout = std::chrono::seconds(2);
  in_group(
      2,
      [&](shards::Communicator& group) -> std::string {
        zero::Member member(group, {{"p", Shape{8}, 0}}, options_of(1));
        const auto slow = [&](const Result<void>& outcome) {
          return member.together_while([&] {
            if (group.rank() == 1) std::this_thread::sleep_for(2 * kTimeout);
            return group.rank() == 1 ? outcome : Result<void>();
          });
        };
        slow({}).value();
        const Result<void> failed = slow(Error{Code::kDataLoss, "it is torn"});
        if (failed || failed.error().code != Code::kDataLoss) return "not heard of";
        return failed.error().message.find("member 1") != std::string::npos ? "" : failed.error().message;
      },
      kTimeout);
}

}  // namespace troupe::training
