// Tensors that are mapped by the peer instead of being copied to it.
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <thread>

#include <capnp/message.h>
#include <capnp/serialize.h>
#include <troupe/runtime/fresh_memory.hpp>

#include "endpoint_support.hpp"
#include "forger.hpp"
#include "schema/wire.capnp.h"

namespace troupe::rpc::testing {

namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr const char* kAddressVariable = "TROUPE_TEST_SHARED_TENSORS_ADDRESS";
using contract::Shm;

Tensor pooled(Endpoint& endpoint, std::size_t bytes, int value) {
  Tensor tensor =
      Tensor::empty(DType::kUInt8, Shape({static_cast<std::int64_t>(bytes)}), endpoint.shared_pool());
  std::memset(tensor.data(), value, bytes);
  return tensor;
}

bool holds(const Tensor& tensor, std::size_t bytes, int value) {
  if (tensor.bytes() != bytes) return false;
  for (std::size_t i = 0; i < bytes; ++i)
    if (tensor.data()[i] != static_cast<std::byte>(value)) return false;
  return true;
}

std::size_t in_use(Endpoint& endpoint) {
  return endpoint.shared_pool().stats().blocks_in_use;
}

/// Keeps the tensors that come, and answers with nothing.
void keep_at(Side& side, std::vector<Tensor>& kept) {
  side.handler = [&kept](InboundCallPtr call) {
    Tensor tensor;
    REQUIRE(Codec<Tensor>::decode(call->message().value(0), tensor));
    kept.push_back(tensor);
    call->reply_void();
  };
}

EndpointEvents& nobody() {
  struct Nobody final : EndpointEvents {
    void on_call(InboundCallPtr call) override {
      call->reply_error({Code::kUnimplemented, "nobody is here"});
    }
    void on_session(SessionId, const Peer&) override {}
    void on_session_closed(SessionId, const Peer&, const Error&) override {}
  };
  static Nobody nobody;
  return nobody;
}

std::uint32_t pool_pid_of(const std::vector<std::byte>& message) {
  auto words = kj::heapArray<capnp::word>(message.size() / sizeof(capnp::word));
  std::memcpy(words.begin(), message.data(), message.size());
  capnp::FlatArrayMessageReader reader(words);
  return reader.getRoot<wire::Control>().getHello().getPoolPid();
}

template <class F>
void say(Stranger& stranger, F&& write) {
  capnp::MallocMessageBuilder builder;
  write(builder.initRoot<wire::Control>());
  const auto words = capnp::messageToFlatArray(builder);
  const auto bytes = words.asBytes();
  stranger.transport->send_control(stranger.links.at(0),
                                   std::as_bytes(std::span(bytes.begin(), bytes.size())));
}

/// An IPv4 address of this machine that others may reach; empty: it has none.
std::string address_of_an_interface() {
  ifaddrs* all = nullptr;
  if (::getifaddrs(&all) != 0) return {};
  std::string found;
  for (const ifaddrs* each = all; each && found.empty(); each = each->ifa_next) {
    if (!each->ifa_addr || each->ifa_addr->sa_family != AF_INET || (each->ifa_flags & IFF_LOOPBACK) != 0)
      continue;
    std::array<char, INET_ADDRSTRLEN> text{};
    const auto* address = reinterpret_cast<const sockaddr_in*>(each->ifa_addr);
    if (::inet_ntop(AF_INET, &address->sin_addr, text.data(), text.size())) found = text.data();
  }
  ::freeifaddrs(all);
  return found;
}

EndpointOptions without_sharing(std::uint64_t id, const std::string& name) {
  EndpointOptions options = options_of(id, name);
  options.shared.max_bytes = 0;
  return options;
}

}  // namespace

TEST_CASE_TEMPLATE("shared tensors: an argument arrives in place, is read-only, and its lease comes back",
                   Kind, contract::Shm, contract::Tcp, contract::UcxTcp) {
  Duo<Kind> duo;
  std::vector<Tensor> kept;
  keep_at(duo.b, kept);
  duo.connect();
  Tensor tensor = pooled(*duo.a.endpoint, kMiB, 3);
  for (int repeat = 0; repeat < 3; ++repeat)
    REQUIRE(duo.template call<void>("keep", tensor.rows(0, static_cast<std::int64_t>(kMiB) - repeat)).ok());
  CHECK(SharedPool::is_leased(tensor.buffer()));
  REQUIRE(kept.size() == 3);
  for (std::size_t i = 0; i < 3; ++i) {
    CHECK(kept[i].read_only());
    CHECK(kept[i].data() != tensor.data());
    CHECK(holds(kept[i], kMiB - i, 3));
  }
  tensor.data()[5] = std::byte{4};  // as its maker should not, but so it is seen that nothing was copied
  CHECK(kept[0].data()[5] == std::byte{4});
  kept.clear();
  CHECK(duo.until([&] { return !SharedPool::is_leased(tensor.buffer()); }));
  tensor = Tensor();
  CHECK(duo.until([&] { return in_use(*duo.a.endpoint) == 0; }));
  CHECK(duo.a.endpoint->shared_pool().stats().blocks_kept == (kFreshMemory ? 0 : 1));
}

TEST_CASE("shared tensors: what waits to be sent is leased already, and no longer when it is given up") {
  EndpointOptions bounded = options_of(1, "alice");
  bounded.limits.max_calls_in_flight = 1;
  Duo<Shm> duo(bounded);
  std::vector<InboundCallPtr> held;
  duo.b.handler = [&](InboundCallPtr call) { held.push_back(std::move(call)); };
  const CallOptions plain, with_token{.token = 7};
  // Before the two have met nobody knows whether it will be mapped or copied.
  duo.ab = duo.a.endpoint->connect(duo.address).value();
  const Tensor early = pooled(*duo.a.endpoint, kMiB, 1);
  auto first = call_async<void>(*duo.a.endpoint, {duo.ab, 5}, "take", "take", plain, early);
  CHECK(SharedPool::is_leased(early.buffer()));
  REQUIRE(duo.until([&] { return held.size() == 1; }));
  CHECK(duo.until([&] { return !SharedPool::is_leased(early.buffer()); }));  // it was copied

  // The second call waits for the first one's answer.
  for (const CallOptions& options : {plain, with_token}) {
    CAPTURE(options.token);
    const Tensor late = pooled(*duo.a.endpoint, kMiB, 2);
    auto waits = call_async<void>(*duo.a.endpoint, {duo.ab, 5}, "take", "take", options, late);
    CHECK(duo.a.endpoint->waiting().calls == 1);
    CHECK(SharedPool::is_leased(late.buffer()));
    waits.cancel();
    CHECK(duo.a.endpoint->waiting().calls == 0);
    CHECK_FALSE(SharedPool::is_leased(late.buffer()));
  }
  const Tensor late = pooled(*duo.a.endpoint, kMiB, 3);
  auto waits = call_async<void>(*duo.a.endpoint, {duo.ab, 5}, "take", "take", plain, late);
  CHECK(SharedPool::is_leased(late.buffer()));
  held[0]->reply_void();
  REQUIRE(duo.until([&] { return held.size() == 2; }));
  CHECK(SharedPool::is_leased(late.buffer()));  // it is mapped there
  held[1]->reply_void();
  held.clear();
  CHECK(duo.until([&] { return !SharedPool::is_leased(late.buffer()); }));
}

TEST_CASE("shared tensors: what another thread hands over is leased before the loop gets to it") {
  contract::Shm world;
  Endpoint endpoint(world.a, world.make(world.a, "a"), options_of(1, "alice"), nobody());
  const Tensor tensor = pooled(endpoint, kMiB, 1);
  Future<void> call;
  {
    const Loop::Turn turn(world.a);  // so the other thread cannot have it
    std::thread other([&] {
      call = call_async<void>(endpoint, {kLocal, 5}, "take", "take", {}, tensor, std::vector<Tensor>{tensor});
    });
    other.join();
    CHECK(SharedPool::is_leased(tensor.buffer()));
  }
  CHECK(world.run_until([&] { return call.ready(); }, 10s));
  CHECK_FALSE(SharedPool::is_leased(tensor.buffer()));
}

TEST_CASE("shared tensors: answers, parts of a tensor, mixtures and long bodies come as they were") {
  Duo<Shm> duo;
  duo.connect();
  Endpoint& answering = *duo.b.endpoint;
  duo.b.handler = [&](InboundCallPtr call) {
    std::vector<Tensor> got;
    REQUIRE(Codec<std::vector<Tensor>>::decode(call->message().value(0), got));
    REQUIRE(got.size() == 3);
    CHECK(got[0].read_only());
    CHECK_FALSE(got[1].read_only());
    CHECK(got[2].read_only());
    CHECK(holds(got[0], kMiB / 2, 1));
    CHECK(holds(got[1], kMiB, 2));
    CHECK(holds(got[2], 2 * kMiB, 3));
    got.push_back(pooled(answering, kMiB, 4));
    call->reply(got);
  };
  const Tensor first = pooled(*duo.a.endpoint, kMiB, 1);
  Tensor second = Tensor::empty(DType::kUInt8, Shape{static_cast<std::int64_t>(kMiB)});
  std::memset(second.data(), 2, kMiB);
  const std::vector<Tensor> sent{first.rows(kMiB / 4, 3 * kMiB / 4), second,
                                 pooled(*duo.a.endpoint, 2 * kMiB, 3)};
  for (const std::size_t text : {std::size_t{0}, std::size_t{100'000}}) {
    CAPTURE(text);  // the longer one puts the body apart
    auto answer = duo.call<std::vector<Tensor>>("tensors", sent, std::string(text, 'x')).value();
    REQUIRE(answer.size() == 4);
    CHECK(holds(answer[0], kMiB / 2, 1));
    CHECK(holds(answer[2], 2 * kMiB, 3));
    CHECK(answer[3].read_only());
    CHECK(holds(answer[3], kMiB, 4));
  }
  CHECK(duo.until([&] { return in_use(answering) == 0; }));
}

TEST_CASE("shared tensors: hundreds in one call are copied, thousands of leases come back") {
  Duo<Shm> duo;
  std::vector<Tensor> kept;
  keep_at(duo.b, kept);
  duo.connect();
  const Tensor tensor = pooled(*duo.a.endpoint, SharedPool::kSmallest, 8);
  std::vector<Answer>& answers = duo.answers(1000);
  for (Answer& answer : answers) start_call(*duo.a.endpoint, {duo.ab, 5}, "keep", 30s, answer, tensor);
  REQUIRE(duo.until([&] { return kept.size() == 1000; }));
  kept.clear();
  CHECK(duo.until([&] { return !SharedPool::is_leased(tensor.buffer()); }));
  duo.b.handler = [&](InboundCallPtr call) { call->reply(call->message().bytes()); };
  const std::vector<Tensor> many(300, tensor);
  CHECK(duo.call<std::uint64_t>("many", many).value() > 300 * SharedPool::kSmallest);
  CHECK_FALSE(SharedPool::is_leased(tensor.buffer()));
}

TEST_CASE("shared tensors: if a side does not share, all is copied") {
  bool first = false;
  SUBCASE("the sender") {
    first = true;
  }
  SUBCASE("the receiver") {
    first = false;
  }
  Duo<Shm> duo(first ? without_sharing(1, "alice") : options_of(1, "alice"),
               first ? options_of(2, "bob") : without_sharing(2, "bob"));
  std::vector<Tensor> kept;
  keep_at(duo.b, kept);
  duo.connect();
  SharedPool pool;
  Tensor tensor = Tensor::empty(DType::kUInt8, Shape{static_cast<std::int64_t>(kMiB)}, pool);
  std::memset(tensor.data(), 9, kMiB);
  REQUIRE(duo.call<void>("keep", tensor).ok());
  CHECK(holds(kept.at(0), kMiB, 9));
  CHECK_FALSE(kept[0].read_only());
  CHECK_FALSE(SharedPool::is_leased(tensor.buffer()));
}

TEST_CASE("shared tensors: a peer that cannot be on this machine is told of none, and may not claim to map") {
  for (const bool is_distant : {false, true}) {
    CAPTURE(is_distant);
    contract::Shm world;
    Side side;
    auto transport = std::make_unique<Forger>(world.make(world.a, "a"), [](OutFrame&) {});
    transport->is_distant = is_distant;
    Stranger stranger(world.make(world.b, "b"));
    const std::string at = stranger.transport->listen(contract::Shm::kAnyPort).value();
    side.endpoint = std::make_unique<Endpoint>(world.a, std::move(transport), options_of(1, "alice"), side);
    static_cast<void>(side.endpoint->connect(at).value());
    REQUIRE(world.run_until([&] { return stranger.control.size() == 1; }, 10s));
    CHECK(pool_pid_of(stranger.control[0]) == (is_distant ? 0 : static_cast<std::uint32_t>(::getpid())));
    const LinkId link = stranger.links.at(0);
    const auto address = stranger.transport->data_address(link);
    say(stranger, [&](wire::Control::Builder control) {
      auto hello = control.initHello();
      hello.setProtocolVersion(wire::PROTOCOL_VERSION);
      hello.setNodeId(2);
      hello.setNodeName("bob");
      hello.setDataAddress({reinterpret_cast<const capnp::byte*>(address.data()), address.size()});
    });
    say(stranger, [](wire::Control::Builder control) { control.setMapping(); });
    REQUIRE(world.run_until([&] { return stranger.control.size() >= 2 || !side.closed.empty(); }, 10s));
    CHECK(world.run_until([&] { return !side.closed.empty(); }, is_distant ? 10s : 50ms) == is_distant);
    if (is_distant) CHECK(side.closed.at(0).second.code == Code::kDataLoss);
  }
}

TEST_CASE("shared tensors: who has met over an address that others can have is not on this machine") {
  contract::Pair<contract::AutoTransport> pair;
  CHECK(pair.ta->can_share_memory(pair.a.link()));
  CHECK(pair.tb->can_share_memory(pair.b.link()));
  CHECK_FALSE(pair.ta->can_share_memory(pair.a.link() + 1));
  const std::string own = address_of_an_interface();
  if (own.empty()) return;  // this machine has none but loopback
  contract::Pair<contract::Tcp> far(false);
  REQUIRE(far.ta->dial(far.tb->listen(own + ":0").value()).ok());
  REQUIRE(far.until([&] { return far.a.open() && far.b.open(); }));
  CHECK_FALSE(far.ta->can_share_memory(far.a.link()));
  CHECK_FALSE(far.tb->can_share_memory(far.b.link()));
}

TEST_CASE("shared tensors: simulated, they are copied") {
  Duo<contract::Sim> duo;
  std::vector<Tensor> kept;
  keep_at(duo.b, kept);
  duo.connect();
  REQUIRE(duo.call<void>("keep", pooled(*duo.a.endpoint, kMiB, 9)).ok());
  CHECK(holds(kept.at(0), kMiB, 9));
  CHECK_FALSE(kept[0].read_only());
}

TEST_CASE("shared tensors: the end of the session takes nothing from a reader that lives on") {
  Duo<Shm> duo;
  std::vector<Tensor> kept;
  keep_at(duo.b, kept);
  duo.connect();
  REQUIRE(duo.call<void>("keep", pooled(*duo.a.endpoint, kMiB, 1)).ok());
  CHECK(in_use(*duo.a.endpoint) == 1);
  duo.a.endpoint->close(duo.ab, {Code::kCancelled, "enough"});
  REQUIRE(duo.until([&] { return duo.b.closed.size() == 1; }));
  CHECK(in_use(*duo.a.endpoint) == 0);
  CHECK(duo.a.endpoint->shared_pool().stats().blocks_kept == 0);
  const Tensor other = pooled(*duo.a.endpoint, kMiB, 2);
  CHECK(holds(kept.at(0), kMiB, 1));
  duo.a.endpoint.reset();
  CHECK(holds(kept.at(0), kMiB, 1));
  duo.b.endpoint.reset();
  kept.clear();  // after everything that it could be returned to
}

TEST_CASE("shared tensors: one that nobody has agreed upon, or that lies wrong, ends the session") {
  enum class Lie { kUnasked, kOffset, kLength, kCookie };
  for (const Lie lie : {Lie::kUnasked, Lie::kOffset, Lie::kLength, Lie::kCookie}) {
    CAPTURE(static_cast<int>(lie));
    MemoryPool pool;
    SharedPool shared;
    std::uint64_t lease = 1;
    OutMessage out(pool, {MessageKind::kRequest, 1, 5, 1, 0, 1s, {}});
    out.share(lease);
    out.values(1);
    const Tensor tensor = Tensor::empty(DType::kUInt8, Shape{static_cast<std::int64_t>(kMiB)}, shared);
    out.value(0).tensor(tensor);
    OutFrame frame = out.finish(4096).value();
    CHECK(frame.parts.empty());
    REQUIRE(frame.leases);
    struct Liar final : SharedTensors {
      Lie lie{};
      Result<Buffer> open(const SharedPool::Location& location, std::uint64_t, std::uint64_t bytes) override {
        SharedPool::Location false_location = location;
        if (lie == Lie::kCookie) ++false_location.cookie;
        auto mapping = SharedMapping::open(::getpid(), false_location);
        if (!mapping) return mapping.error();
        return SharedMapping::view(*mapping, lie == Lie::kOffset ? 1 : location.offset,
                                   lie == Lie::kLength ? bytes + kMiB : bytes, {});
      }
    } liar;
    liar.lie = lie;
    const auto parsed = InMessage::parse(Buffer(frame.head), {}, lie == Lie::kUnasked ? nullptr : &liar);
    REQUIRE_FALSE(parsed.ok());
    CHECK(parsed.error().code == (lie == Lie::kCookie ? Code::kUnavailable : Code::kDataLoss));
  }
}

// ---- Two processes --------------------------------------------------------------------------------

/// The other process: this program again, which is to run this case alone. It keeps what it gets.
TEST_CASE("shared tensors: the other process" * doctest::skip()) {
  const char* const address = std::getenv(kAddressVariable);
  if (!address) return;
  contract::Shm world;
  Side side;
  side.endpoint = std::make_unique<Endpoint>(world.a, world.make(world.a, "c"), options_of(3, "carol"), side);
  std::vector<Tensor> kept;
  side.handler = [&](InboundCallPtr call) {
    Tensor tensor;
    if (call->message().value_count() == 1 && Codec<Tensor>::decode(call->message().value(0), tensor))
      kept.push_back(tensor);
    if (call->message().value_count() == 0) kept.clear();
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < tensor.bytes(); ++i) sum += static_cast<std::uint64_t>(tensor.data()[i]);
    call->reply(std::pair<bool, std::uint64_t>(tensor.read_only(), sum));
  };
  side.endpoint->connect(address).value();
  (void)world.run_until([&] { return !side.closed.empty(); }, 60s);
}

namespace {
/// Starts it, and ends it if it has not been ended.
class OtherProcess {
 public:
  explicit OtherProcess(const std::string& address) {
    ::setenv(kAddressVariable, address.c_str(), 1);
    const char* const arguments[] = {"test_rpc", "--no-skip", "--test-case=shared tensors: the other process",
                                     nullptr};
    pid_ = ::vfork();
    if (pid_ == 0) {
      ::execv("/proc/self/exe", const_cast<char* const*>(arguments));
      ::_exit(127);
    }
    ::unsetenv(kAddressVariable);
  }
  ~OtherProcess() { kill(); }
  OtherProcess(const OtherProcess&) = delete;
  OtherProcess& operator=(const OtherProcess&) = delete;
  void kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }

 private:
  pid_t pid_ = 0;
};
}  // namespace

TEST_CASE("shared tensors: another process reads them in place, gives them back, and may be killed") {
  Duo<Shm> duo;
  OtherProcess other(duo.address);
  REQUIRE(duo.until([&] { return duo.b.sessions.size() == 1; }));
  Endpoint& endpoint = *duo.b.endpoint;
  const auto call = [&](const auto&... arguments) {
    auto future = call_async<std::pair<bool, std::uint64_t>>(endpoint, {duo.b.sessions[0].first, 5}, "sum",
                                                             "sum", {}, arguments...);
    REQUIRE(duo.until([&] { return future.ready(); }));
    return future.get().value();
  };
  for (const int value : {1, 2}) {
    const auto [read_only, sum] = call(pooled(endpoint, 4 * kMiB, value));
    CHECK(read_only);
    CHECK(sum == 4 * kMiB * static_cast<std::size_t>(value));
  }
  CHECK(in_use(endpoint) == 2);
  call();
  CHECK(duo.until([&] { return in_use(endpoint) == 0; }));
  CHECK(endpoint.shared_pool().stats().blocks_kept == (kFreshMemory ? 0 : 2));

  CHECK(call(pooled(endpoint, 4 * kMiB, 3)).first);
  CHECK(in_use(endpoint) == 1);
  other.kill();
  REQUIRE(duo.until([&] { return duo.b.closed.size() == 1; }));
  CHECK(in_use(endpoint) == 0);
}

}  // namespace troupe::rpc::testing
