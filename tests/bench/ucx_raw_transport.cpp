#include "ucx_raw_transport.hpp"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <functional>
#include <vector>

#include <troupe/rpc/transport.hpp>
#include <troupe/runtime/clock.hpp>
#include <troupe/runtime/loop.hpp>

#include "harness.hpp"

namespace troupe::bench {

namespace {

using rpc::LinkId;
using rpc::OutFrame;

constexpr std::size_t kBandwidthBytes = std::size_t{1} << 29;

/// One end: counts what comes, receives parts into the same memory again and again.
class End final : public rpc::TransportEvents {
 public:
  explicit End(const std::string& transports)
      : turn_(loop_), transport(rpc::make_process_transport(loop_, {transports, ""}).value()) {
    transport->set_events(*this);
  }

  void on_link(LinkId id, std::string_view, bool) override {
    link = id;
    transport->send_control(id, transport->data_address(id));
  }
  void on_control(LinkId id, std::span<const std::byte> address) override {
    open = transport->open_data(id, address).ok();
  }
  Result<void> on_parts(LinkId, std::span<const std::byte>, std::size_t total,
                        std::vector<Buffer>& parts) override {
    if (sink_.size() < total) sink_ = Buffer::allocate(total);
    parts.push_back(sink_.slice(0, total));
    return {};
  }
  void on_frame(LinkId id, Buffer&& head, std::vector<Buffer>&&) override {
    ++received;
    if (answer_each || (answer_at && received == answer_at)) {
      static_cast<void>(transport->send(id, OutFrame{std::move(head), {}}));
    }
  }
  void on_closed(LinkId, Error) override { closed = true; }

  template <class Done>
  void until(const Done& done) {
    while (!done() && !closed) transport->poll();
  }
  void until_open() {
    static_cast<void>(loop_.wait_until([&] { return open || closed; }, TimePoint::never()));
  }
  void serve() {
    static_cast<void>(loop_.wait_until([&] { return open || closed; }, TimePoint::never()));
    until([&] { return false; });
  }

 private:
  RealClock clock_;
  Loop loop_{clock_};
  Loop::Turn turn_;
  Buffer sink_;

 public:
  std::unique_ptr<rpc::Transport> transport;
  LinkId link = 0;
  bool open = false, closed = false, answer_each = false;
  std::uint64_t received = 0;
  std::uint64_t answer_at = 0;
};

RawResult with_server(const std::string& transports, const std::function<void(End&)>& set_up,
                      const std::function<double(End&)>& measure) {
  std::array<int, 2> ends{};
  if (::pipe(ends.data()) != 0) return {false, 0, "pipe failed"};
  const pid_t child = ::fork();
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    pin_to_core(1);
    End server(transports);
    set_up(server);
    const std::string address = server.transport->listen("127.0.0.1:0").value();
    if (::write(ends[1], address.data(), address.size()) < 0) ::_exit(1);
    server.serve();
    ::_exit(0);
  }
  std::array<char, 100> address{};
  RawResult result;
  if (::read(ends[0], address.data(), address.size() - 1) > 0) {
    cpu_set_t before;
    ::sched_getaffinity(0, sizeof before, &before);
    pin_to_core(0);
    End client(transports);
    static_cast<void>(client.transport->dial(address.data()).value());
    client.until_open();
    result.value = measure(client);
    result.ok = !client.closed;
    if (client.closed) result.error = "the link closed";
    ::sched_setaffinity(0, sizeof before, &before);
  }
  ::close(ends[0]);
  ::close(ends[1]);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  return result;
}

double seconds(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

Buffer filled(std::size_t size) {
  Buffer buffer = Buffer::allocate(size);
  std::memset(buffer.data(), 1, size);
  return buffer;
}

}  // namespace

RawResult transport_rtt(std::size_t bytes, const std::string& transports, std::size_t iterations) {
  const auto measure = [&](End& client) {
    const Buffer head = filled(bytes);
    const auto turns = [&](std::size_t count) {
      for (std::size_t i = 0; i < count; ++i) {
        const std::uint64_t expected = client.received + 1;
        static_cast<void>(client.transport->send(client.link, OutFrame{head, {}}));
        client.until([&] { return client.received >= expected; });
      }
    };
    turns(100);
    std::vector<double> microseconds;
    microseconds.reserve(kRepetitions);
    for (int i = 0; i < kRepetitions; ++i) {
      microseconds.push_back(seconds([&] { turns(iterations); }) * 1e6 / static_cast<double>(iterations));
    }
    return median(microseconds);
  };
  return with_server(
      transports, [](End& server) { server.answer_each = true; }, measure);
}

RawResult transport_bandwidth(std::size_t bytes, std::size_t parts, std::size_t window,
                              const std::string& transports) {
  const std::size_t count = std::clamp<std::size_t>(kBandwidthBytes / bytes, 16, 4000);
  const auto measure = [&](End& client) {
    const Buffer head = filled(100);
    const Buffer data = filled(bytes);
    std::vector<Buffer> pieces;
    for (std::size_t i = 0; i < parts; ++i) {
      const std::size_t begin = bytes * i / parts;
      pieces.push_back(data.slice(begin, bytes * (i + 1) / parts - begin));
    }
    const auto stream = [&] {
      for (std::size_t i = 0; i < count; ++i) {
        client.until(
            [&] { return client.transport->bytes_in_flight(client.link) <= (window - 1) * (bytes + 108); });
        static_cast<void>(client.transport->send(client.link, OutFrame{head, pieces}));
      }
      client.until([&] { return client.transport->bytes_in_flight(client.link) == 0; });
    };
    stream();
    std::vector<double> times;
    times.reserve(kRepetitions);
    for (int i = 0; i < kRepetitions; ++i) times.push_back(seconds(stream));
    return static_cast<double>(count * bytes) / 1e9 / median(times);
  };
  return with_server(
      transports, [](End&) {}, measure);
}

}  // namespace troupe::bench
