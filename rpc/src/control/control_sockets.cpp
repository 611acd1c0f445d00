#include "control/control_sockets.hpp"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <new>
#include <optional>

#include "calls/frugal_error.hpp"
#include "control/dialling.hpp"
#include "control/socket.hpp"

namespace troupe::rpc {

namespace {

/// How long a closed socket waits for the peer's end: see ControlSockets::close().
constexpr Duration kLinger = std::chrono::seconds(1);
constexpr std::size_t kMaxLingering = 1024;
/// How old a stranger may be that makes room for one more than may be.
constexpr Duration kStrangerAge = std::chrono::milliseconds(250);
constexpr int kReadBatch = 8;
constexpr std::size_t kScratchBytes = 65536;
/// Messages that the kernel does not take are queued up to this; a peer that reads nothing while more
/// than that is sent to it is as good as dead.
constexpr std::size_t kMaxQueuedBytes = std::size_t{4} << 20;
/// Of what has been sent no more than this is kept before what waits behind it.
constexpr std::size_t kMostSentKept = std::size_t{1} << 20;
constexpr std::size_t kLengthBytes = sizeof(std::uint32_t);
/// Descriptors that newcomers do not get: what links need that are there; and what each of those takes that
/// have just come, and have not taken it yet. Of these few are counted, so that a crowd keeps nobody out.
constexpr std::size_t kKeptDescriptors = 6;
constexpr std::size_t kDescriptorsOfLink = 4;
constexpr std::size_t kMostCounted = 8;
constexpr Duration kSettled = std::chrono::seconds(1);

Error too_many_links() {
  return {Code::kResourceExhausted, "a transport can have at most 1,048,576 links"};
}

}  // namespace

/// One link's end of the stream.
class ControlSockets::Socket final : public FdHandler, public TimerNode {
 public:
  enum class State {
    kConnecting,  // dialled, no answer yet
    kNew,         // accepted, and not announced: it has said nothing yet; the timer runs
    kStream,      // the same, and it has said that it is a stream
    kOpen,
  };

  Socket(LinkId link, ControlSockets& owner, bool is_incoming, std::string peer_address)
      : id(link),
        sockets(owner),
        peer(std::move(peer_address)),
        incoming(is_incoming),
        state(is_incoming ? State::kNew : State::kConnecting) {}
  ~Socket() override {
    if (fd) sockets.loop_.unwatch(fd.get());
    know();
  }
  /// No stranger any more.
  void know() {
    if (stranger) sockets.strangers_.erase(*std::exchange(stranger, std::nullopt));
  }

  bool announced() const { return !incoming || state == State::kOpen; }

  void on_ready(std::uint32_t events) override { sockets.socket_ready(id, events); }

  const LinkId id;
  ControlSockets& sockets;
  UniqueFd fd;
  std::string peer;
  bool incoming;
  State state;
  std::unique_ptr<Dialling> dialling;
  bool admitted = false;
  bool one_too_many = false;
  std::optional<std::list<Stranger>::iterator> stranger;  // where it is among those, if it is one
  bool broken = false;                                    // writing failed; what can be read is still read
  std::vector<std::byte> in;                              // received, from in_begin on not yet delivered
  std::size_t in_begin = 0;
  std::vector<std::byte> out;  // queued, from out_sent on
  std::size_t out_sent = 0;
  std::uint32_t watched = 0;  // events asked of the loop

 private:
  void on_timer() override { sockets.end(id, {Code::kUnavailable, "it has said nothing"}); }
};

/// A socket that close() was called for, until the peer closes too: closing it with unread bytes in its
/// buffer would make TCP send a reset, which takes back what the peer has not read yet, for instance
/// the reason of a refusal.
class ControlSockets::Lingering final : public FdHandler, public TimerNode {
 public:
  Lingering(ControlSockets& owner, UniqueFd fd) : owner_(owner), fd_(std::move(fd)) {}
  ~Lingering() override {
    drain();
    owner_.loop_.unwatch(fd_.get());
  }

  bool start() {
    owner_.loop_.schedule_after(*this, kLinger);
    return owner_.loop_.watch(fd_.get(), EPOLLIN, *this).ok();
  }
  void on_ready(std::uint32_t) override {
    if (!drain()) finish();
  }

 private:
  void on_timer() override { finish(); }
  /// Reads and forgets; false at the end of the stream.
  bool drain() {
    std::array<std::byte, 4096> ignored;
    for (int i = 0; i < kReadBatch; ++i) {
      const ssize_t n = ::recv(fd_.get(), ignored.data(), ignored.size(), MSG_DONTWAIT);
      if (n > 0 || (n < 0 && errno == EINTR)) continue;
      return n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
    }
    return true;
  }
  void finish() {
    owner_.lingering_.remove_if([this](const Lingering& other) { return &other == this; });
  }

  ControlSockets& owner_;
  UniqueFd fd_;
};

ControlSockets::ControlSockets(Loop& loop, std::size_t max_message_bytes, ControlEvents& events)
    : loop_(loop),
      max_message_bytes_(max_message_bytes),
      events_(events),
      resolver_(loop),
      doom_timer_([this] { fail_doomed(); }),
      scratch_(kScratchBytes) {}

ControlSockets::~ControlSockets() {
  for (const LinkId link : sockets_.ids()) close(link);
}

Result<std::string> ControlSockets::listen(const SocketAddress& address) {
  if (bounds_.this_machine_only && !address.is_local())
    return Error{Code::kFailedPrecondition,
                 "other machines reach " + address.to_string() +
                     ", so a shared secret is needed: set node.secret_file, or TROUPE_NODE_SECRET, to the "
                     "same on all nodes"};
  auto fd = listen_socket(address);
  if (!fd) return fd.error();
  auto listener = std::make_unique<Listener>(
      loop_, std::move(*fd),
      [this](UniqueFd accepted, const SocketAddress& at) { on_accepted(std::move(accepted), at); },
      [this] { return has_room(); });
  auto started = listener->start();
  if (!started) return started.error();
  listeners_.push_back(std::move(listener));
  return listeners_.back()->address().to_string();
}

Result<LinkId> ControlSockets::dial(const Destination& to) {
  Socket* const socket = sockets_.emplace(*this, false, to.text);
  if (!socket) return too_many_links();
  const LinkId link = socket->id;
  socket->dialling = std::make_unique<Dialling>(
      loop_, resolver_, to, DialRules{.this_machine_only = bounds_.this_machine_only},
      [this, link](Result<UniqueFd> connected) { on_dialled(link, std::move(connected)); });
  socket->dialling->start();
  return link;
}

void ControlSockets::on_dialled(LinkId link, Result<UniqueFd> connected) {
  Socket* const socket = sockets_.find(link);
  if (!socket) return;
  const auto over = std::move(socket->dialling);
  if (!connected) return end(link, std::move(connected).error());
  // What it was dialled by stays in sight where that was a name.
  const std::string address = SocketAddress::peer_of(connected->get()).to_string();
  if (socket->peer != address) socket->peer += " (" + address + ")";
  tune_stream(connected->get());
  socket->state = Socket::State::kOpen;
  if (auto opened = open(*socket, *std::move(connected)); !opened) return end(link, opened.error());
  const std::string peer = socket->peer;
  events_.on_met(link, peer, false);
}

void ControlSockets::expect_streams(std::uint32_t mark, std::size_t preamble_bytes) {
  assert(mark > max_message_bytes_ && preamble_bytes >= kLengthBytes);
  stream_mark_ = mark;
  preamble_bytes_ = preamble_bytes;
}

void ControlSockets::on_accepted(UniqueFd fd, const SocketAddress& listening_at) {
  const SocketAddress peer = SocketAddress::peer_of(fd.get());
  // The other end of a unix socket has no name of its own.
  Socket* const socket = sockets_.emplace(*this, true, (peer.is_unix() ? listening_at : peer).to_string());
  if (!socket) return;
  tune_stream(fd.get());
  if (!open(*socket, std::move(fd))) {
    sockets_.remove(socket->id);
    return;
  }
  socket->stranger = strangers_.insert(strangers_.end(), {socket->id, loop_.now()});
  loop_.schedule_after(*socket, bounds_.patience);
}

/// Four bytes, and no more: what follows is the stream's, if it is one.
void ControlSockets::read_first_word(LinkId link) {
  Socket* const socket = sockets_.find(link);
  const bool is_stream = socket->state == Socket::State::kStream;
  // Memory first: what has been read and cannot be kept would be lost, and the rest be nonsense.
  socket->in.reserve(std::max(preamble_bytes_, kLengthBytes));
  const std::size_t wanted = (is_stream ? preamble_bytes_ : kLengthBytes) - socket->in.size();
  const ssize_t n = ::recv(socket->fd.get(), scratch_.data(), wanted, MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return;
  if (n <= 0) return end(link, {Code::kUnavailable, "it closed the connection"});
  socket->in.insert(socket->in.end(), scratch_.begin(), scratch_.begin() + n);
  if (static_cast<std::size_t>(n) < wanted) return;
  if (is_stream) return hand_on(*socket);
  std::uint32_t word = 0;
  std::memcpy(&word, socket->in.data(), kLengthBytes);
  if (stream_mark_ != 0 && word == stream_mark_) {
    socket->state = Socket::State::kStream;
    return read_first_word(link);
  }
  loop_.cancel(*socket);
  socket->state = Socket::State::kOpen;
  socket->one_too_many = is_near_limit(socket->fd.get());
  const std::string peer = socket->peer;
  events_.on_met(link, peer, true);
  // A word that is no message's length is told of without waiting for more.
  deliver(link);
  read(link);
}

void ControlSockets::hand_on(Socket& socket) {
  loop_.unwatch(socket.fd.get());
  const std::unique_ptr<Socket> gone = sockets_.remove(socket.id);
  events_.on_stream(gone->in, std::move(gone->fd));
}

bool ControlSockets::is_one_too_many(LinkId link) const {
  const Socket* const socket = sockets_.find(link);
  return socket && socket->one_too_many;
}

bool ControlSockets::is_near_limit(int fd) {
  const TimePoint now = loop_.now();
  while (!newcomers_.empty() && now - newcomers_.front() > kSettled) newcomers_.pop_front();
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return false;
  // The kernel gives the lowest number that is free.
  const std::size_t spoken_for = kKeptDescriptors + kDescriptorsOfLink * (newcomers_.size() + 1);
  if (static_cast<rlim_t>(fd) + spoken_for >= limit.rlim_cur) return true;
  newcomers_.push_back(now);
  if (newcomers_.size() > kMostCounted) newcomers_.pop_front();
  return false;
}

bool ControlSockets::has_room() {
  if (strangers_.size() < bounds_.max_links) return true;
  if (strangers_.empty() || loop_.now() - strangers_.front().since < kStrangerAge) return false;
  end(strangers_.front().link,
      {Code::kUnauthenticated, "the link was needed for others before the peer had said who it is"});
  return true;
}

void ControlSockets::admit(LinkId link) {
  Socket* socket = sockets_.find(link);
  if (!socket) return;
  socket->admitted = true;
  socket->know();
}

std::size_t ControlSockets::most_bytes(const Socket& socket) const {
  return socket.admitted ? max_message_bytes_ : std::min(max_message_bytes_, bounds_.max_control_bytes);
}

Result<void> ControlSockets::open(Socket& socket, UniqueFd fd) {
  socket.fd = std::move(fd);
  const std::uint32_t events = socket.out.empty() ? EPOLLIN : EPOLLIN | EPOLLOUT;
  auto watched = loop_.watch(socket.fd.get(), events, socket);
  if (watched) socket.watched = events;
  return watched;
}

void ControlSockets::socket_ready(LinkId link, std::uint32_t events) {
  Socket* socket = sockets_.find(link);
  if (!socket) return;
  if (!socket->announced()) {
    read_first_word(link);
    return;
  }
  if (events & EPOLLOUT) flush(*socket);
  if ((events & ~static_cast<std::uint32_t>(EPOLLOUT)) == 0) return;
  try {
    read(link);
  } catch (const std::bad_alloc&) {  // something is lost that it has said
    end(link, frugal_error(Code::kResourceExhausted, "there was no memory to read a control message"));
  }
}

void ControlSockets::send(LinkId link, std::span<const std::byte> message) {
  Socket* socket = sockets_.find(link);
  if (!socket || socket->broken || !socket->announced()) return;
  if (message.size() > max_message_bytes_) {
    socket->broken = true;
    return fail_soon(link, {Code::kInternal, "a control message of " + std::to_string(message.size()) +
                                                 " bytes was to be sent, more than a peer takes"});
  }
  if (socket->out.size() - socket->out_sent + message.size() > kMaxQueuedBytes) {
    socket->broken = true;
    return fail_soon(link, {Code::kResourceExhausted,
                            "peer " + socket->peer + " does not read its control messages (4 MiB wait)"});
  }
  const auto length = static_cast<std::uint32_t>(message.size());
  const auto* prefix = reinterpret_cast<const std::byte*>(&length);
  socket->out.insert(socket->out.end(), prefix, prefix + kLengthBytes);
  socket->out.insert(socket->out.end(), message.begin(), message.end());
  if (socket->state != Socket::State::kConnecting) flush(*socket);
}

void ControlSockets::flush(Socket& socket) {
  const std::span<const std::byte> rest(socket.out.data() + socket.out_sent,
                                        socket.out.size() - socket.out_sent);
  if (socket.broken || rest.empty()) return;
  const ssize_t sent = send_some(socket.fd.get(), rest);
  // A broken stream ends the link when reading comes to its end, not here: the peer's last message may
  // be waiting.
  if (sent < 0) socket.broken = true;
  socket.out_sent += sent < 0 ? rest.size() : static_cast<std::size_t>(sent);
  if (socket.out_sent == socket.out.size() || socket.out_sent > kMostSentKept) {
    socket.out.erase(socket.out.begin(), socket.out.begin() + static_cast<std::ptrdiff_t>(socket.out_sent));
    socket.out_sent = 0;
  }
  watch(socket);
}

void ControlSockets::watch(Socket& socket) {
  const std::uint32_t events = socket.out.empty() ? EPOLLIN : EPOLLIN | EPOLLOUT;
  if (std::exchange(socket.watched, events) == events) return;
  if (auto watched = loop_.watch(socket.fd.get(), events, socket); !watched)
    fail_soon(socket.id, watched.error());
}

void ControlSockets::read(LinkId link) {
  for (int i = 0; i < kReadBatch; ++i) {
    Socket* socket = sockets_.find(link);
    if (!socket || !socket->fd) return;
    // Of a stranger no more is read than the message that it has begun.
    const std::size_t kept = socket->in.size() - socket->in_begin;
    const std::size_t room = std::min(scratch_.size(), kLengthBytes + most_bytes(*socket) - kept);
    const ssize_t n = ::recv(socket->fd.get(), scratch_.data(), room, MSG_DONTWAIT);
    if (n > 0) {
      socket->in.erase(socket->in.begin(),
                       socket->in.begin() + static_cast<std::ptrdiff_t>(socket->in_begin));
      socket->in_begin = 0;
      socket->in.insert(socket->in.end(), scratch_.begin(), scratch_.begin() + n);
      deliver(link);
      if (static_cast<std::size_t>(n) < room) i = std::max(i, kReadBatch - 2);  // once more for EOF
      continue;
    }
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
    std::string why = n == 0 ? "it closed the connection" : std::strerror(errno);
    return end(link, {Code::kUnavailable, "lost peer " + socket->peer + ": " + why});
  }
}

void ControlSockets::deliver(LinkId link) {
  for (;;) {
    // Looked up again each time: a handler may close the link, or wait and so deliver what follows.
    Socket* socket = sockets_.find(link);
    if (!socket) return;
    const auto unread = std::span(socket->in).subspan(socket->in_begin);
    if (unread.size() < kLengthBytes) return;
    std::uint32_t length = 0;
    std::memcpy(&length, unread.data(), kLengthBytes);
    if (const std::size_t most = most_bytes(*socket); length > most) {
      return end(link, {Code::kDataLoss,
                        "peer " + socket->peer + " sent a control message of " + std::to_string(length) +
                            " bytes, more than the " + std::to_string(most) +
                            " allowed: it is probably no Troupe node, or has not the shared secret"});
    }
    if (unread.size() < kLengthBytes + length) return;
    const auto content = unread.subspan(kLengthBytes, length);
    const std::vector<std::byte> message(content.begin(), content.end());
    socket->in_begin += kLengthBytes + length;
    events_.on_message(link, message);
  }
}

void ControlSockets::close(LinkId link) {
  std::unique_ptr<Socket> socket = sockets_.remove(link);
  if (!socket || !socket->fd) return;
  if (socket->state != Socket::State::kOpen || socket->broken) return;
  send_some(socket->fd.get(), {socket->out.data() + socket->out_sent, socket->out.size() - socket->out_sent});
  ::shutdown(socket->fd.get(), SHUT_WR);
  if (lingering_.size() >= kMaxLingering) lingering_.pop_front();
  loop_.unwatch(socket->fd.get());
  lingering_.emplace_back(*this, UniqueFd(socket->fd.release()));
  if (!lingering_.back().start()) lingering_.pop_back();
}

void ControlSockets::end(LinkId link, Error error) {
  const std::unique_ptr<Socket> ended = sockets_.take(link);
  if (!ended) return;
  if (ended->announced()) events_.on_parted(link, std::move(error));
  // Not earlier: the link's last messages are being handed out, whose handlers may wait, and so let others
  // come.
  sockets_.release(link);
}

void ControlSockets::fail_soon(LinkId link, Error error) {
  doomed_.emplace_back(link, std::move(error));
  loop_.schedule(doom_timer_, loop_.clock().now());
}

void ControlSockets::fail_doomed() {
  auto doomed = std::exchange(doomed_, {});
  for (auto& [link, error] : doomed) end(link, std::move(error));
}

SocketAddress ControlSockets::local_address(LinkId link) const {
  const Socket* socket = sockets_.find(link);
  return socket && socket->fd ? SocketAddress::local_of(socket->fd.get()) : SocketAddress();
}

SocketAddress ControlSockets::remote_address(LinkId link) const {
  const Socket* socket = sockets_.find(link);
  return socket && socket->fd ? SocketAddress::peer_of(socket->fd.get()) : SocketAddress();
}

bool ControlSockets::peer_has_left(LinkId link) const {
  const Socket* socket = sockets_.find(link);
  if (!socket || !socket->fd) return true;
  pollfd entry{socket->fd.get(), POLLRDHUP, 0};
  return ::poll(&entry, 1, 0) == 1;
}

}  // namespace troupe::rpc
