// Three hosts on one machine: network namespaces on a bridge, a node in each, calls over TCP, a cut link.
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "cluster.hpp"
#include "process.hpp"

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
  bool cut(int i) const { return run("ip -n " + host(i) + " link set eth0 down"); }

 private:
  std::string hub() const { return "troupe-" + std::to_string(getpid()) + "-hub"; }
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
