// Requests that have come and are not begun: they come and are taken back, for ever if their peer likes.
#include <memory>
#include <utility>
#include <vector>

#include "calls/held_requests.hpp"
#include "endpoint/core.hpp"
#include "endpoint_support.hpp"

namespace troupe::rpc::testing {

using contract::Sim;

TEST_CASE("held requests: those that are held and taken back leave nothing, whatever stands before them") {
  Sim world;
  Side side;
  EndpointCore core(world.a, world.make(world.a, "a"), options_of(1, "alice"), side);
  MemoryPool pool;
  std::uint64_t next = 1;
  const auto request = [&] {
    OutMessage out(pool, {MessageKind::kRequest, next++, 1, 1, 0, 10s, {}});
    out.values(0);
    auto message = InMessage::parse(std::move(out.finish(4096)->head), {});
    return std::make_unique<InboundCall>(core, 77, std::move(*message), TimePoint::never());
  };
  HeldRequests held;
  InboundCallPtr first = request();
  const InboundCall& patient = *first;
  held.push(std::move(first));
  std::vector<const InboundCall*> few;
  for (int i = 0; i < 10'000; ++i) {
    InboundCallPtr call = request();
    few.push_back(call.get());
    held.push(std::move(call));
    if (few.size() < 8) continue;
    const InboundCall* const back = few[static_cast<std::size_t>(i) % few.size()];
    std::erase(few, back);
    const InboundCallPtr taken = held.take(*back);
    REQUIRE(taken.get() == back);
  }
  CHECK(held.count() == 1 + few.size());
  CHECK(held.places() < 256);
  // In their order still.
  CHECK(held.pop().get() == &patient);
  for (const InboundCall* call : few) CHECK(held.pop().get() == call);
  CHECK(held.empty());
}

TEST_CASE("held requests: those that are too late are looked for in pieces, whatever happens meanwhile") {
  Sim world;
  Side side;
  EndpointCore core(world.a, world.make(world.a, "a"), options_of(1, "alice"), side);
  MemoryPool pool;
  std::uint64_t next = 1;
  const auto request = [&](TimePoint deadline) {
    OutMessage out(pool, {MessageKind::kRequest, next++, 1, 1, 0, 10s, {}});
    out.values(0);
    auto message = InMessage::parse(std::move(out.finish(4096)->head), {});
    return std::make_unique<InboundCall>(core, 77, std::move(*message), deadline);
  };
  const TimePoint start = world.world.clock().now();
  const TimePoint early = start + 1s, late = start + 100s;
  constexpr std::size_t kMany = 10 * HeldRequests::kLook;
  bool most_are_late = false;
  SUBCASE("few are") {}
  SUBCASE("most are") {
    most_are_late = true;
  }
  HeldRequests held;
  std::size_t too_late = 0;
  for (std::size_t i = 0; i < kMany; ++i) {
    const bool is_late = (i % 10 == 0) != most_are_late;
    too_late += is_late ? 1 : 0;
    held.push(request(is_late ? early : late));
  }
  CHECK(held.take_expired(start).empty());
  CHECK_FALSE(held.is_looking());
  std::size_t taken = 0, popped = 0, calls = 0;
  const TimePoint now = early + 1s;
  do {
    const auto expired = held.take_expired(now);
    CHECK(expired.size() <= HeldRequests::kLook);
    taken += expired.size();
    for (const InboundCallPtr& call : expired) CHECK(call->deadline() == early);
    if (calls % 3 == 0 && !held.empty()) popped += held.pop()->deadline() == early ? 1 : 0;
    if (calls == 2) held.push(request(early)), ++too_late;
    REQUIRE(++calls < 1000);
  } while (held.is_looking());
  CHECK(taken + popped == too_late);
  CHECK(held.take_expired(now + 50s).empty());  // none is due before `late`
  for (TimePoint then = late + 1s; !held.empty();) {
    REQUIRE(++calls < 1000);
    CHECK(held.take_expired(then).size() <= HeldRequests::kLook);
  }
}

}  // namespace troupe::rpc::testing
