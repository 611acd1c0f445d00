// `troupe top` beside a running job.
#include <netinet/in.h>
#include <sys/socket.h>

#include <string>

#include <troupe/runtime/unique_fd.hpp>

#include "job.hpp"
#include "tools/command.hpp"
#include "tools/terminal.hpp"
#include "top_keys.hpp"
#include "top_table.hpp"

using namespace troupe;
using namespace troupe::test;
using namespace troupe::tools;
using command_test::Command;
using command_test::Finished;
using command_test::run;

TEST_CASE("top: numbers and durations are short") {
  CHECK(short_number(0) == "0");
  CHECK(short_number(7.2) == "7.20");
  CHECK(short_number(941) == "941");
  CHECK(short_number(1240) == "1.24k");
  CHECK(short_number(999.6) == "1.00k");
  CHECK(short_number(52.1e6) == "52.1M");
  CHECK(short_duration(0) == "-");
  CHECK(short_duration(850) == "850ns");
  CHECK(short_duration(1200) == "1.20us");
  CHECK(short_duration(2.1e9) == "2.10s");
}

namespace {

/// Takes connections, as the kernel does for whoever listens, and says nothing on them.
class SilentPort {
 public:
  SilentPort() : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof at;
    REQUIRE(::bind(fd_.get(), reinterpret_cast<sockaddr*>(&at), sizeof at) == 0);
    REQUIRE(::listen(fd_.get(), 4) == 0);
    REQUIRE(::getsockname(fd_.get(), reinterpret_cast<sockaddr*>(&at), &size) == 0);
    address_ = "127.0.0.1:" + std::to_string(ntohs(at.sin_port));
  }
  const std::string& address() const { return address_; }

 private:
  UniqueFd fd_;
  std::string address_;
};

NodeView view_of(std::int64_t age_ns, std::uint64_t calls) {
  NodeMetrics metrics;
  metrics.age_ns = age_ns;
  metrics.loop.busy_ns = age_ns / 4;
  metrics.endpoint.bytes_sent = calls * 1'000'000;
  rpc::FunctionMetrics function;
  function.function = "push";
  function.side = rpc::CallSide::kServer;
  function.calls = calls + 3;
  function.in_flight = 3;
  function.ended = {calls, 0, 0, calls / 10};
  function.durations = {0, calls};
  metrics.functions.push_back(function);
  TableStats table;
  table.staleness_counts = {0, 0, calls};
  metrics.tables.push_back(table);
  Member member;
  member.node_id = 7;
  member.name = "ps-0";
  member.role = "server";
  return {member, metrics};
}

TEST_CASE("top: where a node has a GPU its memory and the rate of device tensors are shown") {
  NodeView before = view_of(1'000'000'000, 10);
  NodeView now = view_of(3'000'000'000, 10);
  for (const std::string& line : top_lines(top_rows({before}, {now}))) CHECK_FALSE(contains(line, "GPU"));
  now.metrics->gpus = {{0, 3'000'000'000, 5, {}}, {1, 1'000'000'000, 5, {}}};
  now.metrics->device_calls.mapped_bytes = 5'000'000;
  now.metrics->device_calls.arrived_bytes = 1'000'000;
  const auto rows = top_rows({before}, {now});
  CHECK(rows.at(0).gpu_memory == 4e9);
  CHECK(rows[0].gpu_bytes == doctest::Approx(3e6));
  const auto lines = top_lines(rows);
  CHECK(lines.at(0).ends_with("GPU MB  GPU MB/s"));
  CHECK(lines.at(1).ends_with("4.00k      3.00"));
}

TEST_CASE("top: lines fit on the terminal, and what does not is counted") {
  const std::vector<std::string> lines{"cluster", "NODE ROLE", "a", "b", "c", "d"};
  CHECK(fit(lines, 80, 6) == lines);
  CHECK(fit(lines, 80, 5) ==
        std::vector<std::string>{"cluster", "NODE ROLE", "a", "b", "... and 2 more; make the window higher"});
  CHECK(fit(lines, 4, 6) == std::vector<std::string>{"clus", "NODE", "a", "b", "c", "d"});
  CHECK(fit({"h\u00f6chst"}, 2, 1) == std::vector<std::string>{"h\u00f6"});
}

}  // namespace

namespace {

std::vector<TopRow> three_nodes() {
  std::vector<TopRow> rows(3);
  rows[0].node = "b", rows[0].role = "x", rows[0].calls_out = 5, rows[0].busy = 0.1;
  rows[1].node = "a", rows[1].role = "y", rows[1].calls_out = 1, rows[1].busy = 0.9;
  rows[2].node = "c", rows[2].role = "x", rows[2].calls_out = 5, rows[2].busy = 0.5;
  return rows;
}

std::string order_after(const std::string& keys) {
  TopView view;
  view.type(keys, 1);
  auto rows = three_nodes();
  sort(rows, view);
  std::string names;
  for (const TopRow& row : rows) names += row.node;
  return names;
}

TEST_CASE("top: a key sorts, the same again turns it round") {
  CHECK(order_after("") == "abc");
  CHECK(order_after("o") == "bca");
  CHECK(order_after("oo") == "acb");
  CHECK(order_after("ooo") == "bca");
  CHECK(order_after("b") == "acb");
  CHECK(order_after("r") == "bca");
  CHECK(order_after("bn") == "abc");
}

TEST_CASE("top: q quits, keys that mean nothing do nothing, also those that come as several bytes") {
  TopView view;
  view.type("xyz\033[15~\033[1;5C\033", 1);
  CHECK_FALSE(view.quit);
  CHECK(view.order == TopOrder::kName);
  view.type("q", 1);
  CHECK(view.quit);
}

TEST_CASE("top: more nodes than lines scroll, and the last line says where one is") {
  std::vector<TopRow> rows(20);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i].node = "n" + std::to_string(10 + i);
  TopView view;
  const auto nodes_after = [&](const std::string& keys) {
    view.type(keys, 5);
    const auto lines = screen_lines("cluster", rows, view, 8);
    REQUIRE(lines.size() == 8);
    CHECK(lines[0] == "cluster");
    CHECK(contains(lines[1], "NODE"));
    CHECK(contains(lines[7], "nodes " + std::to_string(view.first + 1) + " to " +
                                 std::to_string(view.first + 5) + " of 20"));
    return lines[2].substr(0, 3) + lines[6].substr(0, 3);
  };
  CHECK(nodes_after("") == "n10n14");
  CHECK(nodes_after("\033[B") == "n11n15");
  CHECK(nodes_after("\033[6~") == "n16n20");
  CHECK(nodes_after("\033OA") == "n15n19");
  CHECK(nodes_after("\033[F") == "n25n29");
  CHECK(nodes_after("jjjj\033[6~") == "n25n29");
  CHECK(nodes_after("u") == "n20n24");
  CHECK(nodes_after("\033[H") == "n10n14");
  CHECK(nodes_after("k") == "n10n14");
  // All fit: there is nothing to scroll.
  view.type("G", 5);
  const auto all = screen_lines("cluster", rows, view, 40);
  CHECK(all.size() == 23);
  CHECK(view.first == 0);
  CHECK(contains(all.back(), "q: quit"));
  view.type("h", 5);
  CHECK(contains(screen_lines("cluster", rows, view, 40).back(), "scroll"));
}

}  // namespace

TEST_CASE("top: in a terminal q ends it, keys show at once, and the terminal is put back") {
  SmallJob job;
  command_test::OnTerminal top(
      {TROUPE_PROGRAM, "top", "--address", job.server->address(), "--interval", "3600"}, {{"TERM", "xterm"}});
  REQUIRE(top.wait_for("worker-0"));
  top.forget();
  top.type("h");
  CHECK(top.wait_for("arrows"));
  top.type("q");
  CHECK(top.finish() == 0);
  CHECK(contains(top.screen(), "\033[?1049l"));
}

TEST_CASE("top: on a dumb terminal it prints lines, without escape sequences") {
  SmallJob job;
  command_test::OnTerminal top(
      {TROUPE_PROGRAM, "top", "--address", job.server->address(), "--interval", "0.1"}, {{"TERM", "dumb"}});
  REQUIRE(top.wait_for("worker-0"));
  top.type("\x03");
  CHECK(top.finish() == 130);
  CHECK(!contains(top.screen(), "\033"));
}

TEST_CASE("top: rates are those between two looks at one life of a node") {
  const std::vector<NodeView> before{view_of(10'000'000'000, 100)}, now{view_of(12'000'000'000, 300)};
  const auto rows = top_rows(before, now);
  REQUIRE(rows.size() == 1);
  CHECK(rows[0].calls_in == doctest::Approx(100));
  CHECK(rows[0].calls_out == 0);
  CHECK(rows[0].bytes == doctest::Approx(100e6));
  CHECK(rows[0].errors == doctest::Approx(10));
  CHECK(rows[0].in_flight == 3);
  CHECK(rows[0].busy == doctest::Approx(0.25));
  CHECK(rows[0].in_p50_ns == doctest::Approx(1500));
  CHECK(rows[0].staleness_p50.value() == 2);
  std::vector<NodeView> other = now;
  other[0].member.node_id = 8;
  CHECK(!top_rows(before, other)[0].has_rates);
}

TEST_CASE("top: a node that does not answer keeps its line") {
  std::vector<NodeView> now{view_of(1, 1)};
  now[0].metrics = Error{Code::kDeadlineExceeded, "no answer in time"};
  const auto lines = top_lines(top_rows({}, now));
  REQUIRE(lines.size() == 2);
  CHECK(contains(lines[1], "ps-0"));
  CHECK(contains(lines[1], "busy"));
  CHECK(lines[0].size() == lines[1].size());
}

TEST_CASE("top: one look at a running job has a line for each node, and the job does not notice") {
  SmallJob job;
  const auto version = job.server->membership().version;
  const Finished top = run({"top", "--address", job.server->address(), "--once", "--interval", "0.1"});
  CHECK(top.code == 0);
  CHECK_MESSAGE(top.err.empty(), top.err);
  CHECK(contains(top.out, "2 nodes"));
  CHECK(contains(top.out, "server-0  server  up"));
  CHECK(contains(top.out, "worker-0  worker  up"));
  CHECK(!contains(top.out, "\033"));
  CHECK(job.server->membership().version == version);
  job.work();
}

TEST_CASE("top: it looks again and again, and ends with Ctrl-C") {
  SmallJob job;
  Command top({"top", "--address", job.server->address(), "--interval", "0.1"});
  const auto deadline = command_test::SteadyClock::now() + command_test::kPatience;
  REQUIRE(top.wait_for("worker-0"));
  while (command_test::count(top.out(), "worker-0") < 3 && command_test::SteadyClock::now() < deadline)
    REQUIRE(top.read_more());
  top.kill(SIGINT);
  CHECK(top.finish() == 130);
  CHECK_MESSAGE(top.err().empty(), top.err());
}

TEST_CASE("top: when the cluster ends it says so") {
  SmallJob job;
  Command top({"top", "--address", job.server->address(), "--interval", "0.1"});
  REQUIRE(top.wait_for("worker-0"));
  job.worker->shutdown();
  job.server->shutdown();
  CHECK(top.finish() == 1);
  CHECK(contains(top.err(), "does not answer any more"));
}

TEST_CASE("top: a cluster that cannot be reached is one clear line") {
  const Finished nobody = run({"top", "--address", "127.0.0.1:1", "--once"});
  CHECK(nobody.code == 1);
  CHECK(contains(nobody.err, "no first node answers at 127.0.0.1:1"));
  CHECK(contains(nobody.err, "nobody listens there"));
  // Of one that says nothing all that is known is that, and what may be the cause.
  const SilentPort silent;
  const Finished unheard = run({"top", "--address", silent.address(), "--once", "--timeout", "0.2"});
  CHECK(unheard.code == 1);
  CHECK(contains(unheard.err, "no first node answers at " + silent.address() + " within 200ms"));
  CHECK(contains(unheard.err, "firewall"));
  CHECK(command_test::count(nobody.err, "\n") == 1);
  CHECK(run({"top", "--address", "nonsense"}).code == 2);
  CHECK(run({"top"}).code == 2);
  CHECK(run({"top", "--address", "127.0.0.1:1", "--secret-file", "/nowhere"}).code != 0);
}

TEST_CASE("top: a cluster with a secret lets in who knows it") {
  const command_test::Folder folder;
  RealCluster cluster;
  const std::string secret = "sixteen bytes or more";
  auto node = cluster.start({.name = "node", .secret = secret});
  REQUIRE_MESSAGE(node.ok(), text_of(node));
  const std::string file = folder.write("secret", secret), other = folder.write("other", secret + "?");
  for (const std::string& each : {file, other})
    std::filesystem::permissions(each,
                                 std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  const std::vector<std::string> flags{"top", "--once", "--interval", "0.1", "--address", (*node)->address()};
  const auto with = [&](const std::string& path) {
    std::vector<std::string> all = flags;
    all.insert(all.end(), {"--secret-file", path});
    return run(all);
  };
  CHECK(with(file).code == 0);
  CHECK(with(other).code == 1);
  CHECK(run(flags).code == 1);
}

TEST_CASE("top: it tells Prometheus where the nodes serve metrics") {
  SmallJob job;
  const Finished targets = run({"top", "--address", job.server->address(), "--targets"});
  CHECK(targets.code == 0);
  CHECK(contains(targets.out, job.server->metrics().address()));
  CHECK(contains(targets.out, job.worker->metrics().address()));
}
