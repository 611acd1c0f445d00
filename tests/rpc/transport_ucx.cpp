// What only the UCX transport does: real processes that die, sockets that anybody can reach, and living
// in a process that is not its own.
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <string>

#include "control/address.hpp"
#include "transport/process_transport.hpp"
#include "transport_child.hpp"
#include "transport_contract.hpp"
#include "ucx/parked_workers.hpp"

namespace troupe::rpc::contract {

namespace {

/// UCX's files in shared memory, of whatever process.
std::set<std::string> segments_in_shm() {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator("/dev/shm")) {
    std::string name = entry.path().filename().string();
    if (name.starts_with("ucx")) names.insert(std::move(name));
  }
  return names;
}

/// Whether what is there now and was not among `before` goes away: what other tests beside this one use does
/// so when they end, what somebody has left behind does not.
bool new_segments_vanish(const std::set<std::string>& before, Duration patience) {
  const UniqueFd removals(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  REQUIRE(::inotify_add_watch(removals.get(), "/dev/shm", IN_DELETE) >= 0);
  std::set<std::string> suspects;
  for (const std::string& name : segments_in_shm())
    if (!before.contains(name)) suspects.insert(name);
  const auto deadline = std::chrono::steady_clock::now() + patience;
  for (;;) {
    const auto present = segments_in_shm();
    std::erase_if(suspects, [&](const std::string& name) { return !present.contains(name); });
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    if (suspects.empty() || left.count() <= 0) return suspects.empty();
    pollfd wait{removals.get(), POLLIN, 0};
    ::poll(&wait, 1, static_cast<int>(left.count()));
    std::array<char, 4096> told;
    while (::read(removals.get(), told.data(), told.size()) > 0) continue;
  }
}

/// Kills the peer with large and small messages in flight both ways; everything must end soon.
void kill_in_flight(const char* transports) {
  CAPTURE(std::string(transports));
  const TransportOptions options{transports, ""};
  const auto segments_before = segments_in_shm();
  Child victim(transports);
  Child survivor(transports);
  const std::string victim_address = victim.read();
  const std::string survivor_address = survivor.read();

  RealWorld world;
  auto transport = make_process_transport(world.a, options).value();
  Peer peer;
  peer.transport = transport.get();
  transport->set_events(peer);
  const LinkId doomed = transport->dial(victim_address).value();
  const LinkId lasting = transport->dial(survivor_address).value();
  const Duration timeout = std::chrono::seconds(20);
  REQUIRE(world.run_until([&] { return peer.links[doomed].open && peer.links[lasting].open; }, timeout));

  // Both answer, then the victim gets more than it can have received when it dies.
  for (std::uint64_t i = 0; i < 4; ++i) {
    REQUIRE(transport->send(doomed, make_frame(i, {i % 2 << 20})).ok());
    REQUIRE(transport->send(lasting, make_frame(i, {i % 2 << 20})).ok());
  }
  REQUIRE(world.run_until([&] { return peer.frames.size() == 8; }, timeout));
  for (std::uint64_t i = 0; i < 200; ++i) {
    REQUIRE(transport->send(doomed, make_frame(i, {i % 2 << 20})).ok());
    if (i % 10 == 0) world.a.poll();
  }
  victim.signal(SIGKILL);
  for (std::uint64_t i = 0; i < 200; ++i)
    static_cast<void>(transport->send(doomed, make_frame(i, {i % 2 << 20})));
  const auto noticing = std::chrono::steady_clock::now();
  REQUIRE(world.run_until([&] { return !peer.links[doomed].closed.empty(); }, timeout));
  CHECK(std::chrono::steady_clock::now() - noticing < std::chrono::seconds(2));
  CHECK(peer.links[doomed].closed[0].code == Code::kUnavailable);
  CHECK_FALSE(transport->send(doomed, make_frame(0)).ok());

  // The other link does not notice.
  const std::size_t before = peer.frames.size();
  for (std::uint64_t i = 0; i < 20; ++i) REQUIRE(transport->send(lasting, make_frame(i, {i % 2 << 20})).ok());
  REQUIRE(world.run_until(
      [&] {
        return static_cast<std::size_t>(
                   std::count_if(peer.frames.begin() + static_cast<std::ptrdiff_t>(before), peer.frames.end(),
                                 [&](const auto& frame) { return frame.link == lasting; })) == 20;
      },
      timeout));
  CHECK(peer.links[lasting].closed.empty());
  CHECK(peer.damaged() == 0);

  const auto begin = std::chrono::steady_clock::now();
  transport.reset();
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(2));
  victim.kill();
  survivor.kill();
  CHECK(new_segments_vanish(segments_before, timeout));
}

}  // namespace

TEST_CASE("ucx: killing a peer with messages in flight, shared memory") {
  kill_in_flight("shm");
}
TEST_CASE("ucx: killing a peer with messages in flight, TCP") {
  kill_in_flight("tcp");
}
TEST_CASE("ucx: killing a peer with messages in flight, UCX's TCP") {
  kill_in_flight("tcp,self");
}
TEST_CASE("ucx: killing a peer with messages in flight, any transport") {
  kill_in_flight("auto");
}

TEST_CASE("ucx: killing a peer with messages in flight, 'ucx'") {
  kill_in_flight("ucx");
}
/// For trying another UCX, or a way of it that is not in use: many times, with UCX's own names in
/// TROUPE_TEST_UCX_TRANSPORTS ("posix,cma,self") and perhaps its libraries in LD_LIBRARY_PATH.
TEST_CASE("ucx: killing a peer with messages in flight, as asked for" * doctest::skip()) {
  if (const char* transports = std::getenv("TROUPE_TEST_UCX_TRANSPORTS"))
    for (int i = 0; i < 20; ++i) kill_in_flight(transports);
}

TEST_CASE("ucx: garbage on the listening port closes only its own link") {
  Pair<AutoTransport> pair;
  const auto address = SocketAddress::parse(pair.address).value();
  for (const std::string_view garbage : {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "\xff\xff\xff\xff"}) {
    const std::size_t links = pair.b.links.size();
    const std::size_t closed = pair.b.closed();
    const int fd = ::socket(address.family(), SOCK_STREAM, 0);
    REQUIRE(::connect(fd, address.get(), address.size()) == 0);
    REQUIRE(::send(fd, garbage.data(), garbage.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(garbage.size()));
    REQUIRE(pair.until([&] { return pair.b.links.size() == links + 1; }));
    REQUIRE(pair.until([&] { return pair.b.closed() == closed + 1; }));
    CHECK(pair.b.links.rbegin()->second.closed[0].code == Code::kDataLoss);
    ::close(fd);
  }
  REQUIRE(pair.ta->send(pair.a.link(), make_frame(1, {100000})).ok());
  REQUIRE(pair.until([&] { return pair.b.frames.size() == 1; }));
}

TEST_CASE("ucx: unix sockets, and the file of a dead owner is replaced") {
  const auto path = std::filesystem::temp_directory_path() / ("troupe-test-" + std::to_string(::getpid()));
  const std::string address = "unix:" + path.string();
  {
    Pair<Shm> pair(false);
    CHECK(pair.tb->listen(address).value() == address);
    REQUIRE(pair.ta->dial(address).ok());
    REQUIRE(pair.until([&] { return pair.a.open() && pair.b.open(); }));
    REQUIRE(pair.ta->send(pair.a.link(), make_frame(0)).ok());
    REQUIRE(pair.until([&] { return pair.b.frames.size() == 1; }));
    const auto taken = pair.ta->listen(address);
    REQUIRE_FALSE(taken.ok());
    CHECK(taken.error().code == Code::kAlreadyExists);
  }
  CHECK_FALSE(std::filesystem::exists(path));
  const int dead = ::socket(AF_UNIX, SOCK_STREAM, 0);
  const auto parsed = SocketAddress::parse(address).value();
  REQUIRE(::bind(dead, parsed.get(), parsed.size()) == 0);
  ::close(dead);
  Pair<Shm> pair(false);
  CHECK(pair.tb->listen(address).ok());
}

TEST_CASE("ucx: transports that UCX does not have are an error that lists what it has") {
  RealClock clock;
  Loop loop(clock);
  const auto made = make_process_transport(loop, {"warp_drive", ""});
  REQUIRE_FALSE(made.ok());
  CHECK(made.error().code == Code::kUnavailable);
  CHECK(made.error().message.find("warp_drive") != std::string::npos);
  CHECK(made.error().message.find("tcp/lo") != std::string::npos);
}

TEST_CASE("ucx: signal handlers of the process stay its own") {
  RealClock clock;
  Loop loop(clock);
  const auto transport = make_process_transport(loop, {"tcp,self", ""});
  struct sigaction action {};
  REQUIRE(::sigaction(SIGHUP, nullptr, &action) == 0);
  const bool is_default = action.sa_handler == SIG_DFL;
  CHECK(is_default);
}

TEST_CASE("ucx: a second worker takes over when another host is named, and the first goes") {
  RealWorld world;
  auto transport = ProcessTransport::create(world.a, {"tcp,self", ""}).value();
  CHECK(transport->workers() == 1);
  REQUIRE(transport->listen("0.0.0.0:0").ok());
  CHECK(transport->workers() == 2);
  REQUIRE(world.run_until([&] { return transport->workers() == 1; }, std::chrono::seconds(5)));
}

TEST_CASE("ucx: memory is asked for when a large message's turn comes, not when it is announced") {
  Pair<Shm> pair;
  pair.warm_up();
  constexpr std::size_t kSize = std::size_t{1} << 20;
  constexpr std::size_t kCount = 32;
  std::size_t asked = 0;
  std::size_t most_held = 0;
  pair.b.parts_hook = [&](std::size_t total, std::vector<Buffer>& parts) -> Result<void> {
    parts.push_back(Buffer::allocate(total));
    most_held = std::max(most_held, ++asked - pair.b.frames.size());
    return {};
  };
  for (std::uint64_t i = 0; i < kCount; ++i) {
    REQUIRE(pair.ta->send(pair.a.link(), make_frame(i, {kSize})).ok());
  }
  REQUIRE(pair.until([&] { return pair.b.frames.size() == kCount; }));
  CHECK(pair.b.in_order());
  CHECK(pair.b.damaged() == 0);
  CHECK(most_held <= 3);  // two on their way, and one that waits for being delivered
  REQUIRE(pair.until([&] { return pair.ta->bytes_in_flight(pair.a.link()) == 0; }));
}

TEST_CASE("ucx: messages for links that never were are dropped and counted") {
  RealWorld world;
  auto ta = ProcessTransport::create(world.a, {"posix,cma,self", ""}).value();
  auto tb = ProcessTransport::create(world.b, {"posix,cma,self", ""}).value();
  Peer a;
  Peer b;
  a.transport = ta.get();
  b.transport = tb.get();
  ta->set_events(a);
  tb->set_events(b);
  REQUIRE(ta->dial(tb->listen("127.0.0.1:0").value()).ok());
  REQUIRE(world.run_until([&] { return a.open() && b.open(); }, std::chrono::seconds(5)));
  tb->close(b.link());
  REQUIRE(ta->send(a.link(), make_frame(0)).ok());
  REQUIRE(ta->send(a.link(), make_frame(1, {100})).ok());
  REQUIRE(ta->send(a.link(), make_frame(2, {1 << 20})).ok());
  REQUIRE(world.run_until([&] { return a.closed() == 1; }, std::chrono::seconds(5)));
  REQUIRE(world.run_until([&] { return tb->stats().stray == 3 && ta->unfinished() == 0; },
                          std::chrono::seconds(5)));
  CHECK(b.frames.empty());
}

TEST_CASE(
    "ucx: a transport may go while a connection over TCP is being made; few workers are kept for that") {
  std::size_t most_parked = 0;
  const std::size_t others = ParkedWorkers::all().count();  // parked by earlier tests
  for (int polls = 0; polls < 40; ++polls) {
    CAPTURE(polls);
    Pair<UcxTcp> pair;
    if (polls % 10 == 9 && ParkedWorkers::all().count() < ParkedWorkers::kMostKept) {
      pair.warm_up();
    } else {
      CHECK(pair.ta->send(pair.a.link(), make_frame(0)).ok());
      CHECK(pair.tb->send(pair.b.link(), make_frame(0)).ok());
    }
    for (int i = 0; i < polls / 2; ++i) {
      pair.world.a.poll();
      pair.world.b.poll();
    }
    (polls % 2 == 0 ? pair.ta : pair.tb).reset();
    pair.ta.reset();
    pair.tb.reset();
    most_parked = std::max(most_parked, ParkedWorkers::all().count());
  }
  CHECK((most_parked > others || others >= ParkedWorkers::kMostKept));
  CHECK(most_parked <= others + ParkedWorkers::kMostKept + 2);
}

TEST_CASE("ucx: a worker that has only had whole connections goes with its transport") {
  const std::size_t before = ParkedWorkers::all().count();
  {
    Pair<UcxTcp> pair;
    pair.warm_up();
  }
  CHECK(ParkedWorkers::all().count() == before);
}

}  // namespace troupe::rpc::contract
