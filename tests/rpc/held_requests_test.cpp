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

}  // namespace troupe::rpc::testing
