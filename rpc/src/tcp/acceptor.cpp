#include "tcp/acceptor.hpp"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

namespace troupe::rpc::tcp {
namespace {

constexpr std::size_t kMostStrangers = 256;
/// How long somebody may take to say what it wants.
constexpr Duration kPatience = std::chrono::seconds(5);

}  // namespace

class Acceptor::Stranger final : public FdHandler, public TimerNode {
 public:
  Stranger(Acceptor& owner, UniqueFd fd) : owner_(owner), fd_(std::move(fd)) {}
  ~Stranger() override {
    if (fd_) owner_.loop_.unwatch(fd_.get());
  }

  bool start() {
    owner_.loop_.schedule_after(*this, kPatience);
    return owner_.loop_.watch(fd_.get(), EPOLLIN, *this).ok();
  }
  void on_ready(std::uint32_t) override {
    auto* const to = reinterpret_cast<std::byte*>(&preamble_) + read_;
    const ssize_t n = ::recv(fd_.get(), to, sizeof preamble_ - read_, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return;
    if (n <= 0) return owner_.forget(*this);
    read_ += static_cast<std::size_t>(n);
    if (read_ == sizeof preamble_) owner_.on_preamble(*this);
  }
  const Preamble& preamble() const { return preamble_; }
  UniqueFd take_fd() {
    owner_.loop_.unwatch(fd_.get());
    return std::move(fd_);
  }

 private:
  void on_timer() override { owner_.forget(*this); }

  Acceptor& owner_;
  UniqueFd fd_;
  Preamble preamble_{0, {}, {}};
  std::size_t read_ = 0;
};

Acceptor::Acceptor(Loop& loop, OnStream on_stream) : loop_(loop), on_stream_(std::move(on_stream)) {}

Acceptor::~Acceptor() = default;

Result<std::uint16_t> Acceptor::port_at(const SocketAddress& host) {
  const SocketAddress wanted = host.with_port(0);
  for (const auto& listener : listeners_) {
    if (listener->address().with_port(0).to_string() == wanted.to_string()) return listener->address().port();
  }
  auto fd = listen_socket(wanted);
  if (!fd) return fd.error();
  auto listener = std::make_unique<Listener>(
      loop_, std::move(*fd),
      [this](UniqueFd connected, const SocketAddress&) { on_connected(std::move(connected)); });
  if (auto started = listener->start(); !started) return started.error();
  listeners_.push_back(std::move(listener));
  return listeners_.back()->address().port();
}

void Acceptor::on_connected(UniqueFd fd) {
  if (strangers_.size() >= kMostStrangers) strangers_.pop_front();
  if (!strangers_.emplace_back(*this, std::move(fd)).start()) strangers_.pop_back();
}

void Acceptor::on_preamble(Stranger& stranger) {
  const Preamble preamble = stranger.preamble();
  UniqueFd fd = stranger.take_fd();
  forget(stranger);
  if (preamble.magic == Preamble::kMagic) on_stream_(preamble, std::move(fd));
}

void Acceptor::forget(Stranger& stranger) {
  strangers_.remove_if([&](const Stranger& other) { return &other == &stranger; });
}

}  // namespace troupe::rpc::tcp
