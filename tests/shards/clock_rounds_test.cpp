// Rounds of pushes: every short history of three workers, and long ones at random, against a reference that
// decides each event at once and says what the shards have to do.
#include <array>
#include <functional>
#include <map>
#include <optional>
#include <vector>

#include <troupe/shards/clock_policy.hpp>

#include "support.hpp"

namespace troupe::shards {
namespace {

/// What a table in rounds decides, event by event.
class Reference {
 public:
  struct Step {
    std::map<std::uint64_t, std::uint64_t> samples;  // of whom it takes a push
    std::uint64_t late = 0;
    bool dropped = false;
    std::uint64_t open = 0;  // up to which clock workers may go on after it
  };
  Reference(std::uint64_t k, bool scale) : k_(k), scale_(scale) {}

  std::uint64_t join(std::uint64_t worker) {
    const std::uint64_t clock = touched_ ? round_ + 1 : round_;
    clocks_[worker] = clock;
    decide();
    return clock;
  }
  void leave(std::uint64_t worker) {
    clocks_.erase(worker);
    decide();
  }
  void works(std::uint64_t clock) { touched_ = touched_ || clock == round_; }
  void push(std::uint64_t worker, std::uint64_t samples) {
    const std::uint64_t clock = clocks_.at(worker);
    if (clock < round_) {
      steps.push_back(
          {{{worker, samples}}, round_ - clock, !scale_, steps.empty() ? first_ : steps.back().open});
      clocks_[worker] = round_;
    } else {
      touched_ = true;
      pushed_[worker] = samples;
    }
    decide();
  }
  /// Clocks up to it are open when `done` steps have been made.
  std::uint64_t open(std::size_t done) const { return done == 0 ? first_ : steps[done - 1].open; }
  std::uint64_t clock(std::uint64_t worker) const { return clocks_.at(worker); }

  std::vector<Step> steps;

 private:
  void decide() {
    for (;;) {
      bool all = true;
      for (const auto& [worker, clock] : clocks_) all = all && (clock > round_ || pushed_.contains(worker));
      if (pushed_.empty() || (pushed_.size() < k_ && !all)) break;
      for (const auto& [worker, samples] : pushed_)
        if (clocks_.contains(worker)) clocks_[worker] = round_ + 1;
      steps.push_back({std::exchange(pushed_, {}), 0, false, ++round_});
      touched_ = false;
    }
    if (!pushed_.empty() || clocks_.empty()) return;
    std::uint64_t least = UINT64_MAX;
    for (const auto& [worker, clock] : clocks_) least = std::min(least, clock);
    if (least <= round_) return;
    round_ = least;
    touched_ = false;
    (steps.empty() ? first_ : steps.back().open) = round_;
  }

  std::uint64_t k_;
  bool scale_;
  std::uint64_t round_ = 0;
  std::uint64_t first_ = 0;
  bool touched_ = false;
  std::map<std::uint64_t, std::uint64_t> clocks_;
  std::map<std::uint64_t, std::uint64_t> pushed_;
};

enum class Act : std::uint8_t { kJoin, kLeave, kPull, kPush, kCarryOut };
struct Event {
  Act act;
  std::uint64_t worker;
};

Consistency mode_of(std::uint64_t k, bool scale) {
  if (k == UINT64_MAX) return Synchronous{};
  return KOfN{k, scale ? LatePushes::kScale : LatePushes::kDrop};
}

/// A policy and the reference, through the same events.
class Both {
 public:
  Both(std::uint64_t k, bool scale) : scale_(scale), policy_(mode_of(k, scale)), reference_(k, scale) {}

  bool possible(const Event& event) const {
    if (event.act == Act::kCarryOut) return event.worker == 1 && policy_.order() != nullptr;
    const auto at = workers_.find(event.worker);
    if (event.act == Act::kJoin) return at == workers_.end();
    if (at == workers_.end()) return false;
    if (event.act == Act::kLeave) return true;
    return event.act == Act::kPull ? at->second.state == State::kIdle : at->second.state == State::kWorks;
  }

  void play(const Event& event) {
    if (event.act == Act::kCarryOut) {
      check_order(*policy_.order());
      // First what it sets free: the reference is to have counted those who go on meanwhile.
      ++carried_out_;
      policy_.carried_out();
    } else if (event.act == Act::kJoin) {
      const std::uint64_t expected = reference_.join(event.worker);
      REQUIRE(policy_.join(event.worker) == expected);
      workers_[event.worker] = {.life = ++lives_};
    } else if (event.act == Act::kLeave) {
      workers_.erase(event.worker);
      reference_.leave(event.worker);
      REQUIRE(policy_.leave(event.worker));
    } else if (event.act == Act::kPull) {
      Worker& worker = workers_.at(event.worker);
      worker.state = State::kWaits;
      const std::uint64_t clock = reference_.clock(event.worker);
      REQUIRE(policy_
                  .wait(event.worker, clock,
                        [this, id = event.worker, clock] {
                          workers_.at(id).state = State::kWorks;
                          reference_.works(clock);
                        })
                  .ok());
    } else {
      push(event.worker);
    }
    check();
  }

  /// Nobody hangs, whatever has been: those who are there make `rounds` more rounds.
  void finish(std::uint64_t rounds) {
    for (std::uint64_t i = 0; i < rounds * 40 && !workers_.empty(); ++i) {
      if (policy_.order() != nullptr) play({Act::kCarryOut, 1});
      for (const std::uint64_t id : {1, 2, 3}) {
        if (possible({Act::kPull, id})) play({Act::kPull, id});
        if (possible({Act::kPush, id})) play({Act::kPush, id});
        if (workers_.contains(id) && workers_.at(id).told >= rounds) play({Act::kLeave, id});
      }
    }
    REQUIRE(workers_.empty());
  }

 private:
  enum class State : std::uint8_t { kIdle, kWaits, kWorks, kOffered };
  struct Worker {
    State state = State::kIdle;
    std::uint64_t told = 0;
    std::uint64_t life = 0;
  };

  void push(std::uint64_t id) {
    const std::uint64_t sequence = sequence_[id]++;
    const std::uint64_t samples = id * 10 + sequence;
    const std::uint64_t clock = reference_.clock(id);
    workers_.at(id).state = State::kOffered;
    reference_.push(id, samples);
    REQUIRE(policy_
                .offer({id, sequence}, clock, samples,
                       [this, id, life = workers_.at(id).life](const Verdict& verdict) {
                         // Who has left and joined again does not wait for what it pushed before.
                         if (!workers_.contains(id) || workers_.at(id).life != life) return;
                         workers_.at(id).state = State::kIdle;
                         ++workers_.at(id).told;
                         verdicts_.push_back(verdict);
                       })
                .ok());
  }

  void check_order(const StepOrder& order) {
    REQUIRE(order.number == carried_out_ + 1);
    REQUIRE(order.number <= reference_.steps.size());
    const Reference::Step& step = reference_.steps[carried_out_];
    REQUIRE(order.take.size() == (step.dropped ? 0 : step.samples.size()));
    REQUIRE(order.forget.size() == (step.dropped ? 1 : 0));
    double sum = 0;
    for (const auto& [worker, samples] : step.samples) sum += static_cast<double>(samples);
    auto expected = step.samples.begin();
    for (const auto& part : order.take) {
      REQUIRE(part.push.worker == expected->first);
      REQUIRE(part.weight == doctest::Approx(static_cast<double>(expected->second) / sum));
      ++expected;
    }
    if (step.dropped) REQUIRE(order.forget[0].worker == expected->first);
    REQUIRE(order.rate_scale ==
            (step.dropped ? 1.0F : 1.0F / (1.0F + static_cast<float>(scale_ ? step.late : 0))));
  }
  /// Who waits does so because its round has not come, and everything decided is there to be carried out.
  void check() {
    for (const auto& [id, worker] : workers_)
      if (worker.state == State::kWaits)
        REQUIRE(reference_.clock(id) > reference_.open(static_cast<std::size_t>(carried_out_)));
    REQUIRE((policy_.order() != nullptr) == (carried_out_ < reference_.steps.size()));
  }

  bool scale_;
  ClockPolicy policy_;
  Reference reference_;
  std::map<std::uint64_t, Worker> workers_;
  std::map<std::uint64_t, std::uint64_t> sequence_;
  std::vector<Verdict> verdicts_;
  std::uint64_t carried_out_ = 0;
  std::uint64_t lives_ = 0;
};

constexpr std::array kActs = {Act::kJoin, Act::kLeave, Act::kPull, Act::kPush, Act::kCarryOut};

/// Every history of `length` events that begins with `events`, and its end.
std::uint64_t explore(std::uint64_t k, bool scale, std::vector<Event>& events, std::size_t length) {
  Both both(k, scale);
  for (const Event& event : events) both.play(event);
  std::vector<Event> next;
  for (const Act act : kActs)
    for (const std::uint64_t worker : {1, 2, 3})
      if (both.possible({act, worker})) next.push_back({act, worker});
  both.finish(3);
  std::uint64_t histories = 1;
  if (events.size() == length) return histories;
  for (const Event& event : next) {
    events.push_back(event);
    histories += explore(k, scale, events, length);
    events.pop_back();
  }
  return histories;
}

TEST_CASE("every short history of three workers is decided as the reference decides it") {
  for (const auto& [k, scale] : {std::pair{UINT64_MAX, false},
                                 {std::uint64_t{1}, false},
                                 {std::uint64_t{1}, true},
                                 {std::uint64_t{2}, false},
                                 {std::uint64_t{2}, true}}) {
    const std::uint64_t needed = k;
    CAPTURE(needed);
    std::vector<Event> events{{Act::kJoin, 1}, {Act::kJoin, 2}};
    CHECK(explore(k, scale, events, 8) > 10'000);
  }
}

TEST_CASE("long histories are decided as the reference decides them") {
  const std::uint64_t first_seed = troupe::test::test_seed();
  for (std::uint64_t seed = first_seed; seed < first_seed + 40; ++seed) {
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    const std::uint64_t k = random() % 3 == 0 ? UINT64_MAX : 1 + random() % 3;
    Both both(k, k != UINT64_MAX && random() % 2 == 0);
    for (int i = 0; i < 5000; ++i) {
      const Event event{kActs[random() % kActs.size()], 1 + random() % 3};
      // Leaving is rare, so that rounds are made.
      if (both.possible(event) && (event.act != Act::kLeave || random() % 8 == 0)) both.play(event);
    }
    both.finish(3);
  }
}

TEST_CASE("who joins takes part from the first round on that nobody has begun") {
  ClockPolicy policy(Synchronous{});
  CHECK(policy.join(1) == 0);
  CHECK(policy.join(2) == 0);
  bool goes_on = false;
  REQUIRE(policy.wait(1, 0, [&] { goes_on = true; }).ok());
  REQUIRE(goes_on);
  CHECK(policy.join(3) == 1);
  bool third = false;
  REQUIRE(policy.wait(3, 1, [&] { third = true; }).ok());
  std::vector<Verdict> told;
  const auto tell = [&](const Verdict& verdict) { told.push_back(verdict); };
  REQUIRE(policy.offer({1, 0}, 0, 30, tell).ok());
  REQUIRE(policy.order() == nullptr);
  REQUIRE(policy.offer({2, 0}, 0, 10, tell).ok());  // without waiting for the third
  REQUIRE(policy.order() != nullptr);
  CHECK(policy.order()->take == std::vector<StepOrder::Part>{{{1, 0}, 0.75F}, {{2, 0}, 0.25F}});
  CHECK_FALSE(third);
  CHECK(told.empty());
  policy.carried_out();
  CHECK(third);
  CHECK(told == std::vector<Verdict>(2, {.applied = true, .staleness = 0, .next_clock = 1}));
  // A death in the middle of a round: the others go on without it.
  REQUIRE(policy.offer({1, 1}, 1, 1, tell).ok());
  REQUIRE(policy.offer({3, 0}, 1, 1, tell).ok());
  CHECK(policy.order() == nullptr);
  CHECK(policy.leave(2));
  REQUIRE(policy.order() != nullptr);
  CHECK(policy.order()->take.size() == 2);
  CHECK(policy.order()->left == std::vector<std::uint64_t>{2});
}

TEST_CASE("a push that comes late is told so, and its worker goes on with the open round") {
  for (const LatePushes late : {LatePushes::kDrop, LatePushes::kScale}) {
    ClockPolicy policy(KOfN{1, late});
    policy.join(1), policy.join(2);
    for (std::uint64_t round = 0; round < 3; ++round) {
      REQUIRE(policy.offer({1, round}, round, 1, [](const Verdict&) {}).ok());
      policy.carried_out();
    }
    std::optional<Verdict> told;
    REQUIRE(policy.offer({2, 0}, 0, 1, [&](const Verdict& verdict) { told = verdict; }).ok());
    const StepOrder order = *policy.order();
    CHECK(order.rate_scale == (late == LatePushes::kScale ? 0.25F : 1.0F));
    CHECK(order.take.size() == (late == LatePushes::kScale ? 1 : 0));
    CHECK(order.forget.size() == (late == LatePushes::kScale ? 0 : 1));
    policy.carried_out();
    CHECK(told == Verdict{.applied = late == LatePushes::kScale, .staleness = 3, .next_clock = 3});
    // Repeated, it is told the same, and nothing is done again.
    told.reset();
    REQUIRE(policy.offer({2, 0}, 0, 1, [&](const Verdict& verdict) { told = verdict; }).ok());
    CHECK(told == Verdict{.applied = late == LatePushes::kScale, .staleness = 3, .next_clock = 3});
    CHECK(policy.order() == nullptr);
  }
}

TEST_CASE("an offer is repeated without harm, and one that cannot be is refused") {
  ClockPolicy policy(Synchronous{});
  policy.join(1), policy.join(2);
  int first = 0, second = 0;
  REQUIRE(policy.offer({1, 7}, 0, 1, [&](const Verdict&) { ++first; }).ok());
  REQUIRE(policy.offer({1, 7}, 0, 1, [&](const Verdict&) { ++second; }).ok());
  const auto code = [&](PushName push, std::uint64_t clock, std::uint64_t samples) {
    return policy.offer(push, clock, samples, [](const Verdict&) {}).error().code;
  };
  CHECK(code({1, 8}, 0, 1) == Code::kFailedPrecondition);  // another for the same round
  CHECK(code({2, 0}, 1, 1) == Code::kFailedPrecondition);  // has not come
  CHECK(code({2, 0}, 0, 0) == Code::kInvalidArgument);
  CHECK(code({3, 0}, 0, 1) == Code::kNotFound);
  CHECK(ClockPolicy(BoundedStaleness{1}).offer({1, 0}, 0, 1, [](const Verdict&) {}).error().code ==
        Code::kNotFound);
  REQUIRE(policy.offer({2, 0}, 0, 1, [](const Verdict&) {}).ok());
  REQUIRE(policy.offer({1, 7}, 0, 1, [&](const Verdict&) { ++second; }).ok());  // decided, not carried out
  policy.carried_out();
  CHECK(first == 0);
  CHECK(second == 1);
  REQUIRE(policy.offer({1, 7}, 0, 1, [&](const Verdict&) { ++second; }).ok());
  CHECK(second == 2);
}

}  // namespace
}  // namespace troupe::shards
