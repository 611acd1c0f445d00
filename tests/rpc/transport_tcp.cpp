// What only streams over TCP do: a port that anybody can reach, and sockets that may end one by one.
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstring>
#include <string_view>
#include <vector>

#include "meeting/address.hpp"
#include "meeting/socket.hpp"
#include "transport/process_transport.hpp"
#include "transport_contract.hpp"

namespace troupe::rpc::contract {
namespace {

/// A Pair whose side `a` has met `b`, but makes its streams by hand.
struct HandMade {
  HandMade() : pair(false) {
    events.transport = pair.ta.get();
    pair.ta->set_events(events);
    REQUIRE(pair.ta->dial(pair.address).ok());
    REQUIRE(pair.until([&] { return pair.b.open(); }));
    auto& transport = dynamic_cast<ProcessTransport&>(*pair.tb);
    at = transport.streams().address(pair.b.link());
    REQUIRE(at.port != 0);
  }

  /// A connection to b's port for streams that has said `preamble`.
  UniqueFd connect(const tcp::Preamble& preamble, std::size_t bytes = sizeof(tcp::Preamble)) {
    const auto there = SocketAddress::parse(pair.address).value().with_port(at.port);
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
    void on_link(LinkId link, std::string_view, bool) override {
      transport->send_control(link, transport->data_address(link));
    }
    void on_control(LinkId, std::span<const std::byte>) override {}
    Result<void> on_parts(LinkId, std::span<const std::byte>, std::size_t, std::vector<Buffer>&) override {
      return Error{Code::kInternal, "not expected"};
    }
    void on_frame(LinkId, Buffer&&, std::vector<Buffer>&&) override {}
    void on_closed(LinkId, Error) override {}
    Transport* transport = nullptr;
  };

  Events events;
  Pair<Tcp> pair;
  tcp::Address at;
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
  CHECK(hand.pair.b.closed() == 0);
}

TEST_CASE("tcp: strangers who say nothing give way to others") {
  HandMade hand;
  const UniqueFd first = hand.connect(hand.preamble(tcp::StreamKind::kMessages), 5);
  hand.pair.settle();
  std::vector<UniqueFd> others;
  others.reserve(256);
  for (int i = 0; i < 256; ++i) others.push_back(hand.connect(hand.preamble(tcp::StreamKind::kBulk), 0));
  CHECK(hand.hung_up(first));
  const UniqueFd messages = hand.connect(hand.preamble(tcp::StreamKind::kMessages));
  CHECK_FALSE(hand.hung_up(messages, std::chrono::milliseconds(50)));
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
