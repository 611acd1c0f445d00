// Processes that come and go in the middle of each other's connecting, over TCP, where each pair of nodes has
// connections of its own. TROUPE_CHURN_ROUNDS sets how many come and go (2,000 for a long look).
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "cluster.hpp"
#include "process.hpp"
#include "states.hpp"

using namespace troupe;
using namespace troupe::test;
using namespace std::chrono_literals;

namespace {

constexpr std::size_t kNodes = 6;
constexpr std::size_t kAnchor = kNodes;  // an actor of the first node, which is always there
constexpr int kTimeoutMs = 5000;

std::string name_of(std::size_t node) {
  return node == kAnchor ? "anchor" : "n" + std::to_string(node);
}

/// What a process said of one call.
struct Outcome {
  explicit Outcome(const std::string& line) : text(line) {
    std::istringstream words(line);
    std::string kind;
    words >> kind;
    ok = kind == "value" && words >> value;
    if (kind == "error") words >> code >> milliseconds;
  }
  std::string text;
  bool ok = false;
  std::int64_t value = 0;
  std::string code;
  long milliseconds = -1;
};

struct Made {
  std::size_t target;
  std::size_t life;  // the target's, when the call was made
};

/// A process, the calls that it was told to make, and how many of its name there were before.
struct Life {
  std::unique_ptr<Process> process;
  std::size_t number = 0;
  std::vector<Made> calls;
  std::string ready;  // its first line, once it was read
};

/// TCP, or what TROUPE_CHURN_TRANSPORT says ("ucx").
std::string transports() {
  const char* asked = std::getenv("TROUPE_CHURN_TRANSPORT");
  return asked ? asked : "tcp";
}

class Churn {
 public:
  explicit Churn(RealCluster& cluster) {
    NodeOptions options{.name = "first"};
    options.transport.transports = transports();
    auto started = cluster.start(options);
    REQUIRE_MESSAGE(started.ok(), text_of(started));
    first = std::move(*started);
    REQUIRE(first->spawn<Calculator>("anchor").ok());
    for (std::size_t node = 0; node < kNodes; ++node) come(node);
  }

  void come(std::size_t node) {
    const NodeProcess program{
        .name = name_of(node), .registry = first->address(), .transports = transports()};
    lives[node].process = std::make_unique<Process>(program.command());
    ++lives[node].number;
    lives[node].calls.clear();
    lives[node].ready.clear();
  }
  void call(std::size_t caller, std::size_t target) {
    lives[caller].process->tell("call " + name_of(target) + " " + std::to_string(kTimeoutMs));
    lives[caller].calls.push_back({target, target == kAnchor ? 0 : lives[target].number});
  }
  /// Waits until it has come: then the first node knows that the one before it has gone.
  void wait_for(std::size_t node) {
    std::string& ready = lives[node].ready;
    if (ready.empty()) ready = lives[node].process->line();
  }
  /// One that leaves makes its calls first: they are all answered. Of one that is killed some are.
  void end(std::size_t node, bool kill) {
    CAPTURE(name_of(node));
    CAPTURE(lives[node].number);
    CAPTURE(kill);
    Process& process = *lives[node].process;
    if (kill)
      process.kill();
    else
      CHECK(process.end() == 0);
    wait_for(node);
    if (!kill) CHECK_MESSAGE(lives[node].ready.starts_with("ready "), lives[node].ready);
    std::vector<Outcome> outcomes;
    for (std::string line; !(line = process.line()).empty();) outcomes.emplace_back(line);
    CHECK(outcomes.size() <= lives[node].calls.size());
    if (!kill) CHECK(outcomes.size() == lives[node].calls.size());
    std::array<bool, kNodes + 1> met{};  // have answered, and live
    met[kAnchor] = met[node] = true;
    for (std::size_t i = 0; i < std::min(outcomes.size(), lives[node].calls.size()); ++i)
      judge(outcomes[i], lives[node].calls[i], met);
  }

  std::unique_ptr<Node> first;
  std::array<Life, kNodes> lives;
  std::set<std::int64_t> anchors_answers;
  std::size_t answered = 0;
  std::map<std::string, std::size_t> errors;

 private:
  void judge(const Outcome& outcome, const Made& made, std::array<bool, kNodes + 1>& met) {
    CAPTURE(name_of(made.target));
    CAPTURE(outcome.text);
    const bool lives_on = made.target == kAnchor || lives[made.target].number == made.life;
    if (outcome.ok) {
      ++answered;
      CHECK(outcome.value > 0);
      if (made.target == kAnchor) CHECK(anchors_answers.insert(outcome.value).second);
      met[made.target] = met[made.target] || lives_on;
      return;
    }
    // To one that is dying, or has not come yet.
    ++errors[outcome.code];
    CHECK_FALSE((lives_on && met[made.target]));
    CHECK(std::set<std::string>{"UNAVAILABLE", "DEADLINE_EXCEEDED", "NOT_FOUND", "CANCELLED"}.contains(
        outcome.code));
    CHECK(outcome.milliseconds >= 0);
    CHECK(outcome.milliseconds <= kTimeoutMs + 1000);
  }
};

}  // namespace

TEST_CASE("processes that come, leave and are killed over TCP take nobody and no call with them") {
  const char* wanted = std::getenv("TROUPE_CHURN_ROUNDS");
  const std::size_t rounds = wanted ? std::strtoull(wanted, nullptr, 10) : 100;
  std::mt19937 random(20261126);
  const auto pick = [&](std::size_t below) { return random() % below; };
  RealCluster cluster;
  Churn churn(cluster);
  std::atomic<std::uint64_t> news{0};
  const std::uint64_t watch = churn.first->watch([&](const MembershipChange&) { ++news; });
  for (std::size_t round = 0; round < rounds; ++round) {
    CAPTURE(round);
    // They are to be met at any stage of their coming, so some news of the cluster are waited for, not long.
    const std::uint64_t enough = news + pick(4);
    Loop& loop = churn.first->loop();
    loop.wait_until([&] { return news >= enough; }, loop.clock().now() + std::chrono::milliseconds(pick(20)));
    // They may have to connect for it, to somebody who comes or goes just now.
    for (int call = 0; call < 4; ++call) {
      const std::size_t caller = pick(kNodes);
      CAPTURE(name_of(caller));
      REQUIRE(churn.lives[caller].process->runs());
      churn.call(caller, pick(kNodes + 1));
    }
    const std::size_t node = pick(kNodes);
    CAPTURE(name_of(node));
    REQUIRE(churn.lives[node].process->runs());
    churn.end(node, pick(2) == 0);
    churn.come(node);
  }
  for (std::size_t node = 0; node < kNodes; ++node) {
    CAPTURE(name_of(node));
    churn.wait_for(node);
    const auto count = churn.first->rpc_sync<std::int64_t>(name_of(node), "count");
    CHECK_MESSAGE(count.ok(), text_of(count));
    churn.call(node, kAnchor);
    churn.end(node, false);
  }
  // Nobody was told of a count that did not come about.
  const std::int64_t last = churn.first->rpc_sync<std::int64_t>("anchor", "count").value();
  CHECK(churn.anchors_answers.size() >= kNodes);
  CHECK(*churn.anchors_answers.rbegin() < last);
  MESSAGE(churn.answered << " calls were answered");
  for (const auto& [code, count] : churn.errors) MESSAGE(count << " ended with " << code);
  CHECK(churn.answered > rounds);
  churn.first->unwatch(watch);
}
