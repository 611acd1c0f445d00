// Three hosts on one machine: network namespaces on a bridge, a node in each, calls over TCP, a cut link.
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "cluster.hpp"
#include "process.hpp"
#include "support/temporary_folder.hpp"

using namespace troupe;
using namespace troupe::test;

namespace {

bool run(const std::string& command) {
  return std::system((command + " >/dev/null 2>&1").c_str()) == 0;
}

/// Three namespaces, each with one end of a cable ("eth0", 10.231.7.1 to .3) to a bridge in a fourth. Gone at
/// the end, with everything in them.
class Lan {
 public:
  /// Whether it could be made; why not, if not.
  std::string make() {
    if (geteuid() != 0) return "needs root";
    if (!run("ip -V")) return "there is no ip command (package iproute2)";
    if (!run("ip netns add " + hub())) return "network namespaces cannot be made here";
    if (!run("ip -n " + hub() + " link add bridge0 type bridge") ||
        !run("ip -n " + hub() + " link set bridge0 up"))
      return "no bridge can be made here";
    for (int i = 1; i <= 3; ++i) {
      const std::string port = "port" + std::to_string(i);
      const bool made =
          run("ip netns add " + host(i)) &&
          run("ip -n " + hub() + " link add " + port + " type veth peer name eth0 netns " + host(i)) &&
          run("ip -n " + hub() + " link set " + port + " master bridge0 up") &&
          run("ip -n " + host(i) + " addr add " + address(i) + "/24 dev eth0") &&
          run("ip -n " + host(i) + " addr add " + address6(i) + "/64 dev eth0 nodad") &&
          run("ip -n " + host(i) + " link set eth0 up") && run("ip -n " + host(i) + " link set lo up");
      if (!made) return "no veth pairs can be made here";
    }
    if (!run("ip netns exec " + host(1) + " true")) return "no program can be run in a namespace here";
    return "";
  }
  Lan() = default;
  ~Lan() {
    for (int i = 1; i <= 3; ++i) run("ip netns del " + host(i));
    run("ip netns del " + hub());
  }
  Lan(const Lan&) = delete;
  Lan& operator=(const Lan&) = delete;

  std::string host(int i) const { return "troupe-" + std::to_string(getpid()) + "-" + std::to_string(i); }
  static std::string address(int i) { return "10.231.7." + std::to_string(i); }
  static std::string address6(int i) { return "fd77:231::" + std::to_string(i); }
  bool cut(int i) const { return run("ip -n " + host(i) + " link set eth0 down"); }

 private:
  std::string hub() const { return "troupe-" + std::to_string(getpid()) + "-hub"; }
};

/// A node on one of the hosts.
struct HostNode {
  int host = 1;
  NodeProcess node;
  std::string hosts_file = "";  // in place of the machine's; empty: that

  std::vector<std::string> command(const Lan& lan) const {
    std::vector<std::string> words{
        "ip",
        "netns",
        "exec",
        lan.host(host),
        "sh",
        "-c",
        (hosts_file.empty() ? "" : "mount --bind " + hosts_file + " /etc/hosts && ") + "exec \"$@\"",
        "sh"};
    for (const std::string& word : node.command()) words.push_back(word);
    return words;
  }
};

/// The cluster's secret, in the environment of the processes that are started meanwhile.
struct Secret {
  Secret() { setenv("TROUPE_NODE_SECRET", "known to three hosts only", 1); }
  ~Secret() { unsetenv("TROUPE_NODE_SECRET"); }
  Secret(const Secret&) = delete;
  Secret& operator=(const Secret&) = delete;
};

/// "error CODE ms text" of a helper, taken apart.
struct Outcome {
  explicit Outcome(const std::string& line) : text(line) {
    std::istringstream words(line);
    std::string word;
    words >> word;
    ok = word == "value";
    if (!ok) words >> code >> milliseconds;
  }
  std::string text;
  bool ok = false;
  std::string code;
  long milliseconds = 0;
};

}  // namespace

TEST_CASE("nodes on three hosts over TCP: calls go across, and a cut link ends its own calls only") {
  Lan lan;
  if (const std::string why = lan.make(); !why.empty()) {
    MESSAGE("skipped: " << why);
    return;
  }
  {
    Process keyless({"ip", "netns", "exec", lan.host(1), TROUPE_TEST_NODE, "keyless", Lan::address(1) + ":0",
                     "", "tcp", "eth0", "1000"});
    const std::string refusal = keyless.line();
    CHECK_MESSAGE(contains(refusal, "failed FAILED_PRECONDITION"), refusal);
  }
  const Secret secret;
  constexpr int kSilenceMs = 1000;
  std::vector<std::unique_ptr<Process>> nodes;
  std::string registry;
  for (int i = 1; i <= 3; ++i) {
    std::vector<std::string> command{"ip", "netns", "exec", lan.host(i)};
    const auto node = NodeProcess{.name = "node-" + std::to_string(i),
                                  .listen = Lan::address(i) + ":0",
                                  .registry = registry,
                                  .transports = "tcp",
                                  .net_devices = "eth0",
                                  .silence_ms = kSilenceMs}
                          .command();
    command.insert(command.end(), node.begin(), node.end());
    nodes.push_back(std::make_unique<Process>(command));
    const std::string ready = nodes.back()->line();
    REQUIRE_MESSAGE(ready.starts_with("ready " + Lan::address(i)), ready);
    if (registry.empty()) registry = ready.substr(6);
  }
  const auto call = [&](int from, int to, int timeout_ms = 20'000) {
    nodes[static_cast<std::size_t>(from) - 1]->tell("call node-" + std::to_string(to) + " " +
                                                    std::to_string(timeout_ms));
  };
  const auto outcome = [&](int from) { return Outcome(nodes[static_cast<std::size_t>(from) - 1]->line()); };

  for (int from = 1; from <= 3; ++from)
    for (int to = 1; to <= 3; ++to) {
      call(from, to);
      const Outcome first = outcome(from);
      CHECK_MESSAGE(first.ok, first.text);
    }

  REQUIRE(lan.cut(3));
  constexpr int kHastyMs = 300;
  call(3, 1, kHastyMs);
  for (int to : {1, 2}) call(3, to);
  call(1, 3);
  call(2, 3);
  for (int from : {1, 2}) {
    const Outcome cut_off = outcome(from);
    CHECK_FALSE(cut_off.ok);
    CHECK_MESSAGE(cut_off.code == "UNAVAILABLE", cut_off.text);
    CHECK_MESSAGE(cut_off.milliseconds <= kSilenceMs + 1000, cut_off.text);
  }
  // So do the calls of the one that is cut off: by the deadline, then, as it finds the others silent, for
  // that.
  const Outcome hasty = outcome(3);
  CHECK_MESSAGE(hasty.code == "DEADLINE_EXCEEDED", hasty.text);
  CHECK_MESSAGE(hasty.milliseconds >= kHastyMs, hasty.text);
  CHECK_MESSAGE(hasty.milliseconds <= kHastyMs + 1000, hasty.text);
  for (int to : {1, 2}) {
    CAPTURE(to);
    const Outcome own = outcome(3);
    CHECK_MESSAGE(own.code == "UNAVAILABLE", own.text);
    CHECK_MESSAGE(own.milliseconds <= kSilenceMs + 1000, own.text);
  }
  // The others go on, and know.
  for (int from : {1, 2}) {
    call(from, 3 - from);
    const Outcome others = outcome(from);
    CHECK_MESSAGE(others.ok, others.text);
    call(from, 3);
    const Outcome late = outcome(from);
    CHECK_MESSAGE(late.code == "UNAVAILABLE", late.text);
  }
  call(3, 1);
  const Outcome late = outcome(3);
  CHECK_MESSAGE(late.code == "UNAVAILABLE", late.text);
  CHECK_MESSAGE(late.milliseconds <= 1000, late.text);
  for (auto& node : nodes) CHECK(node->end() == 0);
}

TEST_CASE("nodes on hosts find each other by names, with whatever addresses these have, and when they have") {
  Lan lan;
  if (const std::string why = lan.make(); !why.empty()) {
    MESSAGE("skipped: " << why);
    return;
  }
  const Secret secret;
  const TemporaryFolder folder;
  Process first(
      HostNode{.host = 1, .node = {.name = "first", .listen = Lan::address(1) + ":0"}}.command(lan));
  const std::string ready = first.line();
  REQUIRE_MESSAGE(ready.starts_with("ready " + Lan::address(1) + ":"), ready);
  const std::string port = ready.substr(ready.rfind(':'));

  // It listens at one of the two; then, the first one is that of no machine.
  folder.write("hosts", Lan::address6(1) + " dual\n" + Lan::address(1) + " dual\n" + Lan::address(99) +
                            " half\n" + Lan::address(1) + " half\n");
  for (const std::string name : {"dual", "half"}) {
    CAPTURE(name);
    const auto begun = std::chrono::steady_clock::now();
    Process joining(
        HostNode{.host = 2,
                 .node = {.name = name, .listen = Lan::address(2) + ":0", .registry = name + port},
                 .hosts_file = folder / "hosts"}
            .command(lan));
    const std::string joined = joining.line();
    CHECK_MESSAGE(joined.starts_with("ready "), joined);
    CHECK(std::chrono::steady_clock::now() - begun < std::chrono::seconds(8));
    CHECK(joining.end() == 0);
  }

  // A name that is there later.
  folder.write("later", "127.0.0.1 localhost\n");
  const Variable join_timeout("TROUPE_NODE_JOIN_TIMEOUT", "30s");
  Process waiting(
      HostNode{.host = 3,
               .node = {.name = "waiting", .listen = Lan::address(3) + ":0", .registry = "late" + port},
               .hosts_file = folder / "later"}
          .command(lan));
  CHECK(waiting.runs());
  folder.write("later", "127.0.0.1 localhost\n" + Lan::address(1) + " late\n");
  const std::string joined = waiting.line();
  CHECK_MESSAGE(joined.starts_with("ready "), joined);
  CHECK(waiting.end() == 0);
  CHECK(first.end() == 0);
}

TEST_CASE("nodes on hosts advertise what others can use, or do not start") {
  Lan lan;
  if (const std::string why = lan.make(); !why.empty()) {
    MESSAGE("skipped: " << why);
    return;
  }
  const Secret secret;
  Process first(HostNode{.host = 1, .node = {.name = "first", .listen = "0.0.0.0:0"}}.command(lan));
  const std::string ready = first.line();
  REQUIRE_MESSAGE(ready.starts_with("ready " + Lan::address(1) + ":"), ready);
  const std::string registry = ready.substr(6);
  {
    Process refused(HostNode{.host = 2, .node = {.name = "refused", .registry = registry}}.command(lan));
    const std::string why = refused.line();
    CHECK_MESSAGE(contains(why, "failed FAILED_PRECONDITION"), why);
    CHECK_MESSAGE(contains(why, "node.advertise"), why);
    CHECK(refused.end() == 1);
  }
  for (const std::string listen : {"0.0.0.0:0", "[::]:0"}) {
    CAPTURE(listen);
    Process second(
        HostNode{.host = 2, .node = {.name = "second", .listen = listen, .registry = registry}}.command(lan));
    const std::string advertised = second.line();
    CHECK_MESSAGE(advertised.starts_with("ready " + Lan::address(2) + ":"), advertised);
    Process third(
        HostNode{.host = 3, .node = {.name = "third", .listen = Lan::address(3) + ":0", .registry = registry}}
            .command(lan));
    REQUIRE(third.line().starts_with("ready "));
    third.tell("call second 20000");
    const Outcome called(third.line());
    CHECK_MESSAGE(called.ok, called.text);
    CHECK(third.end() == 0);
    CHECK(second.end() == 0);
  }
  CHECK(first.end() == 0);
}

TEST_CASE("a node behind one forwarded port is called there, if it publishes that") {
  Lan lan;
  if (const std::string why = lan.make(); !why.empty()) {
    MESSAGE("skipped: " << why);
    return;
  }
  const Secret secret;
  Process forwarder({"ip", "netns", "exec", lan.host(2), "python3", TROUPE_TEST_FORWARDER, Lan::address(2),
                     "15000", "127.0.0.1", "4711"});
  REQUIRE(forwarder.line() == "ready");
  Process first(HostNode{.host = 1, .node = {.name = "first", .listen = "0.0.0.0:0"}}.command(lan));
  const std::string ready = first.line();
  REQUIRE_MESSAGE(ready.starts_with("ready "), ready);
  const std::string registry = ready.substr(6);
  const std::string where = Lan::address(2) + ":15000";
  std::unique_ptr<Process> second;
  {
    const Variable advertise("TROUPE_NODE_ADVERTISE", where);
    second = std::make_unique<Process>(
        HostNode{.host = 2, .node = {.name = "second", .listen = "127.0.0.1:4711", .registry = registry}}
            .command(lan));
  }
  CHECK(second->line() == "ready " + where);
  Process third(
      HostNode{.host = 3, .node = {.name = "third", .listen = Lan::address(3) + ":0", .registry = registry}}
          .command(lan));
  REQUIRE(third.line().starts_with("ready "));
  third.tell("call second 20000");
  const Outcome called(third.line());
  CHECK_MESSAGE(called.ok, called.text);
  CHECK(third.end() == 0);
  CHECK(second->end() == 0);
  CHECK(first.end() == 0);
  CHECK(forwarder.end() == 0);
}

TEST_CASE("where the loopback device is down a node says so at once") {
  if (geteuid() != 0 || !run("unshare -n true")) {
    MESSAGE("skipped: network namespaces cannot be made here");
    return;
  }
  const Variable join_timeout("TROUPE_NODE_JOIN_TIMEOUT", "60s");  // longer than this test waits
  std::vector<std::string> words{"unshare", "-n"};
  for (const std::string& word : NodeProcess{.name = "joining", .registry = "127.0.0.1:4711"}.command())
    words.push_back(word);
  Process joining(words);
  const std::string line = joining.line();
  CHECK_MESSAGE(contains(line, "FAILED_PRECONDITION"), line);
  CHECK_MESSAGE(contains(line, "loopback"), line);
  CHECK(joining.end() == 1);
}

TEST_CASE("a node that does not get through to the first one says what may be in the way") {
  Lan lan;
  if (const std::string why = lan.make(); !why.empty()) {
    MESSAGE("skipped: " << why);
    return;
  }
  const Secret secret;
  const Variable join_timeout("TROUPE_NODE_JOIN_TIMEOUT", "6s");
  Process first(
      HostNode{.host = 1, .node = {.name = "first", .listen = Lan::address(1) + ":0"}}.command(lan));
  const std::string ready = first.line();
  REQUIRE_MESSAGE(ready.starts_with("ready "), ready);
  const std::string registry = ready.substr(6);
  const std::string port = registry.substr(registry.rfind(':') + 1);
  const auto failure = [&](const std::string& at) {
    Process joining(
        HostNode{.host = 2, .node = {.name = "joining", .listen = Lan::address(2) + ":0", .registry = at}}
            .command(lan));
    std::string line = joining.line();
    CHECK(joining.end() == 1);
    return line;
  };
  // Nothing comes back, as with a firewall that drops.
  REQUIRE(run("ip -n " + lan.host(1) + " route add blackhole " + Lan::address(2) + "/32"));
  const std::string dropped = failure(registry);
  CHECK_MESSAGE(contains(dropped, "UNAVAILABLE"), dropped);
  CHECK_MESSAGE(contains(dropped, "firewall"), dropped);
  CHECK_MESSAGE(contains(dropped, "port " + port), dropped);
  REQUIRE(run("ip -n " + lan.host(1) + " route del blackhole " + Lan::address(2) + "/32"));
  // Rejected on the way.
  REQUIRE(run("ip -n " + lan.host(2) + " route add prohibit " + Lan::address(1) + "/32"));
  const std::string rejected = failure(registry);
  CHECK_MESSAGE(contains(rejected, "firewall rejects port " + port), rejected);
  REQUIRE(run("ip -n " + lan.host(2) + " route del prohibit " + Lan::address(1) + "/32"));
  // Not started.
  const std::string refused = failure(Lan::address(1) + ":1");
  CHECK_MESSAGE(contains(refused, "nobody listens there"), refused);
  CHECK(first.end() == 0);
}
