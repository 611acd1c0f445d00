// Metrics as text over HTTP.
#include <signal.h>

#include <atomic>
#include <fstream>
#include <future>
#include <set>
#include <thread>

#include <troupe/actors/node_config.hpp>
#include <troupe/runtime/json.hpp>

#include "exposition.hpp"
#include "http.hpp"
#include "job.hpp"

using namespace troupe;
using namespace troupe::test;
using namespace std::chrono_literals;

namespace {
Exposition scrape(Node& node) {
  const HttpAnswer answer = http_get(node.metrics().address(), "/metrics", 30s);
  REQUIRE(answer.status == 200);
  return Exposition(answer.body);
}
}  // namespace

TEST_CASE("metrics over HTTP: what was called can be read, with its labels") {
  const SmallJob job;
  const Exposition worker = scrape(*job.worker);
  const Exposition::Labels plus{{"node", "worker-0"}, {"function", "plus"}};
  CHECK(worker.sum("troupe_node_answers") == 1);
  CHECK(worker.sum("troupe_node_info", {{"role", "worker"}}) == 1);
  CHECK(worker.sum("troupe_rpc_client_calls_total", plus) == 5);
  CHECK(worker.sum("troupe_rpc_client_completed_total", {{"function", "plus"}, {"code", "OK"}}) == 5);
  CHECK(worker.sum("troupe_rpc_client_completed_total",
                   {{"function", "refuse"}, {"code", "FAILED_PRECONDITION"}}) == 1);
  CHECK(worker.sum("troupe_rpc_client_duration_seconds_count", plus) == 5);
  CHECK(worker.sum("troupe_rpc_client_duration_seconds_sum", plus) > 0);
  CHECK(worker.sum("troupe_rpc_client_duration_seconds_sum", plus) < 30);
  CHECK(worker.sum("troupe_rpc_client_duration_seconds_bucket", {{"function", "plus"}, {"le", "+Inf"}}) == 5);
  const Exposition server = scrape(*job.server);
  CHECK(server.sum("troupe_rpc_server_calls_total", {{"function", "push"}}) == 2);
  CHECK(server.sum("troupe_table_pushes_total", {{"table", "words"}}) == 2);
  CHECK(server.sum("troupe_table_staleness_updates_count", {{"table", "words"}}) == 2);
  CHECK(server.sum("troupe_table_staleness_updates_sum", {{"table", "words"}}) == 1);
  CHECK(server.sum("troupe_table_staleness_updates_bucket", {{"le", "0"}}) == 1);
  CHECK(server.sum("troupe_table_staleness_updates_bucket", {{"le", "1"}}) == 2);
  for (const char* side : {"client", "server"}) {
    const Exposition& asked = side == std::string("client") ? worker : server;
    const std::string prefix = "troupe_rpc_" + std::string(side) + "_";
    const double open = asked.sum(prefix + "open_seconds_total", {{"function", "push"}});
    CHECK(open > 0);
    CHECK(open <= asked.sum(prefix + "duration_seconds_sum", {{"function", "push"}}));
  }
  const Exposition::Labels caller{{"table", "words"}, {"caller", "worker-0"}};
  CHECK(server.sum("troupe_table_caller_work_seconds_total", caller) > 0);
  CHECK(server.sum("troupe_table_caller_bound_seconds_total", caller) == 0);  // there is none
  const double age = server.sum("troupe_node_age_seconds");
  CHECK(server.sum("troupe_loop_seconds_total") == doctest::Approx(age));
}

TEST_CASE("metrics over HTTP: names end as Prometheus wants it") {
  const SmallJob job;
  const Exposition server = scrape(*job.server);
  CHECK(server.types().size() > 30);
  for (const auto& family : server.types()) {
    const std::string& name = family.first;
    CAPTURE(name);
    if (name.rfind("troupe_", 0) != 0) continue;  // the library's own
    CHECK((family.second == "counter") == name.ends_with("_total"));
  }
}

TEST_CASE("metrics over HTTP: the registry says where each node serves them") {
  const SmallJob job;
  for (const Member& member : job.server->membership().members) {
    REQUIRE(member.metadata.contains("metrics_address"));
    const HttpAnswer answer = http_get(member.metadata.at("metrics_address"), "/metrics", 30s);
    CHECK(contains(answer.body, "node=\"" + member.name + "\""));
  }
}

TEST_CASE("metrics over HTTP: a loop that is held is told within bounds, and keeps nobody") {
  const SmallJob job;
  std::promise<void> held, free;
  job.worker->loop().post([&] {
    held.set_value();
    free.get_future().wait();
  });
  REQUIRE(held.get_future().wait_for(kPatience) == std::future_status::ready);
  const Exposition busy = scrape(*job.worker);
  CHECK(busy.sum("troupe_node_answers", {{"node", "worker-0"}}) == 0);
  CHECK(busy.sum("troupe_rpc_client_calls_total") == -1);
  free.set_value();
  CHECK(scrape(*job.worker).sum("troupe_node_answers") == 1);
}

TEST_CASE("metrics over HTTP: a node with none serves none, and shuts down while others read") {
  RealCluster cluster;
  Node& silent = cluster.add("silent");
  CHECK(silent.metrics().address().empty());
  auto node = cluster.start({.name = "node", .metrics_address = "127.0.0.1:0"});
  REQUIRE_MESSAGE(node.ok(), text_of(node));
  const std::string address = (*node)->metrics().address();
  std::atomic<bool> over{false};
  auto reader = std::async(std::launch::async, [&] {
    int read = 0;
    while (!over) read += http_get(address, "/metrics", 30s).status == 200 ? 1 : 0;
    return read;
  });
  REQUIRE(http_get(address, "/metrics", 30s).status == 200);
  node->reset();
  over = true;
  CHECK(reader.get() >= 0);
  CHECK(http_get(address, "/metrics", 1s).status == 0);
}

TEST_CASE("metrics over HTTP: who asks for nothing, or nonsense, harms nobody") {
  using SignalHandler = void (*)(int);
  const SignalHandler before = ::signal(SIGPIPE, SIG_DFL);
  RealCluster cluster;
  auto node = cluster.start({.name = "node", .metrics_address = "127.0.0.1:0"});
  REQUIRE_MESSAGE(node.ok(), text_of(node));
  const std::string address = (*node)->metrics().address();
  CHECK(http_get(address, "/other", 30s).status == 404);
  CHECK(http_get(address, "/" + std::string(100'000, 'x'), 30s).status != 200);
  CHECK(http_get(address, "\r\n\r\n\xff GET", 30s).status != 200);
  for (int i = 0; i < 50; ++i) (void)http_get(address, "/metrics", 0s);  // hangs up at once
  const Connected silent(address), silent_too(address);
  CHECK(http_get(address, "/metrics", 30s).status == 200);
  node->reset();
  const bool is_as_it_was = ::signal(SIGPIPE, before) == SIG_DFL;
  CHECK(is_as_it_was);
}

TEST_CASE("metrics over HTTP: who asks byte by byte does not hold up the node's end") {
  RealCluster cluster;
  auto node = cluster.start({.name = "node", .metrics_address = "127.0.0.1:0"});
  REQUIRE_MESSAGE(node.ok(), text_of(node));
  const Connected slow((*node)->metrics().address());
  REQUIRE(slow);
  std::promise<void> begun, over;
  std::thread dripping([&] {
    const auto end = over.get_future();
    for (int i = 0; i < 300 && end.wait_for(50ms) != std::future_status::ready; ++i) {
      (void)send(slow.fd(), "G", 1, MSG_NOSIGNAL);
      if (i == 1) begun.set_value();
    }
  });
  CHECK(begun.get_future().wait_for(kPatience) == std::future_status::ready);
  const auto start = std::chrono::steady_clock::now();
  node->reset();
  CHECK(std::chrono::steady_clock::now() - start < 5s);
  over.set_value();
  dripping.join();
}

TEST_CASE("metrics over HTTP: the environment can say where") {
  ConfigSchema schema;
  add_node_settings(schema);
  const char* const environment[] = {"TROUPE_NODE_METRICS_ADDRESS=127.0.0.1:9464", nullptr};
  const auto config = Config::load(std::move(schema), "", environment, {});
  REQUIRE_MESSAGE(config.ok(), text_of(config));
  CHECK(node_options(*config, {}).metrics_address == "127.0.0.1:9464");
}

TEST_CASE("metrics over HTTP: a bad address, or one in use, is one clear error") {
  RealCluster cluster;
  cluster.add("first");
  for (const char* bad : {"nonsense", "127.0.0.1", "127.0.0.1:99999", "example.org:80", "1.2.3:4", "-1"}) {
    CAPTURE(bad);
    const auto node = cluster.start({.name = "node", .metrics_address = bad});
    CHECK(code_of(node) == Code::kInvalidArgument);
    CHECK(contains(text_of(node), "127.0.0.1:9464"));
  }
  auto one = cluster.start({.name = "one", .metrics_address = "0"});
  REQUIRE_MESSAGE(one.ok(), text_of(one));
  CHECK((*one)->metrics().address().rfind("127.0.0.1:", 0) == 0);
  const auto two = cluster.start({.name = "two", .metrics_address = (*one)->metrics().address()});
  CHECK(code_of(two) == Code::kUnavailable);
  CHECK(contains(text_of(two), "in use"));
}

namespace {
/// All names of series in the expressions of a dashboard's panels and variables.
void collect_series(const Json& json, std::set<std::string>& names) {
  if (json.is_structured())
    for (const auto& each : json) collect_series(each, names);
  if (!json.is_string()) return;
  const std::string text = json.get<std::string>();
  for (auto at = text.find("troupe_"); at != std::string::npos; at = text.find("troupe_", at + 1)) {
    const auto end = text.find_first_not_of("abcdefghijklmnopqrstuvwxyz_0123456789", at);
    names.insert(text.substr(at, end - at));
  }
}
}  // namespace

TEST_CASE("metrics over HTTP: every series of the dashboard and of the page on observation is there") {
  const SmallJob job;
  std::set<std::string> served = scrape(*job.worker).names();
  served.merge(scrape(*job.server).names());
  const auto dashboard = read_json_file(TROUPE_SOURCE "/docs/grafana-dashboard.json");
  REQUIRE_MESSAGE(dashboard.ok(), text_of(dashboard));
  std::set<std::string> wanted;
  collect_series(*dashboard, wanted);
  CHECK(wanted.size() > 15);
  for (const std::string& name : wanted) CHECK_MESSAGE(served.contains(name), name);

  // The page names each family once, as the first cell of a row.
  std::set<std::string> described;
  std::ifstream page(TROUPE_SOURCE "/docs/observation.md");
  for (std::string line; std::getline(page, line);)
    if (line.rfind("| `troupe_", 0) == 0) described.insert(line.substr(3, line.find('`', 3) - 3));
  std::map<std::string, std::string> families = scrape(*job.worker).types();
  families.merge(std::map<std::string, std::string>(scrape(*job.server).types()));
  for (const auto& family : families) {
    const std::string& name = family.first;
    if (name.rfind("troupe_", 0) == 0) CHECK_MESSAGE(described.contains(name), name << " is not described");
  }
  for (const std::string& name : described) CHECK_MESSAGE(families.contains(name), name << " is not served");
}
