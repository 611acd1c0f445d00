#include <troupe/training/report.hpp>

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include <troupe/training/charts.hpp>
#include "support/temporary_folder.hpp"

namespace troupe::training {

using test::TemporaryFolder;
namespace {

RunReport sample() {
  RunReport report;
  report.data = "A <graph> & more";
  report.settings = {{"--dimension", "100"}};
  report.servers = 2;
  report.words.examples = "triples";
  report.test = {{"mrr", "MRR", 0.55},
                 {"hits_at_1", "Hits@1", 0.52},
                 {"hits_at_3", "Hits@3", 0.57},
                 {"hits_at_10", "Hits@10", 0.6}};
  report.test_examples = 3000;
  report.train_seconds = 60;
  report.evaluation_seconds = 3;
  report.examples = 4500000;
  report.loss = {{1, 5.0}, {2, 1.0}, {3, 0.5}};
  report.epochs = {{1, 30, 1.5, Metric{"mrr", "MRR", 0.5}}, {2, 60, 0.5, std::nullopt}};
  report.workers = {{"worker-0", 1, 5000, 3000000, true, {{1, 50000}, {2, 51000}}, {30, 0, 10, 15, 5}},
                    {"worker-1", 0.4, 2500, 1500000, false, {{1, 20000}}, {}}};
  report.consistency = {{"asynchronous", {10, 20, 60, 9, 1}, 75000, 0, 120, 0.55}};
  report.latencies = {{"push", 1000, 100, 200, 400, 800, 900}};
  report.failures = {{35.5, "worker-1", "killed by signal 9"}};
  report.sections = {{"Own section", "A <note>.", "", "<b>wolf.n.01</b>", true}};
  return report;
}

TEST_CASE("result.json has the fields that its readers count on") {
  RunReport report = sample();
  report.reference = ReferenceReport{0.56, 100000, "one process"};
  const nlohmann::json result = nlohmann::json::parse(result_json(report));
  CHECK(result.at("test_mrr") == 0.55);
  CHECK(result.at("hits_at_1") == 0.52);
  CHECK(result.at("hits_at_3") == 0.57);
  CHECK(result.at("hits_at_10") == 0.6);
  CHECK(result.at("reference_mrr") == 0.56);
  CHECK(result.at("reference_triples_per_second") == 100000);
  CHECK(result.at("train_seconds") == 60);
  CHECK(result.at("triples_per_second") == 75000);
  REQUIRE(result.at("workers").size() == 2);
  CHECK(result["workers"][1].at("name") == "worker-1");
  CHECK(result["workers"][1].at("speed") == 0.4);
  CHECK(result["workers"][1].at("triples") == 1500000);
  CHECK(result["workers"][1].at("triples_per_second") == 25000);
  CHECK(result["workers"][1].at("alive") == false);
  REQUIRE(result.at("staleness").size() == 1);
  CHECK(result["staleness"][0].at("mode") == "asynchronous");
  CHECK(result["staleness"][0].at("p50") == 2);
  CHECK(result["staleness"][0].at("p99") == 3);
  CHECK(result["staleness"][0].at("max") == 4);
  REQUIRE(result.at("failures").size() == 1);
  CHECK(result["failures"][0].at("who") == "worker-1");
  CHECK(result.at("rpc_latency_us").at("push").at("p99") == 400);
  CHECK(result.at("epochs")[0].at("valid_mrr") == 0.5);
  CHECK_FALSE(result["epochs"][1].contains("valid_mrr"));
}

TEST_CASE("gradients that k of n dropped are in the report, of each worker and together") {
  RunReport report = sample();
  CHECK(nlohmann::json::parse(result_json(report))["workers"][0].at("dropped_batches") == 0);
  CHECK(report_page(report).find("dropped") == std::string::npos);
  report.workers[0].dropped = 12;
  report.workers[1].dropped = 30;
  const nlohmann::json result = nlohmann::json::parse(result_json(report));
  CHECK(result["workers"][0].at("dropped_batches") == 12);
  CHECK(result["workers"][1].at("dropped_batches") == 30);
  const std::string page = report_page(report);
  CHECK(page.find("Gradients of 42 batches came too late for their round, and were dropped.") !=
        std::string::npos);
  CHECK(page.find(">dropped</th>") != std::string::npos);
}

TEST_CASE("an unknown reference is left out of result.json") {
  CHECK_FALSE(nlohmann::json::parse(result_json(sample())).contains("reference_mrr"));
}

TEST_CASE("an empty run still makes valid JSON and a page") {
  const RunReport empty;
  CHECK(nlohmann::json::parse(result_json(empty)).at("examples_per_second") == 0);
  CHECK(report_page(empty).find("nothing was recorded") != std::string::npos);
}

TEST_CASE("bytes that are not UTF-8 do not cost the report") {
  RunReport report = sample();
  report.data = "caf\xE9";
  CHECK(nlohmann::json::parse(result_json(report)).contains("data"));
}

TEST_CASE("percentiles are the least values that so many pushes do not exceed") {
  const StalenessSummary summary = summarize({0, 50, 49, 0, 0, 1});
  CHECK(summary.pushes == 100);
  CHECK(summary.p50 == 1);
  CHECK(summary.p90 == 2);
  CHECK(summary.p99 == 2);
  CHECK(summary.max == 5);
  CHECK(summary.mean == doctest::Approx(1.53));
  CHECK(summarize({}).pushes == 0);
  CHECK(summarize({0, 0, 0, 7}).p50 == 3);
}

TEST_CASE("the page needs nothing from elsewhere and escapes what it is given") {
  RunReport report = sample();
  report.failures[0].what = "<script>alert('x')</script>";
  report.workers[0].name = "\"quoted\"";
  const std::string page = report_page(report);
  CHECK(page.find("<script") == std::string::npos);
  CHECK(page.find("src=") == std::string::npos);
  CHECK(page.find("href=") == std::string::npos);
  CHECK(page.find("url(") == std::string::npos);
  CHECK(page.find("A &lt;graph&gt; &amp; more") != std::string::npos);
  CHECK(page.find("&quot;quoted&quot;") != std::string::npos);
}

TEST_CASE("the page shows loss, quality, workers, staleness, latency, failures and sections") {
  const std::string page = report_page(sample());
  for (const char* title : {"Loss", "Quality", "Workers", "Staleness", "Latency of remote calls", "Failures",
                            "Where the time went", "Own section", "Settings"}) {
    CHECK_MESSAGE(page.find("<h2>" + std::string(title) + "</h2>") != std::string::npos, title);
  }
  CHECK(page.find("worker-1 (held at 40 %) (died)") != std::string::npos);
  CHECK(page.find("<b>wolf.n.01</b>") != std::string::npos);
  CHECK(page.find("width:50.00%\" title=\"compute: 50 %\"") != std::string::npos);
  CHECK(page.find("network: 25 %") != std::string::npos);
  CHECK(page.find("prefers-color-scheme: dark") != std::string::npos);
}

TEST_CASE("both files are written into a folder that is made for them") {
  const TemporaryFolder folder;
  REQUIRE(write_report(sample(), folder.path() / "out" / "run").ok());
  CHECK(folder.read("out/run/result.json") == result_json(sample()));
  CHECK(folder.read("out/run/report.html") == report_page(sample()));

  folder.write("file", "in the way");
  const Result<void> blocked = write_report(sample(), folder.path() / "file");
  REQUIRE_FALSE(blocked.ok());
  CHECK(blocked.error().message.find("file") != std::string::npos);
}

TEST_CASE("ticks are round and enclose their range") {
  CHECK(linear_ticks(0, 61, 6) == std::vector<double>{0, 20, 40, 60, 80});
  const std::vector<double> close = linear_ticks(0.505, 0.556, 5);
  CHECK(close.front() <= 0.505);
  CHECK(close.back() >= 0.556);
  CHECK(close.size() <= 8);
  CHECK(linear_ticks(3, 3, 5).size() >= 2);
  CHECK(log_ticks(14, 5000) == std::vector<double>{10, 100, 1000, 10000});
  CHECK(log_ticks(0.15, 6) == std::vector<double>{0.1, 0.2, 0.5, 1, 2, 5, 10});
}

TEST_CASE("numbers for people have about three digits and a unit") {
  CHECK(human_number(0) == "0");
  CHECK(human_number(0.5174) == "0.517");
  CHECK(human_number(12.34) == "12.3");
  CHECK(human_number(410) == "410");
  CHECK(human_number(1900) == "1,900");
  CHECK(human_number(88234) == "88.2 k");
  CHECK(human_number(101000) == "101 k");
  CHECK(human_number(1204000) == "1.20 M");
  CHECK(human_number(4588040) == "4.59 M");
  CHECK(tick_label(50000) == "50 k");
  CHECK(tick_label(0.5) == "0.5");
  CHECK(tick_label(0.25) == "0.25");
  CHECK(tick_label(100) == "100");
}

}  // namespace
}  // namespace troupe::training
