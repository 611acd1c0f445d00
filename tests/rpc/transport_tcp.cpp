// What only streams over TCP do: a port that anybody can reach, and sockets that may end one by one.
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "control/address.hpp"
#include "control/socket.hpp"
#include "mangled_stream.hpp"
#include "transport/process_transport.hpp"
#include "transport_contract.hpp"

namespace troupe::rpc::contract {
namespace {

/// A Pair whose side `a` has met `b`, but makes its streams by hand.
struct HandMade {
  HandMade() : pair(false) {
    pair.tb->bound_strangers({.max_links = kMostStrangers});
    events.transport = pair.ta.get();
    pair.ta->set_events(events);
    REQUIRE(pair.ta->dial(pair.address).ok());
    REQUIRE(pair.until([&] { return pair.b.open(); }));
    pair.tb->admit(pair.b.link());
    auto& transport = dynamic_cast<ProcessTransport&>(*pair.tb);
    at = transport.streams().address(pair.b.link());
    REQUIRE(at.takes_streams == 1);
  }

  /// A connection to b's port that has said `preamble`, or the beginning of it.
  UniqueFd connect(const tcp::Preamble& preamble, std::size_t bytes = sizeof(tcp::Preamble)) {
    const auto there = SocketAddress::parse(pair.address).value();
    UniqueFd fd(::socket(there.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
    REQUIRE(::connect(fd.get(), there.get(), there.size()) == 0);
    REQUIRE(::send(fd.get(), &preamble, bytes, MSG_NOSIGNAL) == static_cast<ssize_t>(bytes));
    return fd;
  }
  tcp::Preamble preamble(tcp::StreamKind kind) const { return {tcp::Preamble::kMagic, kind, at.token}; }
  /// Whether b hangs up.
  bool hung_up(const UniqueFd& fd, Duration patience = std::chrono::seconds(5)) {
    return pair.until(
        [&] {
          char byte = 0;
          return ::recv(fd.get(), &byte, 1, MSG_DONTWAIT) == 0;
        },
        patience);
  }

  struct Events final : TransportEvents {
    void on_link(LinkId id, std::string_view, bool) override {
      link = id;
      transport->send_control(link, transport->data_address(link));
    }
    void on_control(LinkId, std::span<const std::byte>) override {}
    Result<void> on_parts(LinkId, std::span<const std::byte>, std::size_t, std::vector<Buffer>&) override {
      return Error{Code::kInternal, "not expected"};
    }
    void on_frame(LinkId, Buffer&&, std::vector<Buffer>&&) override {}
    void on_closed(LinkId, Error) override {}
    Transport* transport = nullptr;
    LinkId link = 0;
  };

  /// Why b's link has ended; empty: it has not.
  std::string closings() {
    std::string why;
    for (const Error& error : pair.b.links.begin()->second.closed) why += error.to_string();
    return why;
  }

  static constexpr std::size_t kMostStrangers = 64;
  Events events;
  Pair<Tcp> pair;
  tcp::Address at;
};

/// Forwards connections of one port, and no other, as ssh -L and docker -p do: the peer sees the forwarder's
/// address. On a thread.
class Forwarder {
 public:
  explicit Forwarder(const std::string& to)
      : to_(SocketAddress::parse(to).value()),
        listener_(std::move(*listen_socket(SocketAddress::parse("127.0.0.1:0").value()))),
        thread_([this] { run(); }) {}
  ~Forwarder() {
    stop_ = true;
    thread_.join();
  }
  Forwarder(const Forwarder&) = delete;
  Forwarder& operator=(const Forwarder&) = delete;

  std::string address() const { return SocketAddress::local_of(listener_.get()).to_string(); }
  int connections() const { return connections_; }

 private:
  struct Way {
    UniqueFd from, to;
    std::vector<std::byte> waiting;
    bool ended = false;
  };
  void run() {
    while (!stop_) {
      accept();
      bool moved = false;
      for (Way& way : ways_) moved = move(way) || moved;
      pollfd nothing{listener_.get(), POLLIN, 0};
      if (!moved) ::poll(&nothing, 1, 1);
    }
  }
  void accept() {
    UniqueFd near(::accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!near) return;
    UniqueFd far(::socket(to_.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (::connect(far.get(), to_.get(), to_.size()) != 0) return;
    ++connections_;
    const auto copy_of = [](const UniqueFd& fd) { return UniqueFd(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0)); };
    ways_.push_back({copy_of(near), copy_of(far), {}, false});
    ways_.push_back({std::move(far), std::move(near), {}, false});
  }
  static bool move(Way& way) {
    if (way.ended) return false;
    if (way.waiting.empty()) {
      way.waiting.resize(65536);
      const ssize_t n = ::recv(way.from.get(), way.waiting.data(), way.waiting.size(), MSG_DONTWAIT);
      way.waiting.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
      way.ended = n == 0;
      if (way.ended) ::shutdown(way.to.get(), SHUT_WR);
      if (n <= 0) return false;
    }
    const ssize_t sent = send_some(way.to.get(), way.waiting);
    if (sent > 0) way.waiting.erase(way.waiting.begin(), way.waiting.begin() + sent);
    return sent > 0;
  }

  const SocketAddress to_;
  const UniqueFd listener_;
  std::vector<Way> ways_;
  std::atomic<int> connections_ = 0;
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

}  // namespace

TEST_CASE("tcp: who does not know a link's token is hung up on, and the link does not notice") {
  HandMade hand;
  auto wrong = hand.preamble(tcp::StreamKind::kMessages);
  wrong.token[1] ^= 1;
  CHECK(hand.hung_up(hand.connect(wrong)));
  wrong = hand.preamble(tcp::StreamKind::kMessages);
  wrong.token[0] ^= std::uint64_t{1} << 40;
  CHECK(hand.hung_up(hand.connect(wrong)));
  wrong = hand.preamble(tcp::StreamKind::kMessages);
  wrong.magic ^= 1;
  CHECK(hand.hung_up(hand.connect(wrong)));
  wrong = hand.preamble(static_cast<tcp::StreamKind>(7));
  CHECK(hand.hung_up(hand.connect(wrong)));

  const UniqueFd messages = hand.connect(hand.preamble(tcp::StreamKind::kMessages));
  CHECK(hand.hung_up(hand.connect(hand.preamble(tcp::StreamKind::kMessages))));  // there is one already
  const UniqueFd bulk = hand.connect(hand.preamble(tcp::StreamKind::kBulk));
  CHECK_FALSE(hand.hung_up(messages, std::chrono::milliseconds(50)));
  tcp::RecordHeader header;
  header.head_bytes = 8;
  std::array<std::byte, 24> record{};
  std::memcpy(record.data(), &header, sizeof header);
  REQUIRE(::send(messages.get(), record.data(), record.size(), MSG_NOSIGNAL) == 24);
  CHECK(hand.pair.until([&] { return hand.pair.b.frames.size() == 1; }));
  CHECK(hand.closings() == "");
}

TEST_CASE("tcp: strangers who say nothing have their time, and then give way to others") {
  HandMade hand;
  const UniqueFd first = hand.connect(hand.preamble(tcp::StreamKind::kMessages), 5);
  hand.pair.settle();
  std::vector<UniqueFd> others;
  others.reserve(HandMade::kMostStrangers);
  for (std::size_t i = 0; i < HandMade::kMostStrangers; ++i)
    others.push_back(hand.connect(hand.preamble(tcp::StreamKind::kBulk), 0));
  // Not at once: it may be on its way to say more.
  CHECK_FALSE(hand.hung_up(first, std::chrono::milliseconds(100)));
  CHECK(hand.hung_up(first));
  const UniqueFd messages = hand.connect(hand.preamble(tcp::StreamKind::kMessages));
  CHECK_FALSE(hand.hung_up(messages, std::chrono::milliseconds(50)));
  CHECK(hand.closings() == "");
}

TEST_CASE("tcp: a preamble may come in pieces, and what follows it is the stream's") {
  HandMade hand;
  const UniqueFd bulk = hand.connect(hand.preamble(tcp::StreamKind::kBulk));
  const tcp::Preamble preamble = hand.preamble(tcp::StreamKind::kMessages);
  std::vector<std::byte> said(sizeof preamble + sizeof(tcp::RecordHeader) + 8);
  tcp::RecordHeader header;
  header.head_bytes = 8;
  std::memcpy(said.data(), &preamble, sizeof preamble);
  std::memcpy(said.data() + sizeof preamble, &header, sizeof header);
  const UniqueFd messages = hand.connect(preamble, 1);
  for (std::size_t at = 1; at < said.size();) {
    const std::size_t piece = std::min<std::size_t>(at < sizeof preamble ? 3 : 100, said.size() - at);
    REQUIRE(::send(messages.get(), said.data() + at, piece, MSG_NOSIGNAL) == static_cast<ssize_t>(piece));
    at += piece;
    hand.pair.settle(std::chrono::milliseconds(2));
  }
  CHECK(hand.pair.until([&] { return hand.pair.b.frames.size() == 1; }));
}

TEST_CASE("tcp: one port is enough: all goes through a forwarder of it") {
  Pair<Tcp> pair(false);
  const Forwarder forwarder(pair.address);
  REQUIRE(pair.ta->dial(forwarder.address()).ok());
  REQUIRE(pair.until([&] { return pair.a.open() && pair.b.open(); }));
  pair.warm_up();
  REQUIRE(pair.ta->send(pair.a.link(), make_frame(1, {3'000'000})).ok());
  REQUIRE(pair.tb->send(pair.b.link(), make_frame(1, {3'000'000})).ok());
  REQUIRE(pair.until([&] { return pair.a.frames.size() == 1 && pair.b.frames.size() == 1; }));
  CHECK(pair.a.damaged() == 0);
  CHECK(pair.b.damaged() == 0);
  CHECK(forwarder.connections() == 3);
}

TEST_CASE("tcp: a peer that sends nonsense on its stream loses its link") {
  HandMade hand;
  const UniqueFd messages = hand.connect(hand.preamble(tcp::StreamKind::kMessages));
  const UniqueFd bulk = hand.connect(hand.preamble(tcp::StreamKind::kBulk));
  constexpr std::string_view kNonsense = "GET / HTTP/1.1\r\nHost: nobody\r\n\r\n";
  REQUIRE(::send(messages.get(), kNonsense.data(), kNonsense.size(), MSG_NOSIGNAL) > 0);
  REQUIRE(hand.pair.until([&] { return hand.pair.b.closed() == 1; }));
  CHECK(hand.pair.b.links.begin()->second.closed[0].code == Code::kDataLoss);
}

TEST_CASE("tcp: a peer that has left and goes on writing is told of all the same") {
  HandMade hand;
  const UniqueFd messages = hand.connect(hand.preamble(tcp::StreamKind::kMessages));
  const UniqueFd bulk = hand.connect(hand.preamble(tcp::StreamKind::kBulk));
  hand.pair.b.parts_hook = [](std::size_t total, std::vector<Buffer>& parts) -> Result<void> {
    parts.push_back(Buffer::allocate(total));
    return {};
  };
  // Whole records without end, by another thread.
  std::vector<std::byte> record(sizeof(tcp::RecordHeader) + 8 + tcp::kMostInline);
  tcp::RecordHeader header;
  header.head_bytes = 8;
  header.part_bytes = tcp::kMostInline;
  std::memcpy(record.data(), &header, sizeof header);
  std::atomic<bool> stop{false};
  std::atomic<std::size_t> written{0};
  std::thread writer([&] {
    while (!stop) {
      const ssize_t n = ::send(messages.get(), record.data(), record.size(), MSG_NOSIGNAL);
      if (n != static_cast<ssize_t>(record.size())) break;
      written += record.size();
    }
  });
  REQUIRE(hand.pair.until([&] { return !hand.pair.b.frames.empty(); }));
  hand.pair.ta->close(hand.events.link);
  const std::size_t before = written;
  CHECK(hand.pair.until([&] { return hand.pair.b.closed() == 1; }));
  const std::size_t more = written - before;
  MESSAGE(more << " bytes more were written");
  stop = true;
  writer.join();
}

TEST_CASE("tcp: who is at the other end is what the streams have proof of") {
  Pair<MangledTcp> pair;
  pair.warm_up();
  CHECK(pair.ta->peer_identity(pair.a.link()) == "whoever mangles");
  CHECK(pair.tb->peer_identity(pair.b.link()) == "whoever mangles");
  CHECK(pair.ta->peer_identity(pair.a.link() + 1).empty());
  Pair<Tcp> plain;
  plain.warm_up();
  CHECK(plain.ta->peer_identity(plain.a.link()).empty());

  // A link whose streams lead to different peers is none.
  Pair<MangledTcp> torn(false);
  int streams = 0;
  dynamic_cast<ProcessTransport&>(*torn.tb).streams().set_streams(
      [&](UniqueFd fd) { return tcp::mangled_stream(std::move(fd), "peer " + std::to_string(++streams)); });
  REQUIRE(torn.ta->dial(torn.address).ok());
  REQUIRE(torn.until([&] { return torn.b.closed() == 1; }));
  CHECK(torn.b.links.begin()->second.closed[0].code == Code::kUnauthenticated);
}

TEST_CASE("tcp: many links over streams that read ahead forget nothing of what they have read") {
  constexpr std::size_t kLinks = 5;  // more than are asked without epoll
  constexpr std::size_t kMessages = 40;
  Pair<MangledTcp> pair(false);
  for (std::size_t i = 0; i < kLinks; ++i) REQUIRE(pair.ta->dial(pair.address).ok());
  const auto all_open = [&](const Peer& peer) {
    return peer.links.size() == kLinks && std::all_of(peer.links.begin(), peer.links.end(),
                                                      [](const auto& link) { return link.second.open; });
  };
  REQUIRE(pair.until([&] { return all_open(pair.a) && all_open(pair.b); }));
  for (std::uint64_t i = 0; i < kMessages; ++i)
    for (const auto& [link, seen] : pair.a.links) REQUIRE(pair.ta->send(link, make_frame(i, {9'000})).ok());
  REQUIRE(pair.until([&] { return pair.b.frames.size() == kLinks * kMessages; }));
  CHECK(pair.b.damaged() == 0);
}

TEST_CASE("tcp: what a peer had sent before it left comes, though its stream gives it in pieces") {
  constexpr std::uint64_t kMessages = 7;  // the kernel takes them all
  Pair<MangledTcp> pair;
  pair.warm_up();
  for (std::uint64_t i = 0; i < kMessages; ++i)
    REQUIRE(pair.ta->send(pair.a.link(), make_frame(i, {9'000})).ok());
  for (int i = 0; i < 1000 && pair.ta->bytes_in_flight(pair.a.link()) > 0; ++i) pair.world.a.poll();
  REQUIRE(pair.ta->bytes_in_flight(pair.a.link()) == 0);
  pair.ta->close(pair.a.link());
  REQUIRE(pair.until([&] { return pair.b.closed() == 1; }));
  CHECK(pair.b.frames.size() == kMessages);
  CHECK(pair.b.damaged() == 0);
}

TEST_CASE("tcp: streams go where the meeting went") {
  const std::string path = "unix:/tmp/troupe-test-" + std::to_string(::getpid());
  for (const std::string& address : {std::string("[::1]:0"), path, std::string("0.0.0.0:0")}) {
    CAPTURE(address);
    Pair<Tcp> pair(false);
    std::string there = pair.tb->listen(address).value();
    if (there.starts_with("0.0.0.0")) there.replace(0, 7, "127.0.0.1");
    REQUIRE(pair.ta->dial(there).ok());
    REQUIRE(pair.until([&] { return pair.a.open() && pair.b.open(); }));
    pair.warm_up();
    REQUIRE(pair.tb->send(pair.b.link(), make_frame(1, {100000})).ok());
    REQUIRE(pair.until([&] { return pair.a.frames.size() == 1; }));
    CHECK(pair.a.damaged() == 0);
  }
}

TEST_CASE("tcp: the first answer of a round does not wait for the others, which go together") {
  Pair<Tcp> pair;
  pair.warm_up();
  pair.a.frames.clear();
  pair.b.frames.clear();
  bool first_came = false;
  pair.b.frame_hook = [&](LinkId link) {
    const std::size_t handled = pair.b.frames.size();
    REQUIRE(pair.tb->send(link, make_frame(handled)).ok());
    // b is in the middle of its round: only a goes on meanwhile.
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
    while (handled == 1 && pair.a.frames.empty() && std::chrono::steady_clock::now() < deadline)
      pair.world.a.poll();
    if (handled == 1) first_came = pair.a.frames.size() == 1;
    if (handled == 3) {
      for (int i = 0; i < 10; ++i) pair.world.a.poll();
      CHECK(pair.a.frames.size() == 1);  // 2 and 3 are being collected
    }
  };
  for (std::uint64_t i = 0; i < 3; ++i) REQUIRE(pair.ta->send(pair.a.link(), make_frame(i)).ok());
  REQUIRE(pair.until([&] { return pair.a.frames.size() == 3; }));
  CHECK(first_came);
}

TEST_CASE("tcp: where many are answered, each in a moment, the first answer waits for the others") {
#ifdef TROUPE_SANITIZER
  MESSAGE("skipped: nothing is done in a moment under a sanitizer");
  return;
#endif
  Pair<Tcp> pair;
  pair.warm_up();
  constexpr std::size_t kMany = 64;
  std::size_t handled = 0;
  bool looks = false, first_waited = false;
  pair.b.frame_hook = [&](LinkId link) {
    REQUIRE(pair.tb->send(link, make_frame(handled++)).ok());
    if (!looks || handled != 2) return;
    for (int i = 0; i < 10; ++i) pair.world.a.poll();
    first_waited = pair.a.frames.empty();
  };
  // The machine may be busy just then: so it is done again.
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!first_waited && std::chrono::steady_clock::now() < deadline) {
    for (const bool look : {false, false, true}) {
      looks = look;
      handled = 0;
      pair.a.frames.clear();
      pair.b.frames.clear();
      for (std::uint64_t i = 0; i < kMany; ++i) {
        REQUIRE(pair.ta->send(pair.a.link(), make_frame(i)).ok());
      }
      REQUIRE(pair.until([&] { return pair.a.frames.size() == kMany; }));
      CHECK(pair.a.in_order());
    }
  }
  CHECK(first_waited);
}

TEST_CASE("tcp: a short message overtakes a long one") {
  Pair<Tcp> pair;
  pair.warm_up();
  REQUIRE(pair.ta->send(pair.a.link(), make_frame(1, {64 << 20})).ok());
  pair.world.a.poll();
  REQUIRE(pair.ta->send(pair.a.link(), make_frame(2)).ok());
  REQUIRE(pair.until([&] { return pair.b.frames.size() == 2; }));
  CHECK(pair.b.frames[0].sequence == 2);
  CHECK(pair.b.damaged() == 0);
  REQUIRE(pair.until([&] { return pair.ta->bytes_in_flight(pair.a.link()) == 0; }));
}

TEST_CASE(
    "tcp: an answer does not wait for one that takes long behind the next, however quick those before were") {
  constexpr std::uint64_t kMany = 20;
  Pair<Tcp> pair;
  pair.warm_up();
  std::size_t late = 0;
  bool slow = false;
  pair.b.frame_hook = [&](LinkId link) {
    const std::size_t come = pair.b.frames.size();
    if (slow && come == 2) {
      const auto begin = std::chrono::steady_clock::now();
      while (std::chrono::steady_clock::now() - begin < std::chrono::milliseconds(1)) continue;
    }
    if (slow && come == 3) {
      pair.world.a.poll();
      if (pair.a.frames.empty()) ++late;
    }
    CHECK(pair.tb->send(link, make_frame(come)).ok());
  };
  const auto ask_many = [&] {
    pair.a.frames.clear();
    pair.b.frames.clear();
    for (std::uint64_t i = 0; i < kMany; ++i) REQUIRE(pair.ta->send(pair.a.link(), make_frame(i)).ok());
    pair.world.b.poll();
  };
  for (int round = 0; round < 20; ++round) {
    slow = false;
    ask_many();  // quick ones, after which the next are taken to be quick, too
    REQUIRE(pair.until([&] { return pair.a.frames.size() == kMany; }));
    slow = true;
    ask_many();
    REQUIRE(pair.until([&] { return pair.a.frames.size() == kMany; }));
  }
  CHECK(late == 0);
}

TEST_CASE("tcp: a peer that closes one stream only, or never makes it, is given up") {
  for (const bool makes : {true, false}) {
    CAPTURE(makes);
    HandMade hand;
    const UniqueFd bulk = hand.connect(hand.preamble(tcp::StreamKind::kBulk));
    UniqueFd messages;
    if (makes) {
      messages = hand.connect(hand.preamble(tcp::StreamKind::kMessages));
      hand.pair.settle();
      messages = UniqueFd();
    }
    const auto begin = std::chrono::steady_clock::now();
    REQUIRE(hand.pair.until([&] { return hand.pair.b.closed() == 1; }));
    const auto took = std::chrono::steady_clock::now() - begin;
    CHECK(took > (makes ? std::chrono::milliseconds(300) : std::chrono::milliseconds(4500)));
    CHECK(took < (makes ? std::chrono::milliseconds(3000) : std::chrono::milliseconds(8000)));
    CHECK(hand.pair.b.links.begin()->second.closed[0].code == Code::kUnavailable);
  }
}

}  // namespace troupe::rpc::contract
