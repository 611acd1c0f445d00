// Rings in shared memory between processes: what the transports' contract does not reach.
#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include <doctest/doctest.h>
#include <troupe/runtime/clock.hpp>

#include "shm/way.hpp"
#include "support/seed.hpp"
#include "transport_contract.hpp"

namespace troupe::rpc::shm {
namespace {

using contract::make_frame;
using contract::words_of;

Segment new_ring(std::uint64_t cookie) {
  Segment segment = Segment::create(ring::kSegmentBytes).value();
  (new (segment.data()) RingHeader)->cookie = cookie;
  return segment;
}

/// Bytes that tell which record they belong to.
void fill(std::byte* to, std::size_t size, std::uint64_t sequence) {
  for (std::size_t i = 0; i < size; ++i) to[i] = contract::pattern(sequence, 0, i);
}
bool is_filled(const Record& record, std::uint64_t sequence) {
  for (std::size_t i = 0; i < record.part_bytes; ++i)
    if (record.payload[i] != contract::pattern(sequence, 0, i)) return false;
  return true;
}

/// The transport's side of a ShmWay, noting what comes.
class Side final : public TransportEvents {
 public:
  explicit Side(LinkId own_link) : link(own_link) {
    data.events = this;
    add(link);
  }

  void on_link(LinkId, std::string_view, bool) override {}
  void on_control(LinkId, std::span<const std::byte>) override {}
  void on_closed(LinkId, Error) override {}
  Result<void> on_parts(LinkId, std::span<const std::byte> head, std::size_t total,
                        std::vector<Buffer>& parts) override {
    const auto words = words_of(head);
    for (std::size_t i = 1; i < words.size() && words[i] <= total; ++i)
      parts.push_back(Buffer::allocate(words[i] <= kMost ? words[i] : 0));
    return {};
  }
  void on_frame(LinkId id, Buffer&& head, std::vector<Buffer>&& parts) override {
    frames.push_back(contract::check_frame(id, head, parts));
    if (frame_hook) frame_hook();
  }

  void add(LinkId id) { REQUIRE(way.add({id, false, true, {}}).ok()); }
  void open(const Address& peer) { end = way.open(link, peer).value(); }
  void send(OutFrame frame) { CHECK(way.send(*end, std::move(frame)).ok()); }
  std::size_t in_flight() const { return way.bytes_in_flight(*end); }

  static constexpr std::size_t kMost = std::size_t{64} << 20;  // bytes of one part
  const LinkId link;
  DataPlane data{4096};
  ShmWay way{data, true};
  WayEnd* end = nullptr;
  std::vector<contract::ReceivedFrame> frames;
  std::function<void()> frame_hook;
};

/// Two ways in this process with an open link. Without `reading` neither may read the other's memory.
struct Couple {
  explicit Couple(bool reading = true) {
    Address of_a = a.way.address(a.link);
    Address of_b = b.way.address(b.link);
    if (!reading) of_a.probe = of_b.probe = 0;
    a.open(of_b);
    b.open(of_a);
  }
  /// Polls both until nothing happens.
  void settle() {
    int quiet = 0;
    while (quiet < 3) quiet = a.way.poll() + b.way.poll() == 0 ? quiet + 1 : 0;
  }
  Side a{7}, b{8};
};

}  // namespace

TEST_CASE("shm: a message that comes while its reader goes to sleep is seen, or wakes it") {
  Side reading(1);
  const Address address = reading.way.address(reading.link);
  constexpr int kRounds = 20000;
  std::atomic<int> read{0};
  std::thread writing([&] {
    auto ring = Segment::open(::getpid(), address.ring_fd, ring::kSegmentBytes);
    auto bell = Bell::open(::getpid(), address.bell_fd);
    if (!ring || !bell) return;
    Outbound out(std::move(*ring), std::move(*bell));
    for (int i = 0; i < kRounds; ++i) {
      out.send(make_frame(static_cast<std::uint64_t>(i)));
      while (read.load(std::memory_order_acquire) <= i) std::this_thread::yield();
    }
  });
  const HeadPool::Scope heads(reading.data.heads);
  int lost = 0;
  for (int i = 0; i < kRounds && lost == 0;) {
    if (reading.way.arm()) {
      pollfd bell{reading.way.event_fd(), POLLIN, 0};
      if (::poll(&bell, 1, 2000) == 0) ++lost;  // the writer has written, or is about to
    }
    reading.way.poll();
    i = static_cast<int>(reading.frames.size());
    read.store(i, std::memory_order_release);
  }
  CHECK(lost == 0);
  read.store(kRounds);
  writing.join();
}

TEST_CASE("shm: records of all sizes come through whole, in order, between two threads") {
  const Segment segment = new_ring(0x1234567890abcdef);
  constexpr std::uint64_t kRecords = 20000;
  std::thread writing([&] {
    RingWriter writer(segment);
    std::mt19937 random(1);
    for (std::uint64_t i = 0; i < kRecords; ++i) {
      const std::size_t size = i % 7 == 0 ? random() % 40000 : random() % 300;
      std::byte* to = nullptr;
      while (!(to = writer.reserve(size))) std::this_thread::yield();
      fill(to, size, i);
      writer.publish(RecordKind::kPiece, 0, size);
    }
  });
  RingReader reader(segment);
  std::mt19937 random(1);
  std::uint64_t wrong = 0;
  for (std::uint64_t i = 0; i < kRecords; ++i) {
    const std::size_t size = i % 7 == 0 ? random() % 40000 : random() % 300;
    Record record;
    RingReader::Found found = RingReader::Found::kNothing;
    while ((found = reader.next(record)) == RingReader::Found::kNothing) std::this_thread::yield();
    if (found != RingReader::Found::kRecord || record.part_bytes != size || !is_filled(record, i)) ++wrong;
    if (wrong > 0) break;
    reader.pop(record);
  }
  CHECK(wrong == 0);
  if (wrong > 0) std::_Exit(1);  // the writer waits for a reader that has given up
  writing.join();
}

TEST_CASE("shm: what a writer has begun and not finished is never read") {
  const Segment segment = new_ring(99);
  RingWriter writer(segment);
  RingReader reader(segment);
  Record record;
  std::memset(writer.reserve(200), 0xff, 200);
  CHECK(reader.next(record) == RingReader::Found::kNothing);
  CHECK(reader.empty());
  writer.publish(RecordKind::kPiece, 0, 200);
  CHECK(reader.next(record) == RingReader::Found::kRecord);
}

TEST_CASE("shm: random bytes in a ring lead the reader nowhere") {
  std::mt19937_64 random(test::test_seed());
  for (int round = 0; round < 300; ++round) {
    Side side(1);
    const Address address = side.way.address(1);
    const Segment ring = Segment::open(::getpid(), address.ring_fd, ring::kSegmentBytes).value();
    Side peer(2);
    REQUIRE(side.way.open(1, peer.way.address(2)).ok());
    for (std::size_t at = ring::kHeaderBytes; at < ring::kSegmentBytes; at += 8) {
      const std::uint64_t word = random() >> (random() % 64);
      std::memcpy(ring.data() + at, &word, sizeof word);
    }
    // With the right mark, or nothing would be looked at.
    auto& record = *reinterpret_cast<RecordHeader*>(ring.data() + ring::kHeaderBytes);
    record.kind = static_cast<RecordKind>(random() % 7);
    if (round % 2 == 0) record.bytes = static_cast<std::uint32_t>(random() % (ring::kBytes / 64) * 64);
    record.mark.store(address.cookie);
    for (int i = 0; i < 10; ++i) side.way.poll();
    // Whatever it was taken for: nothing was read beyond the ring (sanitizers watch), and the peer's faults
    // are its link's end.
    for (const auto& [link, error] : side.data.broken) CHECK(link == 1);
  }
}

TEST_CASE("shm: pads lead to the ring's end, once, or are nonsense") {
  const auto make = [](const Segment& segment, std::size_t at, std::uint64_t position, std::size_t bytes) {
    auto& record = *reinterpret_cast<RecordHeader*>(segment.data() + ring::kHeaderBytes + at);
    record.bytes = static_cast<std::uint32_t>(bytes);
    record.kind = RecordKind::kPad;
    record.mark.store(1234 ^ position);
  };
  Record record;
  for (const std::size_t bytes : {ring::kAlign, ring::kBytes}) {
    CAPTURE(bytes);
    const Segment segment = new_ring(1234);
    RingReader reader(segment);
    make(segment, 0, 0, bytes);
    CHECK(reader.next(record) == RingReader::Found::kNonsense);
  }
  for (const bool whole : {true, false}) {
    CAPTURE(whole);
    const Segment segment = new_ring(1234);
    RingReader reader(segment);
    auto& first = *reinterpret_cast<RecordHeader*>(segment.data() + ring::kHeaderBytes);
    first.bytes = ring::kAlign;
    first.kind = RecordKind::kPiece;
    first.mark.store(1234);
    REQUIRE(reader.next(record) == RingReader::Found::kRecord);
    reader.pop(record);
    make(segment, ring::kAlign, ring::kAlign, whole ? ring::kBytes - ring::kAlign : ring::kAlign);
    CHECK(reader.next(record) == (whole ? RingReader::Found::kNothing : RingReader::Found::kNonsense));
  }
}

TEST_CASE("shm: a peer that has left and goes on writing is read to the end of what its ring holds") {
  Couple couple;
  constexpr int kMost = 100'000;
  int sent = 0;
  const auto write = [&] {
    if (sent < kMost) couple.a.send(make_frame(static_cast<std::uint64_t>(sent++)));
  };
  couple.b.frame_hook = write;
  for (int i = 0; i < 100; ++i) write();
  couple.b.way.drain(couple.b.link);
  CHECK(couple.b.frames.size() >= 100);
  CHECK(couple.b.frames.size() < 2 * ring::kBytes / ring::kAlign);
  CHECK(sent < kMost);
}

TEST_CASE("shm: a bell that is rung without end is not listened to without end") {
  Doorbell bell = Doorbell::create().value();
  const Bell other = Bell::open(::getpid(), bell.fd()).value();
  constexpr int kLong = 1 << 18;
  REQUIRE(::fcntl(bell.fd(), F_SETPIPE_SZ, kLong) >= kLong);
  for (int i = 0; i < kLong; ++i) other.ring();
  const auto waiting = [&] {
    int bytes = 0;
    REQUIRE(::ioctl(bell.fd(), FIONREAD, &bytes) == 0);
    return bytes;
  };
  bell.clear();
  CHECK(waiting() > 0);
  for (int i = 0; i < 100 && waiting() > 0; ++i) bell.clear();
  CHECK(waiting() == 0);
}

TEST_CASE("shm: a reader that lies about how far it is only stops its own link") {
  for (const std::uint64_t lie : {std::uint64_t{1} << 40, ~std::uint64_t{0}, std::uint64_t{64}}) {
    Couple couple;
    const Segment ring =
        Segment::open(::getpid(), couple.b.way.address(couple.b.link).ring_fd, ring::kSegmentBytes).value();
    reinterpret_cast<RingHeader*>(ring.data())->consumed.store(lie);
    for (std::uint64_t i = 0; i < 1000; ++i) couple.a.send(make_frame(i, {1000}));
    CHECK(couple.a.in_flight() > 0);  // waits
    couple.a.way.remove(couple.a.link);
  }
}

TEST_CASE("shm: large messages are read out of the sender's memory, or else come in pieces") {
  for (const bool reading : {true, false}) {
    CAPTURE(reading);
    Couple couple(reading);
    const std::vector<std::vector<std::size_t>> shapes{
        {40000}, {1 << 20}, {0, 5000000, 0, 1}, {100000, 0, 70000}, std::vector<std::size_t>(400, 997),
    };
    for (std::size_t i = 0; i < shapes.size(); ++i) couple.a.send(make_frame(i, shapes[i]));
    CHECK(couple.a.in_flight() > 5000000);
    for (std::size_t i = 0; i < 50; ++i) couple.a.send(make_frame(100 + i, {i * 100}));
    couple.settle();
    REQUIRE(couple.b.frames.size() == shapes.size() + 50);
    for (const auto& frame : couple.b.frames) CHECK(frame.intact);
    CHECK(couple.a.in_flight() == 0);
    // Small ones do not wait for the large ones before them.
    const auto place = [&](std::uint64_t sequence) {
      const auto found = std::find_if(couple.b.frames.begin(), couple.b.frames.end(),
                                      [&](const auto& frame) { return frame.sequence == sequence; });
      return found - couple.b.frames.begin();
    };
    CHECK(place(149) < place(2));
  }
}

TEST_CASE("shm: both sides use their rings, or neither does") {
  using Agreement = DataWay::Agreement;
  {
    Side a(7);
    Side b(8);
    const Address of_a = a.way.address(a.link);
    a.open(b.way.address(b.link));
    CHECK(a.way.agreement(*a.end) == Agreement::kPending);
    b.open(of_a);
    CHECK(b.way.agreement(*b.end) == Agreement::kAgreed);
    CHECK(a.way.agreement(*a.end) == Agreement::kAgreed);
  }
  for (const bool first_fails : {true, false}) {
    CAPTURE(first_fails);
    Side a(7);
    Side b(8);
    const Address of_a = a.way.address(a.link);
    Address of_b = b.way.address(b.link);
    of_b.ring_fd = -1;  // b can open a's ring, a not b's
    const auto fail = [&] { CHECK(a.way.open(a.link, of_b).error().code == Code::kUnimplemented); };
    if (first_fails) fail();
    b.open(of_a);
    if (!first_fails) {
      CHECK(b.way.agreement(*b.end) == Agreement::kPending);
      fail();
    }
    CHECK(b.way.agreement(*b.end) == Agreement::kRefused);
    for (Side* side : {&a, &b}) side->way.leave(side->link);
    CHECK(a.way.arm());
    CHECK(b.way.poll() == 0);
    b.way.drain(b.link);
  }
}

TEST_CASE("shm: a ring that is left in the middle of all its work is looked at no more") {
  Couple couple;
  for (std::uint64_t i = 0; i < 20; ++i) couple.a.send(make_frame(i, {4'000'000}));  // lent, to be copied
  for (std::uint64_t i = 20; i < 2'000; ++i) couple.a.send(make_frame(i, {1'000}));  // past the ring's room
  couple.b.way.poll();
  REQUIRE(couple.a.in_flight() > 0);
  couple.b.frames.clear();
  // Also from inside of a handler, while the way's own reading is on the stack.
  couple.b.frame_hook = [&] { couple.b.way.leave(couple.b.link); };
  for (int i = 0; i < 1000 && couple.b.frames.empty(); ++i) couple.b.way.poll();
  CHECK(couple.b.frames.size() == 1);
  couple.a.way.leave(couple.a.link);
  for (int i = 0; i < 100; ++i) {
    CHECK(couple.a.way.poll() == 0);
    CHECK(couple.b.way.poll() == 0);
  }
  CHECK(couple.b.frames.size() == 1);
  CHECK(couple.a.way.arm());
  CHECK(couple.b.way.arm());
  couple.a.way.disarm();
  couple.b.way.disarm();
  couple.b.way.drain(couple.b.link);
  couple.a.way.remove(couple.a.link);
  couple.b.way.remove(couple.b.link);
}

TEST_CASE("shm: small messages past the ring's room wait, in order") {
  Couple couple;
  constexpr std::uint64_t kCount = 5000;
  for (std::uint64_t i = 0; i < kCount; ++i) couple.a.send(make_frame(i, {i % 10 * 100}));
  CHECK(couple.a.in_flight() > 0);
  couple.settle();
  REQUIRE(couple.b.frames.size() == kCount);
  for (std::uint64_t i = 0; i < kCount; ++i) CHECK(couple.b.frames[i].sequence == i);
  CHECK(couple.a.in_flight() == 0);
}

TEST_CASE("shm: a sleeper is woken by a message, by room, and by memory that is given back") {
  Couple couple;
  const auto rung = [](const Side& side) {
    char byte = 0;
    return ::read(side.way.event_fd(), &byte, 1) == 1;
  };
  CHECK(rung(couple.b));  // when the other side was opened
  CHECK(couple.b.way.arm());
  CHECK_FALSE(rung(couple.b));
  couple.a.send(make_frame(0));
  CHECK(rung(couple.b));
  CHECK_FALSE(couple.b.way.arm());  // the message is there
  couple.settle();

  couple.a.send(make_frame(1, {1 << 20}));
  CHECK(couple.a.way.arm());
  while (couple.b.frames.size() < 2) couple.b.way.poll();
  CHECK(rung(couple.a));
  CHECK_FALSE(couple.a.way.arm());  // what was lent can be dropped
  couple.settle();
  CHECK(couple.a.in_flight() == 0);

  std::uint64_t sent = 0;
  while (couple.a.in_flight() == 0) couple.a.send(make_frame(sent++, {1000}));
  CHECK(couple.a.way.arm());
  while (couple.b.way.poll() > 0) continue;
  CHECK(rung(couple.a));
  couple.settle();
  CHECK(couple.a.in_flight() == 0);
}

TEST_CASE("shm: with hundreds of links each message is found, and links may go from inside a handler") {
  Side hub(0);
  std::vector<std::unique_ptr<Side>> spokes;
  constexpr LinkId kLinks = 300;
  for (LinkId link = 0; link < kLinks; ++link) {
    spokes.push_back(std::make_unique<Side>(link));
    if (link > 0) hub.add(link);
    spokes.back()->open(hub.way.address(link));
    REQUIRE(hub.way.open(link, spokes.back()->way.address(link)).ok());
  }
  const auto all_send = [&] {
    for (LinkId link = 0; link < kLinks; ++link) spokes[link]->send(make_frame(link));
  };
  all_send();
  for (int round = 0; round < 3000 && hub.frames.size() < kLinks; ++round) hub.way.poll();
  CHECK(hub.frames.size() == kLinks);
  CHECK(hub.way.arm());

  // Each message ends its own link and its neighbour's.
  hub.frames.clear();
  all_send();
  hub.frame_hook = [&] {
    const LinkId link = hub.frames.back().link;
    hub.way.remove(link);
    hub.way.remove(link ^ 1);
    hub.way.poll();
  };
  for (int round = 0; round < 3000 && hub.frames.size() < kLinks / 2; ++round) hub.way.poll();
  CHECK(hub.frames.size() == kLinks / 2);
}

TEST_CASE("shm: who is no process, has no ring, or another one's, is not opened") {
  Side side(1);
  Side peer(2);
  const Address right = peer.way.address(2);
  const auto fails = [&](Code code, auto&& change) {
    Address address = right;
    change(address);
    const auto opened = side.way.open(1, address);
    return !opened.ok() && opened.error().code == code;
  };
  const auto refused = [&](auto&& change) { return fails(Code::kUnimplemented, change); };
  CHECK(fails(Code::kUnimplemented, [](Address& address) { address.pid = 0; }));
  CHECK(fails(Code::kUnimplemented, [](Address& address) { ++address.pid_namespace; }));
  CHECK(refused([](Address& address) { address.pid = UINT32_MAX; }));
  CHECK(refused([](Address& address) { address.ring_fd = -1; }));
  CHECK(refused([](Address& address) { address.ring_fd = 0; }));
  CHECK(refused([](Address& address) { address.ring_fd = address.bell_fd; }));
  CHECK(refused([](Address& address) { address.bell_fd = address.ring_fd; }));
  CHECK(refused([](Address& address) { address.cookie ^= 1; }));
  CHECK(refused([](Address& address) { address.cookie = 0; }));
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  ::waitpid(child, nullptr, 0);
  CHECK(refused([&](Address& address) { address.pid = static_cast<std::uint32_t>(child); }));
  CHECK(side.way.open(1, right).ok());
}

}  // namespace troupe::rpc::shm
