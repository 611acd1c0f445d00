// A message for which there is no memory ends its link, and nothing else.
#include <new>
#include <string>
#include <vector>

#include "rpc/endpoint_support.hpp"
#include "rpc/forger.hpp"
#include "support/own_new.hpp"

namespace {
/// Memory of this size cannot be had, nor of more than the second one; 0: all can.
std::size_t missing = 0;
std::size_t missing_from = 0;
std::size_t failures = 0;
}  // namespace

void troupe::test::before_allocation(std::size_t size) {
  const bool fails = (missing != 0 && size == missing) || (missing_from != 0 && size >= missing_from);
  if (!fails) return;
  ++failures;
  throw std::bad_alloc();
}

namespace troupe::rpc::testing {

TEST_CASE("no memory: a message that cannot be read ends its link, its caller hears, and others go on") {
  Duo<contract::Sim> duo;
  duo.connect();
  // A list of the places of so many tensors is made of them as it is read: two words for each.
  constexpr std::size_t kTensors = 307;
  const std::vector<Tensor> tensors(kTensors, Tensor::empty(DType::kUInt8, Shape({0})));
  Answer& answer = duo.answer();
  start_call(*duo.a.endpoint, {duo.ab, 1}, "tensors", 10s, answer, tensors);
  const TimePoint begun = duo.world.a.clock().now();
  missing = kTensors * 2 * sizeof(std::size_t);
  const bool answered = duo.until([&] { return answer.count == 1; });
  missing = 0;
  REQUIRE(answered);
  CHECK(failures == 1);
  CHECK(answer.code() == Code::kUnavailable);
  CHECK(duo.world.a.clock().now() - begun < Duration(5s));  // not at its deadline
  REQUIRE(duo.b.closed.size() == 1);
  CHECK(duo.b.closed[0].second.code == Code::kResourceExhausted);

  const SessionId again = duo.a.endpoint->connect(duo.address).value();
  Answer& later = duo.answer();
  start_call(*duo.a.endpoint, {again, 1}, "add", 10s, later, 1, 2);
  REQUIRE(duo.until([&] { return later.count == 1; }));
  CHECK(later.code() == Code::kOk);
}

namespace {
/// Between a transport and its endpoint, which finds no memory of one size while it is asked for parts.
struct Starver final : TransportEvents {
  void on_link(LinkId link, std::string_view address, bool incoming) override {
    to->on_link(link, address, incoming);
  }
  void on_control(LinkId link, std::span<const std::byte> message) override { to->on_control(link, message); }
  Result<void> on_parts(LinkId link, std::span<const std::byte> head, std::size_t total,
                        std::vector<Buffer>& parts) override {
    missing = sizeof(InMessage);
    struct Fed {
      ~Fed() { missing = 0; }
    } fed;
    return to->on_parts(link, head, total, parts);
  }
  void on_frame(LinkId link, Buffer&& head, std::vector<Buffer>&& parts) override {
    to->on_frame(link, std::move(head), std::move(parts));
  }
  void on_closed(LinkId link, Error error) override { to->on_closed(link, std::move(error)); }
  TransportEvents* to = nullptr;
};
}  // namespace

TEST_CASE("no memory: a message that cannot be begun ends its link, and its caller hears") {
  contract::Sim world;
  Starver starver;
  std::vector<Answer> answers(100);
  Side a, b;
  auto transport = std::make_unique<Forger>(world.make(world.b, "b"), [](OutFrame&) {});
  transport->between = [&](TransportEvents& events) -> TransportEvents& {
    starver.to = &events;
    return starver;
  };
  a.endpoint = std::make_unique<Endpoint>(world.a, world.make(world.a, "a"), options_of(1, "alice"), a);
  b.endpoint = std::make_unique<Endpoint>(world.b, std::move(transport), options_of(2, "bob"), b);
  const SessionId ab = a.endpoint->connect(b.endpoint->listen("b:0").value()).value();
  const Tensor tensor = Tensor::zeros(DType::kUInt8, Shape({10'000}));
  failures = 0;
  std::size_t made = 0;
  while (made < answers.size() && failures == 0) {
    Answer& answer = answers[made++];
    start_call(*a.endpoint, {ab, Side::kKeeper}, "keep", 60s, answer, tensor);
    REQUIRE(world.run_until([&] { return answer.count == 1 || b.service.kept.size() == made; }, 5s));
  }
  REQUIRE(failures == 1);
  CHECK(answers[made - 1].code() == Code::kUnavailable);
  REQUIRE(b.closed.size() == 1);
  CHECK(b.closed[0].second.code == Code::kResourceExhausted);
}

TEST_CASE("no memory: a message that cannot be queued is not sent by half, and its link goes on") {
  Duo<contract::Tcp> duo;
  duo.connect();
  failures = 0;
  std::vector<Answer*> all;
  // b reads nothing, so what the kernel does not take is queued.
  for (int i = 0; i < 20'000 && failures < 5; ++i) {
    all.push_back(&duo.answer());
    // Of all lengths, so that memory ends within a message.
    const std::string text(3'000 + static_cast<std::size_t>(i * 37 % 500), 'x');
    missing_from = std::size_t{1} << 20;
    start_call(*duo.a.endpoint, {duo.ab, 1}, "echo", 60s, *all.back(), text);
    missing_from = 0;
  }
  REQUIRE(failures >= 5);
  REQUIRE(duo.until([&] { return duo.a.endpoint->open_calls() == 0; }));
  std::size_t refused = 0;
  for (const Answer* answer : all) {
    CHECK((answer->code() == Code::kOk || answer->code() == Code::kResourceExhausted));
    refused += answer->code() == Code::kResourceExhausted;
  }
  CHECK(refused >= 5);
  CHECK(duo.a.closed.empty());
  CHECK(duo.call<std::int64_t>("add", 1, 2).value() == 3);
}

TEST_CASE("no memory: a link over UCX ends without any, whatever is under way on it") {
  contract::Pair<contract::UcxTcp> pair;
  pair.warm_up();
  const auto send = [&](Transport& transport, LinkId link, std::uint64_t number) {
    REQUIRE(transport.send(link, contract::make_frame(number, {std::size_t{1} << 20})).ok());
  };
  SUBCASE("much") {
    for (std::uint64_t i = 0; i < 8; ++i) {
      send(*pair.ta, pair.a.link(), i);
      send(*pair.tb, pair.b.link(), i);
    }
    for (int polls = 0; polls < 20; ++polls) {  // some are announced, some on their way
      pair.world.a.poll();
      pair.world.b.poll();
    }
  }
  SUBCASE("nothing") {}
  const LinkId first = pair.a.link();
  failures = 0;
  missing_from = 1;
  try {
    pair.ta->close(first);
  } catch (const std::bad_alloc&) {  // and yet it is closed
  }
  missing_from = 0;
  CHECK(failures <= 1);  // one that the control socket's end asks for; UCX's asks for none
  REQUIRE(pair.until([&] { return pair.b.closed() == 1; }));
  // The next one is as any.
  const auto open = [](const contract::Peer& peer) {
    return std::ranges::count_if(peer.links, [](const auto& link) { return link.second.open; });
  };
  REQUIRE(pair.ta->dial(pair.address).ok());
  REQUIRE(pair.until([&] { return open(pair.a) == 2 && open(pair.b) == 2; }));
  const auto second =
      std::ranges::find_if(pair.a.links, [&](const auto& link) { return link.first != first; });
  pair.b.frames.clear();
  send(*pair.ta, second->first, 77);
  REQUIRE(pair.until([&] { return !pair.b.frames.empty(); }));
  CHECK(pair.b.damaged() == 0);
}

}  // namespace troupe::rpc::testing
