// What a peer may have of this side's memory: answers that it does not read, requests that it goes on
// sending.
#include <malloc.h>
#include <unistd.h>

#include <fstream>
#include <memory>

#include "endpoint_support.hpp"

namespace troupe::rpc::testing {

namespace {

using contract::Shm;
using contract::Tcp;
constexpr std::size_t kMiB = std::size_t{1} << 20;
#ifdef TROUPE_SANITIZER
constexpr std::size_t kResident = std::size_t{1} << 40;  // what is freed stays resident for a while
#else
constexpr std::size_t kResident = 128 * kMiB;
#endif

std::size_t resident_bytes() {
  std::size_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages >> pages;
  return pages * static_cast<std::size_t>(::getpagesize());
}

Tensor fresh(std::size_t bytes) {
  Tensor tensor = Tensor::empty(DType::kUInt8, Shape({static_cast<std::int64_t>(bytes)}));
  std::memset(tensor.data(), 7, bytes);
  return tensor;
}

EndpointOptions bounded(std::uint64_t id, const std::string& name, std::size_t answer_bytes) {
  auto options = options_of(id, name);
  options.limits.max_answer_bytes = answer_bytes;
  options.default_timeout = 120s;
  return options;
}

/// Answers each call with `bytes` bytes of its own.
std::function<void(InboundCallPtr)> puller(std::size_t bytes, int& begun) {
  return [bytes, &begun](InboundCallPtr call) {
    ++begun;
    call->reply(fresh(bytes));
  };
}

/// Drives one side only, until it has nothing to do.
void drive(Loop& loop) {
  for (int idle = 0; idle < 100;) idle = loop.poll() == 0 ? idle + 1 : 0;
}

/// An answer of which only the end is noted.
struct Dropped final : ReplySink {
  void on_reply(Result<std::unique_ptr<InMessage>> reply) override {
    ++(reply && !(*reply)->is_error() ? came : failed);
  }
  int came = 0, failed = 0;
};

#define TROUPE_BUDGET_TRANSPORTS Shm, Tcp

}  // namespace

TEST_CASE_TEMPLATE("budget: a peer that asks for 16 GiB and never reads costs no memory", Kind,
                   TROUPE_BUDGET_TRANSPORTS) {
  Duo<Kind> duo(options_of(1, "alice"), bounded(2, "bob", 32 * kMiB));
  duo.connect();
  int begun = 0;
  duo.b.handler = puller(kMiB, begun);
  Dropped answers;
  constexpr int kPulls = 16'384;
  const std::size_t before = resident_bytes();
  for (int i = 0; i < kPulls; ++i) {
    start_call(*duo.a.endpoint, {duo.ab, 1}, "pull", 100s, answers);
    if (i % 64 == 0) drive(duo.world.b);
  }
  drive(duo.world.b);
  CHECK(begun < 128);
  CHECK(duo.b.endpoint->stats().requests_held > 16'000);
  CHECK(resident_bytes() - before < kResident);
  duo.a.endpoint->shut_down();
  REQUIRE(duo.until([&] { return duo.b.closed.size() == 1; }));
  CHECK(answers.failed == kPulls);
}

TEST_CASE_TEMPLATE("budget: 2 GiB through a slow reader keep little in memory, and all of it comes", Kind,
                   TROUPE_BUDGET_TRANSPORTS) {
  Duo<Kind> duo(options_of(1, "alice"), bounded(2, "bob", 16 * kMiB));
  duo.connect();
  int begun = 0;
  duo.b.handler = puller(kMiB, begun);
  Dropped answers;
  constexpr int kPulls = 2'048;
  for (int i = 0; i < kPulls; ++i) start_call(*duo.a.endpoint, {duo.ab, 1}, "pull", 100s, answers);
  const std::size_t before = resident_bytes();
  std::size_t most = before;
  for (int round = 0; answers.came + answers.failed < kPulls && round < 10'000'000; ++round) {
    duo.world.b.poll();
    if (round % 4 == 0) duo.world.a.poll();
    if (round % 64 == 0) most = std::max(most, resident_bytes());
  }
  CHECK(answers.came == kPulls);
  CHECK(most - before < kResident);
}

TEST_CASE_TEMPLATE("budget: a peer has its share of the places for calls, and others have theirs", Kind,
                   TROUPE_BUDGET_TRANSPORTS) {
  auto for_b = options_of(2, "bob");
  for_b.limits.max_inbound_calls = 8;
  for_b.limits.max_inbound_calls_per_peer = 3;
  Duo<Kind> duo(options_of(1, "alice"), for_b);
  duo.connect();
  Side c;
  auto& answers = duo.answers(6);
  auto& others = duo.answers(4);
  c.endpoint =
      std::make_unique<Endpoint>(duo.world.a, duo.world.make(duo.world.a, "c"), options_of(3, "carol"), c);
  const SessionId cb = c.endpoint->connect(duo.address).value();
  for (std::size_t i = 0; i < 5; ++i)
    start_call(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "k", 60s, answers[i]);
  REQUIRE(duo.until([&] { return answers[4].count == 1; }));
  for (std::size_t i = 3; i < 5; ++i) {
    CHECK(answers[i].code() == Code::kResourceExhausted);
    CHECK(answers[i].error->message.find("3 calls of alice") != std::string::npos);
    CHECK(answers[i].error->message.find("max_inbound_calls_per_peer") != std::string::npos);
  }
  for (Answer& other : others) start_call(*c.endpoint, {cb, Side::kKeeper}, "k", 60s, other);
  REQUIRE(duo.until([&] { return others[3].count == 1; }));
  CHECK(others[3].code() == Code::kResourceExhausted);
  CHECK(duo.b.service.kept.size() == 6);
  duo.b.service.kept[0]->reply_void();
  REQUIRE(duo.until([&] { return answers[0].count == 1; }));
  start_call(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "k", 60s, answers[5]);
  REQUIRE(duo.until([&] { return duo.b.service.kept.size() == 7; }));
  for (std::size_t i = 1; i < duo.b.service.kept.size(); ++i) duo.b.service.kept[i]->reply_void();
  REQUIRE(duo.until([&] { return duo.a.endpoint->open_calls() + c.endpoint->open_calls() == 0; }));
  for (std::size_t i = 0; i < 6; ++i) CHECK((i == 3 || i == 4 || answers[i].code() == Code::kOk));
  for (std::size_t i = 0; i < 3; ++i) CHECK(others[i].code() == Code::kOk);
}

TEST_CASE_TEMPLATE("budget: a node that hangs up and comes back has no more places for it", Kind,
                   TROUPE_BUDGET_TRANSPORTS) {
  auto for_b = options_of(2, "bob");
  for_b.limits.max_inbound_calls = 16;
  for_b.limits.max_inbound_calls_per_peer = 4;
  Duo<Kind> duo(options_of(1, "alice"), for_b);
  duo.connect();
  auto& answers = duo.answers(12);
  for (std::size_t i = 0; i < 3; ++i)
    start_call(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "k", 60s, answers[i]);
  REQUIRE(duo.until([&] { return duo.b.service.kept.size() == 3; }));
  const auto come_back = [&] {
    const std::size_t met = duo.b.sessions.size(), closed = duo.b.closed.size();
    duo.a.endpoint->close(duo.ab, {Code::kCancelled, "back soon"});
    REQUIRE(duo.until([&] { return duo.b.closed.size() > closed; }));
    duo.ab = duo.a.endpoint->connect(duo.address).value();
    REQUIRE(duo.until([&] { return duo.b.sessions.size() > met; }));
  };
  come_back();
  // Three of the calls run still, so there is one place.
  for (std::size_t i = 3; i < 6; ++i)
    start_call(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "k", 60s, answers[i]);
  REQUIRE(duo.until([&] { return answers[4].count == 1 && answers[5].count == 1; }));
  CHECK(answers[4].code() == Code::kResourceExhausted);
  CHECK(answers[5].code() == Code::kResourceExhausted);
  CHECK(answers[5].error->message.find("4 calls of alice") != std::string::npos);
  CHECK(duo.b.service.kept.size() == 4);
  // Two sessions at once have one share, too.
  const SessionId second = duo.a.endpoint->connect(duo.address).value();
  start_call(*duo.a.endpoint, {second, Side::kKeeper}, "k", 60s, answers[6]);
  REQUIRE(duo.until([&] { return answers[6].count == 1; }));
  CHECK(answers[6].code() == Code::kResourceExhausted);
  // Others have theirs.
  Side c;
  c.endpoint =
      std::make_unique<Endpoint>(duo.world.a, duo.world.make(duo.world.a, "c"), options_of(3, "carol"), c);
  const SessionId cb = c.endpoint->connect(duo.address).value();
  for (std::size_t i = 7; i < 11; ++i) start_call(*c.endpoint, {cb, Side::kKeeper}, "k", 60s, answers[i]);
  REQUIRE(duo.until([&] { return duo.b.service.kept.size() == 8; }));
  // What has run to its end makes room.
  duo.b.service.kept.clear();
  come_back();
  start_call(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "k", 60s, answers[11]);
  REQUIRE(duo.until([&] { return duo.b.service.kept.size() == 1; }));
  c.endpoint->shut_down();
}

TEST_CASE_TEMPLATE("budget: requests that are held take none of their peer's share", Kind,
                   TROUPE_BUDGET_TRANSPORTS) {
  auto for_b = bounded(2, "bob", 4 * kMiB);
  for_b.limits.max_inbound_calls_per_peer = 2;
  Duo<Kind> duo(options_of(1, "alice"), for_b);
  duo.connect();
  int begun = 0;
  duo.b.handler = puller(kMiB, begun);
  Dropped answers;
  for (int i = 0; i < 64; ++i) start_call(*duo.a.endpoint, {duo.ab, 1}, "pull", 100s, answers);
  drive(duo.world.b);
  CHECK(duo.b.endpoint->stats().requests_held > 2);
  REQUIRE(duo.until([&] { return answers.came + answers.failed == 64; }));
  CHECK(answers.failed == 0);
}

TEST_CASE_TEMPLATE("budget: requests that are held begin in order, unless they end before", Kind,
                   TROUPE_BUDGET_TRANSPORTS) {
  Duo<Kind> duo(options_of(1, "alice"), bounded(2, "bob", 4 * kMiB));
  duo.connect();
  std::vector<std::int64_t> begun;
  duo.b.handler = [&](InboundCallPtr call) {
    std::int64_t number = -1;
    CHECK(call->message().value(0).read_integer(number));
    begun.push_back(number);
    call->reply(fresh(kMiB));
  };
  auto& answers = duo.answers(64);
  std::vector<std::uint64_t> ids;
  for (std::size_t i = 0; i < answers.size(); ++i)
    ids.push_back(
        start_call(*duo.a.endpoint, {duo.ab, 1}, "pull", 60s, answers[i], static_cast<std::int64_t>(i)));
  Answer& late = duo.answer();
  start_call(*duo.a.endpoint, {duo.ab, 1}, "pull", 1ms, late, std::int64_t{1000});
  drive(duo.world.b);
  const std::size_t first = begun.size();
  CHECK(first < 40);
  for (std::size_t i = 50; i < 60; ++i) duo.a.endpoint->cancel(ids[i]);
  drive(duo.world.b);
  CHECK(begun.size() == first);
  REQUIRE(duo.until([&] { return duo.a.endpoint->open_calls() == 0; }));
  CHECK(begun.size() == 54);
  CHECK(std::is_sorted(begun.begin(), begun.end()));
  CHECK(late.code() == Code::kDeadlineExceeded);
  for (std::size_t i = 0; i < answers.size(); ++i)
    CHECK(answers[i].code() == (i >= 50 && i < 60 ? Code::kCancelled : Code::kOk));
}

TEST_CASE_TEMPLATE("budget: held requests end with their session", Kind, TROUPE_BUDGET_TRANSPORTS) {
  Duo<Kind> duo(options_of(1, "alice"), bounded(2, "bob", kMiB));
  duo.connect();
  int begun = 0;
  duo.b.handler = puller(kMiB, begun);
  auto& answers = duo.answers(64);
  for (Answer& answer : answers) start_call(*duo.a.endpoint, {duo.ab, 1}, "pull", 60s, answer);
  drive(duo.world.b);
  const int first = begun;
  CHECK(first < 64);
  duo.b.endpoint->close(duo.ba, {Code::kUnavailable, "enough"});
  REQUIRE(duo.until([&] { return duo.a.closed.size() == 1; }));
  CHECK(begun == first);
  CHECK(duo.a.endpoint->open_calls() == 0);
}

TEST_CASE_TEMPLATE("budget: two that answer each other with more than their budgets do not wait for ever",
                   Kind, TROUPE_BUDGET_TRANSPORTS) {
  auto for_a = bounded(1, "alice", kMiB), for_b = bounded(2, "bob", kMiB);
  for (EndpointOptions* options : {&for_a, &for_b}) {
    options->limits.max_bytes_in_flight = 8 * kMiB;
    options->limits.max_inbound_bytes = 16 * kMiB;
  }
  Duo<Kind> duo(for_a, for_b);
  duo.connect();
  int begun_a = 0, begun_b = 0;
  duo.a.handler = puller(kMiB, begun_a);
  duo.b.handler = puller(kMiB, begun_b);
  Dropped of_a, of_b;
  for (int i = 0; i < 200; ++i) {
    start_call(*duo.a.endpoint, {duo.ab, 1}, "pull", 60s, of_a, fresh(kMiB));
    start_call(*duo.b.endpoint, {duo.ba, 1}, "pull", 60s, of_b, fresh(kMiB));
  }
  REQUIRE(duo.until([&] { return of_a.came + of_a.failed == 200 && of_b.came + of_b.failed == 200; }));
  CHECK(of_a.came == 200);
  CHECK(of_b.came == 200);
  CHECK(duo.a.endpoint->stats().pauses + duo.b.endpoint->stats().pauses == 0);
}

TEST_CASE_TEMPLATE("budget: what a request is charged for covers what it takes", Kind,
                   TROUPE_BUDGET_TRANSPORTS) {
  Duo<Kind> duo;
  duo.connect();
  constexpr std::size_t kRequests = 4'000;
  const auto take = [&] {
    Dropped answers;
    for (std::size_t i = 0; i < kRequests; ++i)
      start_call(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "k", 60s, answers, static_cast<std::int64_t>(i));
    const auto before = ::mallinfo2();
    REQUIRE(duo.until([&] { return duo.b.service.kept.size() == kRequests; }));
    const auto now = ::mallinfo2();
    std::size_t charged = 0;
    for (const InboundCallPtr& call : duo.b.service.kept) charged += call->bytes() + kRequestBytes;
    for (const InboundCallPtr& call : std::exchange(duo.b.service.kept, {})) call->reply_void();
    REQUIRE(duo.until([&] { return duo.a.endpoint->open_calls() == 0; }));
    return std::pair(now.uordblks + now.hblkhd - before.uordblks - before.hblkhd, charged);
  };
  const auto [taken, charged] = take();
  CAPTURE(taken / kRequests);
#ifndef TROUPE_SANITIZER
  CHECK(taken <= charged);
#endif
}

TEST_CASE_TEMPLATE("budget: a peer whose requests are not answered is not read past its bound", Kind,
                   TROUPE_BUDGET_TRANSPORTS) {
  auto for_b = bounded(2, "bob", 64 * kMiB);
  for_b.limits.max_inbound_bytes = 8 * kMiB;
  Duo<Kind> duo(options_of(1, "alice"), for_b);
  duo.connect();
  std::vector<InboundCallPtr> kept;
  duo.b.handler = [&](InboundCallPtr call) { kept.push_back(std::move(call)); };
  Dropped answers;
  for (int i = 0; i < 256; ++i) start_call(*duo.a.endpoint, {duo.ab, 1}, "push", 60s, answers, fresh(kMiB));
  REQUIRE(duo.until([&] { return duo.b.endpoint->stats().pauses > 0; }));
  duo.settle(100ms);
  CHECK(kept.size() < 128);
  CHECK(duo.b.endpoint->ready(duo.ba));
  REQUIRE(duo.until([&] {
    for (const InboundCallPtr& call : std::exchange(kept, {})) call->reply_void();
    return answers.came + answers.failed == 256;
  }));
  CHECK(answers.came == 256);
}

}  // namespace troupe::rpc::testing
