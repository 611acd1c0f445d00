// A real Prometheus reads the metrics of a running job.
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include <troupe/runtime/json.hpp>

#include "actors/process.hpp"
#include "http.hpp"
#include "job.hpp"
#include "tools/command.hpp"

using namespace troupe;
using namespace troupe::test;
using namespace std::chrono_literals;

namespace {

/// Debian's, or one on the path; empty: there is none.
std::string prometheus_program() {
  if (access(TROUPE_PROMETHEUS, X_OK) == 0) return TROUPE_PROMETHEUS;
  const char* path = std::getenv("PATH");
  std::istringstream folders(path ? path : "");
  for (std::string folder; std::getline(folders, folder, ':');)
    if (access((folder + "/prometheus").c_str(), X_OK) == 0) return folder + "/prometheus";
  return {};
}

/// The sum over all series that answer `query`; -1: there are none.
double ask(const std::string& prometheus, const std::string& query) {
  const HttpAnswer answer = http_get(prometheus, "/api/v1/query?query=" + query, 30s);
  const auto json = parse_json(answer.body, "the answer");
  if (!json || json->value("status", "") != "success") return -1;
  double sum = -1;
  for (const auto& each : json->at("data").at("result"))
    sum = std::max(sum, 0.0) + std::stod(each.at("value").at(1).get<std::string>());
  return sum;
}

}  // namespace

TEST_CASE("a real Prometheus reads the series of a running job") {
  const std::string program = prometheus_program();
  if (program.empty()) {
    MESSAGE("skipped: no prometheus at " TROUPE_PROMETHEUS " nor on the path; ./dev test brings Debian's");
    return;
  }
  const command_test::Folder folder;
  SmallJob job;
  const std::string config =
      folder.write("prometheus.yml",
                   "global: {scrape_interval: 200ms, scrape_timeout: 200ms}\n"
                   "scrape_configs:\n"
                   "  - job_name: troupe\n"
                   "    static_configs: [{targets: ['" +
                       job.server->metrics().address() + "', '" + job.worker->metrics().address() + "']}]\n");
  Process prometheus({"/bin/sh", "-c",
                      "exec \"$0\" --config.file=\"$1\" --storage.tsdb.path=\"$2\" "
                      "--web.listen-address=127.0.0.1:0 2>&1",
                      program, config, folder / "data"});
  std::string address;
  while (address.empty()) {
    const std::string line = prometheus.line();
    REQUIRE_MESSAGE(!line.empty(), "it ended, or did not say where it listens");
    const std::string mark = "msg=\"Listening on\" address=";
    if (const auto at = line.find(mark); at != std::string::npos) address = line.substr(at + mark.size());
  }
  // Both nodes have been read when both have a sample of what was called before.
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  const auto becomes = [&](const std::string& query, double wanted) {
    double last = -1;
    while (last != wanted && std::chrono::steady_clock::now() < deadline) {
      last = ask(address, query);
      if (last != wanted) std::this_thread::yield();
    }
    CHECK_MESSAGE(last == wanted, query);
  };
  becomes("up", 2);
  becomes("troupe_node_answers", 2);
  becomes("troupe_rpc_client_calls_total%7Bfunction=%22plus%22,node=%22worker-0%22%7D", 5);
  becomes("troupe_rpc_server_calls_total%7Bfunction=%22plus%22,node=%22server-0%22%7D", 5);
  becomes("troupe_rpc_client_completed_total%7Bcode=%22FAILED_PRECONDITION%22%7D", 1);
  becomes("troupe_rpc_client_duration_seconds_count%7Bfunction=%22plus%22%7D", 5);
  becomes("troupe_table_pushes_total", 2);
  job.work();
  becomes("troupe_rpc_client_calls_total%7Bfunction=%22plus%22,node=%22worker-0%22%7D", 10);
  becomes("troupe_table_pushes_total", 4);
  CHECK(ask(address, "histogram_quantile(0.99,sum%20by(le)(troupe_rpc_client_duration_seconds_bucket))") > 0);
}
