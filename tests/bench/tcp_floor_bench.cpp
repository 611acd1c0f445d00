// What two sockets over the loopback device do at best, without a library: the floor below everything else
// over TCP. Both sides poll, each on its own core. Messages of 1 MB are copied to the kernel and from it; or
// their pages are lent to it; or, besides, thrown away by the receiver unread, so that nothing is copied at
// all. Troupe's sockets are not paced over that device (control/socket.cpp); for comparison the sender's also
// has the machine's default congestion control.
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <iostream>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <troupe/runtime/buffer.hpp>
#include <troupe/runtime/unique_fd.hpp>

#include "control/address.hpp"
#include "control/socket.hpp"
#include "harness.hpp"
#include "tcp/bulk.hpp"

namespace {

using namespace troupe::bench;
using troupe::UniqueFd;
using troupe::rpc::SocketAddress;
using troupe::rpc::tcp::PagePipe;

constexpr std::size_t kRecord = 96;  // a call of 64 bytes with its envelope
constexpr std::size_t kTurns = 20000;
constexpr std::size_t kUnderWay = 8;
constexpr std::size_t kScratch = std::size_t{128} << 10;
constexpr std::size_t kMessages = 200'000;

/// Whether to go on after a system call that did nothing.
void expect_only_busy(ssize_t done) {
  if (done == 0 || (done < 0 && errno != EAGAIN && errno != EINTR)) std::exit(1);
}

void send_all(int fd, const std::byte* data, std::size_t bytes) {
  while (bytes > 0) {
    const ssize_t n = ::send(fd, data, bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n <= 0) expect_only_busy(n);
    if (n <= 0) continue;
    data += n;
    bytes -= static_cast<std::size_t>(n);
  }
}

void receive_all(int fd, std::byte* data, std::size_t bytes, int flags = 0) {
  while (bytes > 0) {
    const ssize_t n = ::recv(fd, data, bytes, MSG_DONTWAIT | flags);
    if (n <= 0) expect_only_busy(n);
    if (n <= 0) continue;
    data += n;
    bytes -= static_cast<std::size_t>(n);
  }
}

/// Listens, and does `body` with the connection that comes.
Serve serve(const std::function<void(int fd)>& body) {
  return [body](const Ready& ready) {
    const UniqueFd listener =
        std::move(*troupe::rpc::listen_socket(SocketAddress::parse("127.0.0.1:0").value()));
    ready(SocketAddress::local_of(listener.get()).to_string());
    int fd = -1;
    while (fd < 0) fd = ::accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    troupe::rpc::tune_stream(fd);
    for (;;) body(fd);
  };
}

enum class Control { kNone, kDefault };

UniqueFd connect_to(const std::string& address, Control control) {
  const auto there = SocketAddress::parse(address).value();
  UniqueFd fd(::socket(there.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (control == Control::kDefault) {
    if (::connect(fd.get(), there.get(), there.size()) != 0) std::exit(1);
  } else {
    fd = std::move(*troupe::rpc::connecting_socket(there));
    pollfd connected{fd.get(), POLLOUT, 0};
    constexpr int kDeadlineMs = 5000;
    if (::poll(&connected, 1, kDeadlineMs) != 1) std::exit(1);
    if (!troupe::rpc::connect_result(fd.get(), there)) std::exit(1);
  }
  troupe::rpc::tune_stream(fd.get());
  return fd;
}

std::optional<double> round_trip_us(Control control) {
  const auto echo = [](int fd) {
    std::array<std::byte, kRecord> record;
    receive_all(fd, record.data(), record.size());
    send_all(fd, record.data(), record.size());
  };
  return between_processes(serve(echo), [control](const std::string& address) {
    const UniqueFd fd = connect_to(address, control);
    std::array<std::byte, kRecord> record{};
    return median_us_each(kTurns, [&] {
      for (std::size_t i = 0; i < kTurns; ++i) {
        send_all(fd.get(), record.data(), record.size());
        receive_all(fd.get(), record.data(), record.size());
      }
    });
  });
}

enum class Way { kCopied, kLent, kLentAndDiscarded };

void lend_all(int fd, PagePipe& pipe, std::byte* data, std::size_t bytes) {
  std::size_t moved = 0;
  while (bytes > 0 || pipe.filled() > 0) {
    const ssize_t n = bytes > 0 ? pipe.fill({data, bytes}) : 0;
    if (n < 0 || !pipe.empty_into(fd, pipe.filled(), bytes > 0, moved)) std::exit(1);
    data += n;
    bytes -= static_cast<std::size_t>(n);
  }
}

std::optional<double> gb_per_s(Way way, Control control) {
  // The receiver answers each message with a byte, so that the sender knows whose pages are its own again.
  const troupe::Buffer place = troupe::Buffer::allocate(kMiB);
  const auto take = [&](int fd) {
    receive_all(fd, place.data(), kMiB, way == Way::kLentAndDiscarded ? MSG_TRUNC : 0);
    send_all(fd, place.data(), 1);
  };
  return between_processes(serve(take), [&](const std::string& address) {
    const UniqueFd fd = connect_to(address, control);
    PagePipe pipe = PagePipe::create();
    std::byte answer{};
    const std::size_t count = bandwidth_count(kMiB);
    return median_gb_per_s(count, kMiB, [&] {
      for (std::size_t i = 0; i < count; ++i) {
        if (i >= kUnderWay) receive_all(fd.get(), &answer, 1);
        if (way == Way::kCopied) {
          send_all(fd.get(), place.data(), kMiB);
        } else {
          lend_all(fd.get(), pipe, place.data(), kMiB);
        }
      }
      for (std::size_t i = 0; i < kUnderWay; ++i) receive_all(fd.get(), &answer, 1);
    });
  });
}

/// Messages of `bytes`, `window` of them under way, answered as they are: both sides write what they may in
/// one piece, and read what there is. Nothing is done with a message.
std::optional<double> messages_per_s(std::size_t bytes, std::size_t window) {
  std::vector<std::byte> place(kScratch);
  const auto echo = [&](int fd) {
    const ssize_t n = ::recv(fd, place.data(), place.size(), MSG_DONTWAIT);
    if (n <= 0) return expect_only_busy(n);
    send_all(fd, place.data(), static_cast<std::size_t>(n));
  };
  return between_processes(serve(echo), [&](const std::string& address) {
    const UniqueFd fd = connect_to(address, Control::kNone);
    return median_per_second(kMessages, [&] {
      std::size_t sent = 0, received = 0;  // bytes
      while (received < kMessages * bytes) {
        const std::size_t may = std::min(received / bytes + window, kMessages) * bytes;
        send_all(fd.get(), place.data(), may - sent);
        sent = may;
        const ssize_t n = ::recv(fd.get(), place.data(), place.size(), MSG_DONTWAIT);
        if (n <= 0) expect_only_busy(n);
        if (n > 0) received += static_cast<std::size_t>(n);
      }
    });
  });
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> parts(argv + 1, argv + argc);
  std::string first;
  std::optional<double> reference;
  const auto report = [&](const std::string& name, const char* unit, const auto& measure) {
    if (!wanted(name, parts)) return;
    const std::optional<double> figure = measure();
    if (!figure) std::exit(1);
    if (!reference) std::tie(first, reference) = std::pair(name, figure);
    print_json(name, *figure, unit, first, *reference);
  };
  for (const auto& [suffix, control] :
       {std::pair("", Control::kNone), std::pair("_default_control", Control::kDefault)}) {
    report(std::string("raw_tcp_rtt_64B") + suffix, "us",
           [control = control] { return round_trip_us(control); });
  }
  reference.reset();
  for (const auto& [suffix, control] :
       {std::pair("", Control::kNone), std::pair("_default_control", Control::kDefault)}) {
    for (const auto& [how, way] : {std::pair("copied", Way::kCopied), std::pair("lent", Way::kLent),
                                   std::pair("lent_and_discarded", Way::kLentAndDiscarded)}) {
      report(std::string("raw_tcp_bandwidth_1MB_") + how + suffix, "GB/s",
             [way = way, control = control] { return gb_per_s(way, control); });
    }
  }
  reference.reset();
  for (const std::size_t window : {64, 256})
    for (const std::size_t bytes : {232, 160, 112, 72})
      report("raw_tcp_messages_" + std::to_string(bytes) + "B_window_" + std::to_string(window), "messages/s",
             [=] { return messages_per_s(bytes, window); });
  return 0;
}
