// One link's two streams over TCP, from one end to the other, and a peer that sends nonsense.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <array>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "mangled_stream.hpp"
#include "tcp/retired_pages.hpp"
#include "tcp_ends.hpp"

namespace troupe::rpc::tcp {
namespace {

using contract::make_frame;

/// What the other end makes of `bytes` on the stream of messages.
Connection::Got got_from(std::span<const std::byte> bytes) {
  Ends ends;
  REQUIRE(::send(ends.a.connection->fd(StreamKind::kMessages), bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
          static_cast<ssize_t>(bytes.size()));
  return ends.b.receive();
}
Connection::Got got_from(const RecordHeader& header, std::size_t content = 0) {
  std::vector<std::byte> bytes(sizeof header + content);
  std::memcpy(bytes.data(), &header, sizeof header);
  return got_from(bytes);
}

}  // namespace

std::string congestion_control(int fd) {
  std::array<char, 16> name{};
  socklen_t size = name.size();
  REQUIRE(::getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name.data(), &size) == 0);
  return name.data();
}

TEST_CASE("tcp: the loopback device's sockets are not paced, others are the machine's to decide") {
  const auto pair = tcp_pair();
  for (const UniqueFd& end : pair) CHECK(congestion_control(end.get()) == "reno");
  const UniqueFd plain(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const UniqueFd everywhere = std::move(*listen_socket(SocketAddress::parse("0.0.0.0:0").value()));
  CHECK(congestion_control(everywhere.get()) == congestion_control(plain.get()));
}

TEST_CASE("tcp: messages of all sizes arrive whole, lent or copied, and nothing stays in flight") {
  for (const bool lends : {true, false}) {
    CAPTURE(lends);
    Ends ends(lends);
    const std::vector<std::vector<std::size_t>> sizes = {{},
                                                         {1},
                                                         {0, 5, 0},
                                                         {kMostInline},
                                                         {kMostInline + 1},
                                                         {3 << 20},
                                                         {1 << 20, 0, 4097, 70001},
                                                         std::vector<std::size_t>(300, 1000),
                                                         {2000, 40}};
    std::uint64_t sequence = 0;
    for (int round = 0; round < 3; ++round)
      for (const auto& parts : sizes) ends.a.connection->send(make_frame(sequence++, parts), round == 1);
    REQUIRE(ends.until_b_has(sequence));
    CHECK(ends.all_intact());
  }
}

TEST_CASE("tcp: over a stream that is no plain socket messages arrive whole, and no page is lent") {
  Ends ends(true, [](UniqueFd fd) { return mangled_stream(std::move(fd)); });
  for (std::uint64_t i = 0; i < 60; ++i)
    ends.a.connection->send(make_frame(i, {i % 5 == 0 ? std::size_t{1} << 20 : i * 270}), i % 2 == 0);
  REQUIRE(ends.until_b_has(60));
  CHECK(ends.all_intact());
  ends.a.connection->send(make_frame(60, {std::size_t{256} << 10}), false);
  ends.a.connection->close(ends.a.scratch);
  CHECK(RetiredPages::all().look() == 0);
}

TEST_CASE("tcp: what is sent before the streams are there waits for them") {
  End a(true);
  End b(true);
  a.connection->send(make_frame(0), false);
  a.connection->send(make_frame(1, {100000}), false);
  CHECK(a.connection->bytes_in_flight() > 100000);
  for (const StreamKind kind : {StreamKind::kBulk, StreamKind::kMessages}) {
    auto [to_a, to_b] = tcp_pair();
    a.connection->attach(kind, plain_stream(std::move(to_a)));
    b.connection->attach(kind, plain_stream(std::move(to_b)));
    static_cast<void>(a.connection->flush(SIZE_MAX));
  }
  for (const TestDeadline deadline; b.frames.size() < 2 || a.connection->bytes_in_flight() > 0;) {
    REQUIRE_FALSE(deadline.over());
    REQUIRE(a.receive() == Connection::Got::kOn);
    REQUIRE(b.receive() == Connection::Got::kOn);
  }
  CHECK(b.frames[1].intact);
}

TEST_CASE("tcp: a long message goes in steps, so that others need not wait for all of it") {
  constexpr std::size_t kMost = std::size_t{64} << 10;
  for (const bool lent : {false, true}) {
    CAPTURE(lent);
    auto streams = tcp_pair();
    const auto stream = plain_stream(std::move(streams[0]));
    BulkSender sender;
    sender.push({Buffer::allocate(std::size_t{16} << 20)}, std::size_t{16} << 20, lent, 0);
    std::size_t all = 0;
    for (int step = 0; step < 4; ++step) {
      std::size_t sent = 0;
      REQUIRE(sender.progress(*stream, kMost, 0, sent) == Went::kOn);
      CHECK(sent <= kMost);
      all += sent;
    }
    CHECK(all >= kMost);
    CHECK(sender.busy());
  }
}

TEST_CASE("tcp: messages that are collected go together") {
  Ends ends;
  for (std::uint64_t i = 0; i < 100; ++i) ends.a.connection->send(make_frame(i), true);
  CHECK(ends.b.receive() == Connection::Got::kOn);
  CHECK(ends.b.frames.empty());
  static_cast<void>(ends.a.connection->flush(0));
  CHECK(ends.b.receive() == Connection::Got::kOn);
  CHECK(ends.b.frames.size() == 100);
}

TEST_CASE("tcp: a backlog that stands for ever takes memory for what waits, not for all that went through") {
  Ends ends;
  constexpr std::size_t kBacklog = std::size_t{16} << 20;  // more than the kernel takes
  constexpr std::size_t kAll = std::size_t{128} << 20;
  std::size_t most_kept = 0;
  std::uint64_t sent = 0;
  for (const TestDeadline deadline; sent * kMostInline < kAll;) {
    while (ends.a.connection->bytes_in_flight() < kBacklog)
      ends.a.connection->send(make_frame(sent++, {kMostInline}), false);
    most_kept = std::max(most_kept, ends.a.connection->bytes_kept());
    REQUIRE(ends.b.receive() == Connection::Got::kOn);
    static_cast<void>(ends.a.connection->flush(0));
    REQUIRE(ends.a.connection->bytes_in_flight() > 0);
    REQUIRE_FALSE(deadline.over());
  }
  CHECK(most_kept < 3 * kBacklog);
  REQUIRE(ends.until_b_has(sent));
  CHECK(ends.all_intact());
}

TEST_CASE("tcp: of messages that are only announced few are kept, and all arrive when their parts come") {
  Ends ends;
  constexpr std::uint64_t kCount = 5000;
  for (std::uint64_t i = 0; i < kCount; ++i) ends.a.connection->send(make_frame(i, {kMostInline + 1}), true);
  static_cast<void>(ends.a.connection->flush(0));
  int records = 0;
  const HeadPool::Scope scope(ends.b.data.heads);
  for (int i = 0; i < 100; ++i) {
    REQUIRE(ends.b.connection->receive(ends.b.scratch, records) == Connection::Got::kOn);
    static_cast<void>(ends.a.connection->flush(0));
  }
  CHECK(ends.b.connection->full());
  CHECK(records < 1024 + static_cast<int>(Connection::kScratchBytes / sizeof(RecordHeader)));
  REQUIRE(ends.until_b_has(kCount));
  CHECK(ends.all_intact());
}

TEST_CASE("tcp: memory that was lent is kept until nobody can read it, though the stream is given up") {
  constexpr std::size_t kBytes = std::size_t{256} << 10;
  Ends ends;
  auto memory = std::make_shared<std::vector<std::byte>>(kBytes, std::byte{7});
  bool released = false;
  OutFrame frame = make_frame(0);
  frame.parts.push_back(Buffer::adopt(memory->data(), kBytes, Device{}, [&, memory] {
    std::fill(memory->begin(), memory->end(), std::byte{9});  // used for something else
    released = true;
  }));
  ends.a.connection->send(std::move(frame), false);
  static_cast<void>(ends.a.connection->flush(SIZE_MAX));
  ends.a.connection->close(ends.a.scratch);
  CHECK(RetiredPages::all().look() == 1);
  CHECK_FALSE(released);
  // Closing one direction only says nothing of what can still be read.
  REQUIRE(::shutdown(ends.b.connection->fd(StreamKind::kBulk), SHUT_WR) == 0);
  for (int i = 0; i < 10; ++i) CHECK(RetiredPages::all().look() == 1);
  std::vector<std::byte> got(kBytes);
  const ssize_t n = ::recv(ends.b.connection->fd(StreamKind::kBulk), got.data(), got.size(), MSG_DONTWAIT);
  REQUIRE(n > 0);
  CHECK(std::all_of(got.begin(), got.begin() + n, [](std::byte byte) { return byte == std::byte{7}; }));
  ends.b.connection->close(ends.b.scratch);
  for (const TestDeadline deadline; RetiredPages::all().look() > 0;) REQUIRE_FALSE(deadline.over());
  CHECK(released);
}

TEST_CASE("tcp: peers that keep what was lent to them make the process lend no more, to anybody") {
  RetiredPages& retired = RetiredPages::all();
  std::vector<UniqueFd> keepers;
  while (!retired.full()) {
    REQUIRE(keepers.size() < 1000);
    auto [ours, theirs] = tcp_pair();
    retired.keep(std::move(ours), {}, {{Buffer::allocate(1)}});
    keepers.push_back(std::move(theirs));
  }
  const std::size_t kept = retired.look();
  CHECK(kept == keepers.size());
  {
    Ends ends;
    ends.a.connection->send(make_frame(0, {std::size_t{256} << 10}), false);
    static_cast<void>(ends.a.connection->flush(SIZE_MAX));
    ends.a.connection->close(ends.a.scratch);
    CHECK(retired.look() == kept);  // it was copied, and so need not be kept
    REQUIRE(ends.b.receive() == Connection::Got::kOn);
  }
  keepers.clear();
  for (const TestDeadline deadline; retired.look() > 0;) REQUIRE_FALSE(deadline.over());
  CHECK_FALSE(retired.full());
  Ends ends;
  ends.a.connection->send(make_frame(0, {std::size_t{256} << 10}), false);
  REQUIRE(ends.until_b_has(1));
  CHECK(ends.all_intact());
}

TEST_CASE("tcp: who had lent what the peer has taken may receive within the end of that memory") {
  constexpr std::size_t kBytes = std::size_t{256} << 10;
  Ends ends;
  OutFrame frame = make_frame(0, {kBytes});
  const Buffer memory = std::move(frame.parts[0]);
  bool released = false;
  frame.parts[0] = Buffer::adopt(memory.data(), kBytes, Device{}, [&] {
    // As if something else had come into it: all links of a loop have one scratch.
    std::fill(ends.a.scratch.begin(), ends.a.scratch.end(), std::byte{0xff});
    released = true;
  });
  ends.a.connection->send(std::move(frame), false);
  for (const TestDeadline deadline; ends.b.frames.empty();) {
    static_cast<void>(ends.a.connection->flush(SIZE_MAX));
    REQUIRE(ends.b.receive() == Connection::Got::kOn);  // which says that it has been taken
    REQUIRE_FALSE(deadline.over());
  }
  CHECK_FALSE(released);
  for (std::uint64_t i = 0; i < 5; ++i) ends.b.connection->send(make_frame(i, {100}), false);
  for (const TestDeadline deadline; ends.a.frames.size() < 5;) {
    REQUIRE(ends.a.receive() == Connection::Got::kOn);
    REQUIRE_FALSE(deadline.over());
  }
  CHECK(released);
  for (const auto& got : ends.a.frames) CHECK(got.intact);
}

TEST_CASE("tcp: without a pipe parts are copied instead of lent") {
  Ends ends;
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
  const int next = ::dup(0);
  ::close(next);
  const rlimit none{static_cast<rlim_t>(next), before.rlim_max};
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &none) == 0);
  ends.a.connection->send(make_frame(0, {1 << 20}), false);
  static_cast<void>(ends.a.connection->flush(SIZE_MAX));
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &before) == 0);
  REQUIRE(ends.until_b_has(1));
  CHECK(ends.all_intact());
}

TEST_CASE("tcp: a peer that has gone is an end, not a signal") {
  struct sigaction action {};
  REQUIRE(::sigaction(SIGPIPE, nullptr, &action) == 0);
  const bool would_kill = action.sa_handler == SIG_DFL;
  REQUIRE(would_kill);
  for (const bool lends : {true, false}) {
    Ends ends(lends);
    for (std::uint64_t i = 0; i < 8; ++i) ends.a.connection->send(make_frame(i, {4 << 20}), false);
    static_cast<void>(ends.a.connection->flush(1 << 20));
    ends.b.connection->attach(StreamKind::kBulk, nullptr);
    ends.b.connection->attach(StreamKind::kMessages, nullptr);
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
    while (!ends.a.connection->broken() && std::chrono::steady_clock::now() < deadline)
      static_cast<void>(ends.a.connection->flush(1 << 20));
    CHECK(ends.a.connection->broken());
    CHECK_FALSE(ends.a.connection->sending());
    sigset_t pending;
    ::sigpending(&pending);
    CHECK(::sigismember(&pending, SIGPIPE) == 0);
  }
}

TEST_CASE("tcp: a stream cut into single bytes gives the same messages") {
  Ends ends;
  ends.a.connection->send(make_frame(0), true);
  ends.a.connection->send(make_frame(1, {3, 500}), true);
  ends.a.connection->send(make_frame(2, {0}), true);
  static_cast<void>(ends.a.connection->flush(0));
  std::array<std::byte, 4096> bytes{};
  const ssize_t size = ::recv(ends.b.connection->fd(StreamKind::kMessages), bytes.data(), bytes.size(), 0);
  REQUIRE(size > 0);
  for (ssize_t i = 0; i < size; ++i) {
    REQUIRE(::send(ends.a.connection->fd(StreamKind::kMessages), &bytes[static_cast<std::size_t>(i)], 1, 0) ==
            1);
    REQUIRE(ends.b.receive() == Connection::Got::kOn);
  }
  REQUIRE(ends.b.frames.size() == 3);
  CHECK(ends.all_intact());
}

TEST_CASE("tcp: nonsense is recognised") {
  const auto record = [](int kind, std::uint32_t head, std::uint64_t parts) {
    RecordHeader header;
    header.kind = static_cast<RecordKind>(kind);
    header.head_bytes = head;
    header.part_bytes = parts;
    return header;
  };
  CHECK(got_from(record(1, 8, 0), 8) == Connection::Got::kOn);
  CHECK(got_from(record(1, 0, 0)) == Connection::Got::kNonsense);                   // no head
  CHECK(got_from(record(1, End::kMaxHead + 1, 0)) == Connection::Got::kNonsense);   // too long a head
  CHECK(got_from(record(1, 8, kMostInline + 1), 8) == Connection::Got::kNonsense);  // too long to be inline
  CHECK(got_from(record(1, 8, UINT64_MAX), 8) == Connection::Got::kNonsense);       // the same
  CHECK(got_from(record(2, 8, 0), 8) == Connection::Got::kNonsense);                // parts without bytes
  CHECK(got_from(record(3, 0, 100000)) == Connection::Got::kNonsense);              // parts without a head
  CHECK(got_from(record(4, 0, 1)) == Connection::Got::kNonsense);                   // nothing was lent
  CHECK(got_from(record(4, 8, 0), 8) == Connection::Got::kNonsense);                // a head with it
  for (const int kind : {0, 5, 255, 65535})
    CHECK(got_from(record(kind, 8, 0), 8) == Connection::Got::kNonsense);
}

TEST_CASE("tcp: records with flipped bytes do no harm") {
  std::mt19937 random(20261126);
  Ends ends;
  ends.a.connection->send(make_frame(0), true);
  ends.a.connection->send(make_frame(1, {64}), true);
  ends.a.connection->send(make_frame(2, {100000}), true);
  static_cast<void>(ends.a.connection->flush(0));
  std::vector<std::byte> valid(4096);
  const ssize_t size = ::recv(ends.b.connection->fd(StreamKind::kMessages), valid.data(), valid.size(), 0);
  REQUIRE(size > 0);
  valid.resize(static_cast<std::size_t>(size));
  for (int round = 0; round < 300; ++round) {
    End victim(true);
    std::size_t asked = 0;
    victim.events.parts_hook = [&](std::size_t total, std::vector<Buffer>& parts) -> Result<void> {
      if ((asked += total) > (std::size_t{1} << 20)) return Error{Code::kResourceExhausted, "too much"};
      parts.push_back(Buffer::allocate(total));
      return {};
    };
    auto [sender, receiver] = tcp_pair();
    victim.connection->attach(StreamKind::kMessages, plain_stream(std::move(receiver)));
    auto [bulk_sender, bulk_receiver] = tcp_pair();
    victim.connection->attach(StreamKind::kBulk, plain_stream(std::move(bulk_receiver)));
    std::vector<std::byte> bytes = valid;
    for (int flip = 0; flip < 1 + round % 4; ++flip)
      bytes[random() % bytes.size()] = static_cast<std::byte>(random());
    bytes.resize(bytes.size() - random() % 8);
    REQUIRE(::send(sender.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
            static_cast<ssize_t>(bytes.size()));
    const HeadPool::Scope scope(victim.data.heads);
    int records = 0;
    std::size_t moved = 0;
    static_cast<void>(victim.connection->receive(victim.scratch, records));
    static_cast<void>(victim.connection->receive_bulk(SIZE_MAX, moved));
    CHECK(victim.data.arrivals.size() <= 3);
  }
}

TEST_CASE("tcp: a peer that sends and never reads makes its receiver keep little for it") {
  End victim(true);
  auto [messages, receiver] = tcp_pair();
  auto [bulk, bulk_receiver] = tcp_pair();
  constexpr int kSmall = 4096;
  REQUIRE(::setsockopt(receiver.get(), SOL_SOCKET, SO_SNDBUF, &kSmall, sizeof kSmall) == 0);
  victim.connection->attach(StreamKind::kMessages, plain_stream(std::move(receiver)));
  victim.connection->attach(StreamKind::kBulk, plain_stream(std::move(bulk_receiver)));
  // Each is a message of its own, of which the victim says that it has been taken.
  std::array<std::byte, sizeof(RecordHeader) + 16> record{};
  RecordHeader header;
  header.kind = RecordKind::kLent;
  header.head_bytes = 16;
  header.part_bytes = 1;
  const std::uint64_t one = 1;
  std::memcpy(record.data(), &header, sizeof header);
  std::memcpy(record.data() + sizeof header + 8, &one, sizeof one);
  constexpr std::size_t kMost = std::size_t{512} << 10;
  std::size_t kept = 0;
  for (std::size_t i = 0; i < 3 * kMost / sizeof(RecordHeader) && kept < kMost; ++i) {
    REQUIRE(::send(messages.get(), record.data(), record.size(), MSG_NOSIGNAL) ==
            static_cast<ssize_t>(record.size()));
    REQUIRE(::send(bulk.get(), record.data(), 1, MSG_NOSIGNAL) == 1);
    REQUIRE(victim.receive() == Connection::Got::kOn);
    victim.frames.clear();
    kept = std::max(kept, victim.connection->bytes_in_flight());
  }
  CHECK(kept < kMost);
  // It is told of all when it reads.
  std::uint64_t told = 0;
  for (const TestDeadline deadline; told < 3 * kMost / sizeof(RecordHeader);) {
    REQUIRE_FALSE(deadline.over());
    static_cast<void>(victim.connection->flush(0));
    RecordHeader taken;
    if (::recv(messages.get(), &taken, sizeof taken, MSG_PEEK | MSG_DONTWAIT) != sizeof taken) continue;
    REQUIRE(::recv(messages.get(), &taken, sizeof taken, MSG_DONTWAIT) == sizeof taken);
    REQUIRE(taken.kind == RecordKind::kTaken);
    told += taken.part_bytes;
  }
  CHECK(told == 3 * kMost / sizeof(RecordHeader));
}

}  // namespace troupe::rpc::tcp
