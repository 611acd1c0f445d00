#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <troupe/rpc/sim.hpp>
#include <troupe/rpc/transport.hpp>
#include <troupe/runtime/clock.hpp>
#include <troupe/runtime/loop.hpp>

/// What every transport must do, tested through Pair<Kind>: two transports in this process, each on its
/// own loop, driven by the test's thread. A new transport joins by a Kind of its own.
namespace troupe::rpc::contract {

/// The byte at `position` of part `part` of message `sequence`: no two neighbours alike.
inline std::byte pattern(std::uint64_t sequence, std::size_t part, std::size_t position) {
  return static_cast<std::byte>(sequence * 131 + part * 31 + position * 7 + (position >> 8) * 13);
}

/// A message whose head says what its parts must hold: sequence, then the size of each part.
inline OutFrame make_frame(std::uint64_t sequence, const std::vector<std::size_t>& part_sizes = {}) {
  OutFrame frame;
  std::vector<std::uint64_t> words{sequence};
  for (std::size_t part = 0; part < part_sizes.size(); ++part) {
    words.push_back(part_sizes[part]);
    Buffer buffer = Buffer::allocate(part_sizes[part]);
    for (std::size_t i = 0; i < buffer.size(); ++i) buffer.data()[i] = pattern(sequence, part, i);
    frame.parts.push_back(std::move(buffer));
  }
  frame.head = Buffer::copy_of(std::as_bytes(std::span(words)));
  return frame;
}

inline std::vector<std::uint64_t> words_of(std::span<const std::byte> head) {
  std::vector<std::uint64_t> words(head.size() / sizeof(std::uint64_t));
  std::memcpy(words.data(), head.data(), words.size() * sizeof(std::uint64_t));
  return words;
}

struct ReceivedFrame {
  LinkId link = 0;
  std::uint64_t sequence = 0;
  bool intact = false;  // parts are as the head says
};

inline ReceivedFrame check_frame(LinkId link, const Buffer& head, const std::vector<Buffer>& parts) {
  const auto words = words_of(head.bytes());
  if (words.empty()) return {link, 0, false};  // random bytes may make one
  ReceivedFrame frame{link, words[0], true};
  std::size_t total = 0;
  for (std::size_t i = 1; i < words.size(); ++i) total += words[i];
  if (total == 0) {
    frame.intact = parts.empty();
    return frame;
  }
  frame.intact = parts.size() + 1 == words.size();
  for (std::size_t part = 0; frame.intact && part < parts.size(); ++part) {
    const Buffer& buffer = parts[part];
    frame.intact = buffer.size() == words[part + 1];
    for (std::size_t i = 0; frame.intact && i < buffer.size(); ++i) {
      frame.intact = buffer.data()[i] == pattern(frame.sequence, part, i);
    }
  }
  return frame;
}

/// Receives a transport's events: notes all, opens the data way of each link by exchanging addresses in
/// the first control message, and calls the hooks that are set.
class Peer final : public TransportEvents {
 public:
  struct Seen {
    std::string address;
    bool incoming = false;
    bool open = false;
    std::vector<std::vector<std::byte>> control;  // without the first, which opens the data way
    std::vector<Error> closed;
  };

  Transport* transport = nullptr;
  std::map<LinkId, Seen> links;
  std::vector<ReceivedFrame> frames;
  bool heads_aligned = true;
  std::function<void(LinkId)> link_hook, control_hook, frame_hook, closed_hook;
  std::function<Result<void>(std::size_t total, std::vector<Buffer>& parts)> parts_hook;

  /// The only link. Precondition: there was one.
  LinkId link() const { return links.begin()->first; }
  bool open() const { return !links.empty() && links.begin()->second.open; }
  std::size_t closed() const {
    return static_cast<std::size_t>(std::count_if(
        links.begin(), links.end(), [](const auto& link) { return !link.second.closed.empty(); }));
  }
  std::size_t damaged() const {
    return static_cast<std::size_t>(std::count_if(frames.begin(), frames.end(),
                                                  [](const ReceivedFrame& frame) { return !frame.intact; }));
  }
  bool in_order() const {
    for (std::size_t i = 0; i < frames.size(); ++i) {
      if (frames[i].sequence != i) return false;
    }
    return true;
  }

  void on_link(LinkId id, std::string_view peer_address, bool incoming) override {
    links[id].address = peer_address;
    links[id].incoming = incoming;
    if (link_hook) link_hook(id);
    const auto address = transport->data_address(id);
    if (!address.empty()) transport->send_control(id, address);
  }
  void on_control(LinkId id, std::span<const std::byte> message) override {
    Seen& seen = links[id];
    if (!seen.open) {
      seen.open = transport->open_data(id, message).ok();
    } else {
      seen.control.emplace_back(message.begin(), message.end());
    }
    if (control_hook) control_hook(id);
  }
  Result<void> on_parts(LinkId, std::span<const std::byte> head, std::size_t total,
                        std::vector<Buffer>& parts) override {
    if (reinterpret_cast<std::uintptr_t>(head.data()) % 8 != 0) heads_aligned = false;
    if (parts_hook) return parts_hook(total, parts);
    const auto words = words_of(head);
    for (std::size_t i = 1; i < words.size(); ++i) parts.push_back(Buffer::allocate(words[i]));
    return {};
  }
  void on_frame(LinkId id, Buffer&& head, std::vector<Buffer>&& parts) override {
    if (reinterpret_cast<std::uintptr_t>(head.data()) % 8 != 0) heads_aligned = false;
    frames.push_back(check_frame(id, head, parts));
    if (frame_hook) frame_hook(id);
  }
  void on_closed(LinkId id, Error error) override {
    links[id].closed.push_back(std::move(error));
    if (closed_hook) closed_hook(id);
  }
};

/// Two loops in real time, driven alternately by this thread.
class RealWorld {
 public:
  bool run_until(const std::function<bool()>& done, Duration timeout) {
    const TimePoint deadline = clock_.now() + timeout;
    while (!done()) {
      if (clock_.now() > deadline) return false;
      a.poll();
      b.poll();
    }
    return true;
  }

 private:
  RealClock clock_;

 public:
  Loop a{clock_}, b{clock_};

 private:
  Loop::Turn turn_a_{a}, turn_b_{b};
};

struct ProcessWorld : RealWorld {
  static constexpr const char* kAnyPort = "127.0.0.1:0";
  static constexpr const char* kDeaf = "127.0.0.1:1";  // nobody listens there
  explicit ProcessWorld(const char* transports) : options{transports, ""} {}
  std::unique_ptr<Transport> make(Loop& loop, const char*) {
    return std::move(make_process_transport(loop, options).value());
  }
  TransportOptions options;
};
struct AutoTransport : ProcessWorld {
  AutoTransport() : ProcessWorld("auto") {}
};
struct Shm : ProcessWorld {
  Shm() : ProcessWorld("shm") {}
};
/// UCX's own shared memory, which is used when asked for by UCX's names.
struct UcxNative : ProcessWorld {
  UcxNative() : ProcessWorld("posix,cma,self") {}
};
/// UCX's own TCP, likewise.
struct UcxTcp : ProcessWorld {
  UcxTcp() : ProcessWorld("tcp,self") {}
};
struct Tcp : ProcessWorld {
  Tcp() : ProcessWorld("tcp") {}
};
/// TCP over streams that are no plain sockets: see mangled_stream.hpp.
struct MangledTcp : ProcessWorld {
  MangledTcp() : ProcessWorld("tcp") {}
  std::unique_ptr<Transport> make(Loop& loop, const char*);
};

struct Sim {
  static constexpr const char* kAnyPort = "b:0";
  static constexpr const char* kDeaf = "b:1";
  explicit Sim(SimOptions options = {}) : world(options) {}
  bool run_until(const std::function<bool()>& done, Duration timeout) {
    return world.run_until(done, world.clock().now() + timeout);
  }
  std::unique_ptr<Transport> make(Loop& loop, const char* host) { return world.make_transport(loop, host); }

  SimWorld world;
  Loop a{world.clock(), world.loop_options()}, b{world.clock(), world.loop_options()};

 private:
  Loop::Turn turn_a_{a}, turn_b_{b};
};

#define TROUPE_TRANSPORTS                                                                                 \
  ::troupe::rpc::contract::AutoTransport, ::troupe::rpc::contract::UcxNative,                             \
      ::troupe::rpc::contract::UcxTcp, ::troupe::rpc::contract::Tcp, ::troupe::rpc::contract::MangledTcp, \
      ::troupe::rpc::contract::Sim

/// Two transports: `b` listens, and unless told otherwise `a` has dialled it and both data ways are open.
template <class Kind>
class Pair {
 public:
  static constexpr Duration kTimeout = std::chrono::seconds(30);

  template <class... Args>
  explicit Pair(bool connect = true, Args&&... args) : world(std::forward<Args>(args)...) {
    ta = world.make(world.a, "a");
    tb = world.make(world.b, "b");
    a.transport = ta.get();
    b.transport = tb.get();
    ta->set_events(a);
    tb->set_events(b);
    address = tb->listen(Kind::kAnyPort).value();
    if (!connect) return;
    static_cast<void>(ta->dial(address).value());
    REQUIRE(until([&] { return a.open() && b.open(); }));
  }

  bool until(const std::function<bool()>& done, Duration timeout = kTimeout) {
    return world.run_until(done, timeout);
  }
  /// One message each way, so that the transport's own connecting is over.
  void warm_up() {
    REQUIRE(ta->send(a.link(), make_frame(0)).ok());
    REQUIRE(tb->send(b.link(), make_frame(0)).ok());
    REQUIRE(until([&] { return a.frames.size() == 1 && b.frames.size() == 1; }));
    a.frames.clear();
    b.frames.clear();
  }
  /// Lets things happen that must not: returns after a little time.
  void settle(Duration time = std::chrono::milliseconds(20)) {
    static_cast<void>(world.run_until([] { return false; }, time));
  }

  Kind world;
  Peer a, b;
  std::unique_ptr<Transport> ta, tb;
  std::string address;
};

}  // namespace troupe::rpc::contract
