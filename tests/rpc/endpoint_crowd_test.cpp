// What is done for one peer or one call costs the same, however much others have open.
#include <algorithm>
#include <ctime>

#include "endpoint_support.hpp"

namespace troupe::rpc::testing {

namespace {

using SimDuo = Duo<contract::Sim>;

double thread_seconds() {
  timespec time{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

EndpointOptions roomy(std::uint64_t id, const std::string& name) {
  auto options = options_of(id, name);
  options.limits.max_calls_in_flight = options.limits.max_inbound_calls_per_peer = 1 << 18;
  options.silence_limit = 100s;
  return options;
}

struct Ignored final : ReplySink {
  void on_reply(Result<std::unique_ptr<InMessage>>) override { ++ended; }
  std::size_t ended = 0;
};

/// A third endpoint beside the two, on b's host, with a session to b.
struct Third {
  explicit Third(SimDuo& duo) {
    side.endpoint =
        std::make_unique<Endpoint>(duo.world.b, duo.world.make(duo.world.b, "c"), roomy(3, "carol"), side);
    to_b = side.endpoint->connect(duo.address).value();
    REQUIRE(duo.until([&] { return side.sessions.size() == 1 && duo.b.sessions.size() == 2; }));
  }
  Side side;
  SessionId to_b = 0;
};

/// Seconds of computing that it takes to make, cancel and handle the cancelling of `count` calls of c's.
double cancel_some(SimDuo& duo, Third& third, std::size_t count) {
  Ignored answers;
  std::vector<std::uint64_t> ids;
  const int begun = duo.b.service.begun;
  for (std::size_t i = 0; i < count; ++i)
    ids.push_back(start_call(*third.side.endpoint, {third.to_b, Side::kKeeper}, "k", 90s, answers));
  REQUIRE(duo.until([&] { return duo.b.service.begun == begun + static_cast<int>(count); }));
  const double before = thread_seconds();
  for (const std::uint64_t id : ids) third.side.endpoint->cancel(id);
  duo.settle();
  const double took = thread_seconds() - before;
  CHECK(answers.ended == count);
  std::size_t cancelled = 0;
  for (const InboundCallPtr& call : duo.b.service.kept) cancelled += call->cancelled() ? 1 : 0;
  CHECK(cancelled == count);
  std::erase_if(duo.b.service.kept, [](const InboundCallPtr& call) { return call->cancelled(); });
  return took;
}

}  // namespace

TEST_CASE("crowd: cancelling costs the same beside a hundred thousand open calls of others") {
  SimDuo duo(roomy(1, "alice"), roomy(2, "bob"));
  duo.connect();
  Third third(duo);
  constexpr std::size_t kSome = 2'000, kMany = 100'000;
  double alone = cancel_some(duo, third, kSome);
  alone = std::min(alone, cancel_some(duo, third, kSome));
  Ignored others;
  for (std::size_t i = 0; i < kMany; ++i)
    start_call(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "k", 95s, others);
  REQUIRE(duo.until([&] { return duo.b.service.kept.size() == kMany; }));
  double beside = cancel_some(duo, third, kSome);
  beside = std::min(beside, cancel_some(duo, third, kSome));
  CAPTURE(alone);
  CAPTURE(beside);
  CHECK(beside < 5 * alone + 0.01);
  CHECK(others.ended == 0);
}

TEST_CASE("crowd: the end of a session costs what that one has open") {
  SimDuo duo(roomy(1, "alice"), roomy(2, "bob"));
  duo.connect();
  Ignored others;
  constexpr std::size_t kMany = 200'000;
  const auto time_of_ends = [&] {
    double took = 0;
    for (int i = 0; i < 200; ++i) {
      const SessionId session = duo.a.endpoint->connect(duo.address).value();
      Ignored own;
      start_call(*duo.a.endpoint, {session, 1}, "k", 90s, own);
      const double before = thread_seconds();
      duo.a.endpoint->close(session, {Code::kCancelled, "enough"});
      took += thread_seconds() - before;
      CHECK(own.ended == 1);
    }
    return took;
  };
  const double alone = std::min(time_of_ends(), time_of_ends());
  for (std::size_t i = 0; i < kMany; ++i)
    start_call(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "k", 95s, others);
  const double beside = std::min(time_of_ends(), time_of_ends());
  CAPTURE(alone);
  CAPTURE(beside);
  CHECK(beside < 5 * alone + 0.005);
  CHECK(others.ended == 0);
}

namespace {
/// Goes on until `count()` is `all`, and returns by how much it grew at most in one step of the world.
std::size_t most_in_a_step(SimDuo& duo, std::size_t all, const std::function<std::size_t()>& count) {
  std::size_t most = 0;
  for (std::size_t seen = count(); seen < all;) {
    auto& world = duo.world.world;
    world.run_until([&] { return count() != seen; }, world.clock().now() + 10s);
    const std::size_t now = count();
    REQUIRE(now > seen);
    most = std::max(most, now - seen);
    seen = now;
  }
  return most;
}
}  // namespace

TEST_CASE(
    "crowd: what a peer leaves open ends in slices at the caller, and its end is told after all of it") {
  SimDuo duo(roomy(1, "alice"), roomy(2, "bob"));
  duo.connect();
  constexpr std::size_t kMany = 20'000;
  Ignored crowd;
  for (std::size_t i = 0; i < kMany; ++i)
    start_call(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "k", 95s, crowd);
  REQUIRE(duo.until([&] { return duo.b.service.kept.size() == kMany; }));
  std::size_t ended_when_told = 0;
  duo.a.closed_hook = [&](SessionId) { ended_when_told = crowd.ended; };
  duo.b.endpoint->close(duo.ba, {Code::kUnavailable, "enough"});
  CHECK(most_in_a_step(duo, kMany, [&] { return crowd.ended; }) <= 1024);
  REQUIRE(duo.until([&] { return duo.a.closed.size() == 1; }));
  CHECK(ended_when_told == kMany);
  CHECK(crowd.ended == kMany);
  CHECK(duo.a.endpoint->open_calls() == 0);
}

TEST_CASE("crowd: what a peer leaves open is cancelled in slices at the callee") {
  SimDuo duo(roomy(1, "alice"), roomy(2, "bob"));
  duo.connect();
  constexpr std::size_t kMany = 20'000;
  Ignored crowd;
  for (std::size_t i = 0; i < kMany; ++i)
    start_call(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "k", 95s, crowd);
  REQUIRE(duo.until([&] { return duo.b.service.kept.size() == kMany; }));
  duo.a.endpoint->close(duo.ab, {Code::kUnavailable, "enough"});
  const auto cancelled = [&] {
    return static_cast<std::size_t>(
        std::ranges::count_if(duo.b.service.kept, [](const auto& call) { return call->cancelled(); }));
  };
  CHECK(most_in_a_step(duo, kMany, cancelled) <= 1024);
  REQUIRE(duo.until([&] { return duo.b.closed.size() == 1 && crowd.ended == kMany; }));
  CHECK(duo.b.endpoint->inbound_calls() == kMany);
  duo.b.service.kept.clear();
  CHECK(duo.b.endpoint->inbound_calls() == 0);
}

TEST_CASE("crowd: an endpoint that ends in the middle of a session's end answers the rest") {
  SimDuo duo(roomy(1, "alice"), roomy(2, "bob"));
  duo.connect();
  constexpr std::size_t kMany = 5'000;
  Ignored crowd;
  for (std::size_t i = 0; i < kMany; ++i)
    start_call(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "k", 95s, crowd);
  duo.a.endpoint->close(duo.ab, {Code::kUnavailable, "enough"});
  CHECK(crowd.ended < kMany);
  SUBCASE("all at once") {
    duo.a.endpoint->shut_down();
  }
  SUBCASE("calls that are cancelled meanwhile end once") {
    Answer own;
    const std::uint64_t id = start_call(*duo.a.endpoint, {kLocal, Side::kKeeper}, "k", 95s, own);
    duo.a.endpoint->cancel(id);
    CHECK(own.count == 1);
    REQUIRE(duo.until([&] { return crowd.ended == kMany; }));
  }
  CHECK(crowd.ended == kMany);
  CHECK(duo.a.endpoint->open_calls() == 0);
}

TEST_CASE("crowd: who is told of an end may wait for others of the same end") {
  SimDuo duo(roomy(1, "alice"), roomy(2, "bob"));
  duo.connect();
  std::size_t before = 0, behind = 0;
  SUBCASE("in the middle of many") {
    before = behind = 2'500;
  }
  SUBCASE("first of many") {
    behind = 5'000;
  }
  SUBCASE("last of many") {
    before = 5'000;
  }
  SUBCASE("first of a few") {
    behind = 3;
  }
  SUBCASE("alone with one") {
    behind = 1;
  }
  const std::size_t many = before + behind;
  Ignored crowd;
  for (std::size_t i = 0; i < before; ++i)
    start_call(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "k", 95s, crowd);
  Answer& patient = duo.answer();
  start_call(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "k", 95s, patient);
  for (std::size_t i = 0; i < behind; ++i)
    start_call(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "k", 95s, crowd);
  bool all = false;
  patient.hook = [&] {
    all = duo.world.a.wait_until([&] { return crowd.ended == many && duo.a.closed.size() == 1; },
                                 duo.world.a.clock().now() + 5s);
  };
  REQUIRE(duo.until([&] { return duo.b.service.kept.size() == many + 1; }));
  duo.b.endpoint->close(duo.ba, {Code::kUnavailable, "enough"});
  REQUIRE(duo.until([&] { return patient.count == 1; }));
  CHECK(all);
  REQUIRE(duo.until([&] { return duo.a.closed.size() == 1; }));
}

TEST_CASE("crowd: answers that are kept no longer go in slices") {
  auto for_b = roomy(2, "bob");
  for_b.answers.time = 5s;
  SimDuo duo(roomy(1, "alice"), for_b);
  duo.connect();
  constexpr std::size_t kMany = 20'000;
  Ignored crowd;
  for (std::uint64_t token = 1; token <= kMany; ++token)
    duo.a.endpoint->call({duo.ab, 1}, {fnv1a("add"), 0}, {.timeout = 15s, .token = token},
                         detail::arguments_writer(1, 2), crowd);
  REQUIRE(duo.until([&] { return crowd.ended == kMany; }));
  REQUIRE(duo.b.endpoint->kept_answers() == kMany);
  SUBCASE("when their time is over") {}
  SUBCASE("when their caller will not come back") {
    duo.b.endpoint->forget_caller(1);
  }
  CHECK(most_in_a_step(duo, kMany, [&] { return kMany - duo.b.endpoint->kept_answers(); }) <= 1024);
}

TEST_CASE("crowd: a call past its node's share costs the same on the first session and on the thousandth") {
  auto for_b = roomy(2, "bob");
  for_b.limits.max_inbound_calls_per_peer = 4;
  SimDuo duo(roomy(1, "alice"), for_b);
  duo.connect();
  Ignored kept, refused;
  for (int i = 0; i < 4; ++i) start_call(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "k", 95s, kept);
  REQUIRE(duo.until([&] { return duo.b.service.kept.size() == 4; }));
  const auto time_of_calls = [&] {
    const double before = thread_seconds();
    const std::size_t ended = refused.ended;
    for (int i = 0; i < 2'000; ++i) start_call(*duo.a.endpoint, {duo.ab, 1}, "add", 90s, refused, 1, 2);
    REQUIRE(duo.until([&] { return refused.ended == ended + 2'000; }));
    return thread_seconds() - before;
  };
  const double alone = std::min(time_of_calls(), time_of_calls());
  for (std::size_t met = 1; met < 2'001; met += 100) {  // not more strangers at once than may be
    for (int i = 0; i < 100; ++i) static_cast<void>(duo.a.endpoint->connect(duo.address).value());
    REQUIRE(duo.until([&] { return duo.b.sessions.size() == met + 100; }));
  }
  const double beside = std::min(time_of_calls(), time_of_calls());
  CAPTURE(alone);
  CAPTURE(beside);
  CHECK(beside < 2.5 * alone + 0.005);
  CHECK(kept.ended == 0);
}

TEST_CASE("crowd: calls that expire together leave room between them for what others want") {
  SimDuo duo(roomy(1, "alice"), roomy(2, "bob"));
  duo.connect();
  constexpr std::size_t kMany = 20'000;
  Ignored crowd;
  for (std::size_t i = 0; i < kMany; ++i)
    start_call(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "k", 5s, crowd);
  std::size_t most_in_a_round = 0;
  while (crowd.ended < kMany) {
    const std::size_t before = crowd.ended;
    duo.world.world.run_until([&] { return crowd.ended != before; }, duo.world.world.clock().now() + 10s);
    REQUIRE(crowd.ended > before);
    most_in_a_round = std::max(most_in_a_round, crowd.ended - before);
  }
  CHECK(most_in_a_round <= 1024);
}

}  // namespace troupe::rpc::testing
