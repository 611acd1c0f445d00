#include "tcp/plane.hpp"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <string>
#include <utility>

#include "tcp/retired_pages.hpp"

namespace troupe::rpc::tcp {
namespace {

/// With more links than this a round asks the kernel first which of them have something.
constexpr std::size_t kFew = 2;
constexpr int kReadyBatch = 64;
/// Bytes of large messages that one round sends, and receives: little while small messages come, which wait
/// meanwhile.
constexpr std::size_t kSentBesides = std::size_t{64} << 10;
constexpr std::size_t kSentAlone = std::size_t{512} << 10;
constexpr std::size_t kReceivedBesides = std::size_t{128} << 10;
constexpr std::size_t kReceivedAlone = std::size_t{1} << 20;
constexpr unsigned kQuietRounds = 16;
/// How long a peer's streams may take to come.
constexpr Duration kConnectTimeout = std::chrono::seconds(5);
/// A peer that closes a stream is going, and so closes its meeting socket, too: that is told of instead if it
/// happens within this time.
constexpr Duration kMeetingFollows = std::chrono::milliseconds(500);
/// How often it is asked whether peers that have been lent memory are gone.
constexpr Duration kRetiredLook = std::chrono::milliseconds(100);

}  // namespace

class Plane::Depth {
 public:
  explicit Depth(Plane& plane) : plane_(plane) { ++plane_.depth_; }
  ~Depth() {
    if (--plane_.depth_ > 0) return;
    if (!plane_.busy_.empty()) std::erase(plane_.busy_, nullptr);
    if (!plane_.removed_.empty()) const auto removed = std::exchange(plane_.removed_, {});
  }
  Depth(const Depth&) = delete;
  Depth& operator=(const Depth&) = delete;

 private:
  Plane& plane_;
};

/// A stream that we have dialled, until it is there.
class Plane::Dialling final : public FdHandler {
 public:
  Dialling(Channel& channel, StreamKind kind, UniqueFd fd, const SocketAddress& peer, const Token& token)
      : channel_(channel), preamble_{Preamble::kMagic, kind, token}, fd_(std::move(fd)), peer_(peer) {}
  ~Dialling() override {
    if (fd_) channel_.plane.loop_.unwatch(fd_.get());
  }

  Result<void> start() { return channel_.plane.loop_.watch(fd_.get(), EPOLLOUT, *this); }
  void on_ready(std::uint32_t) override {
    Channel& channel = channel_;
    Plane& plane = channel.plane;
    plane.loop_.unwatch(fd_.get());
    auto connected = connect_result(fd_.get(), peer_);
    if (connected && ::send(fd_.get(), &preamble_, sizeof preamble_, MSG_DONTWAIT | MSG_NOSIGNAL) !=
                         static_cast<ssize_t>(sizeof preamble_))
      connected = Error{Code::kUnavailable, "the peer at " + peer_.to_string() + " hung up"};
    UniqueFd fd = std::move(fd_);
    const StreamKind kind = preamble_.kind;
    std::erase_if(channel.dialling, [this](const auto& other) { return other.get() == this; });
    if (!connected) return plane.lose(channel, connected.error().code, connected.error().message);
    plane.attach(channel, kind, std::move(fd));
  }

 private:
  Channel& channel_;
  const Preamble preamble_;
  UniqueFd fd_;
  const SocketAddress peer_;
};

Plane::Channel::Channel(LinkId id, Plane& owner, bool is_incoming, const Token& own_token, bool lends)
    : WayEnd(id), plane(owner), incoming(is_incoming), token(own_token), streams(id, owner.data_, lends) {}

Plane::Channel::~Channel() = default;

void Plane::Channel::on_timer() {
  if (ended) return plane.lose(*this, Code::kUnavailable, "lost the peer: it closed its data streams");
  plane.lose(*this, Code::kUnavailable,
             "the peer's data streams did not come within 5 s (does a firewall, or what forwards the port, "
             "let more than one connection through?)");
}

Plane::Plane(Loop& loop, DataPlane& data, Offer offer)
    : loop_(loop),
      data_(data),
      offer_(offer),
      ready_(offer == Offer::kNone ? -1 : ::epoll_create1(EPOLL_CLOEXEC)),
      scratch_(ready_ ? Connection::kScratchBytes : 0),
      retired_timer_([this] { look_at_retired(); }) {
  if (!ready_) offer_ = Offer::kNone;
  resting_ = true;
}

Plane::~Plane() {
  if (retired_timer_.scheduled()) loop_.cancel(retired_timer_);
}

// ---- Links ----------------------------------------------------------------------------------------

Result<void> Plane::add(const LinkFacts& facts) {
  if (offer_ == Offer::kNone) return {};
  const bool lends = data_.meeting->remote_address(facts.link).is_local();
  channels_.emplace_at(facts.link, *this, facts.incoming, facts.token, lends);
  return {};
}

std::vector<std::byte> Plane::offer(LinkId link) {
  const Address own = address(link);
  return own.offer != Offer::kNone ? bytes_of_offer(own) : std::vector<std::byte>{};
}

Address Plane::address(LinkId link) {
  Channel* const channel = channels_.find(link);
  if (!channel) return {};
  Address address;
  if (channel->incoming) {
    address.takes_streams = 1;
    address.token = channel->token;
  }
  address.offer = offer_;
  return address;
}

Result<WayEnd*> Plane::open(LinkId link, std::span<const std::byte> peer_offer) {
  const auto offered = offer_of_bytes<Address>(peer_offer);
  if (!offered) return offered.error();
  const Address& peer = *offered;
  Channel* const channel = channels_.find(link);
  if (!channel || peer.offer == Offer::kNone) return Error{Code::kUnimplemented, "one side has no streams"};
  if (offer_ == Offer::kIfNeeded && peer.offer == Offer::kIfNeeded)
    return Error{Code::kUnimplemented, "both sides know a better way"};
  if (!channel->incoming && peer.takes_streams == 0)
    return Error{Code::kInvalidArgument, "the peer's data address is malformed: it takes no streams"};
  channel->opened = true;
  opened_.push_back(channel);
  resting_ = false;
  loop_.schedule_after(*channel, kConnectTimeout);
  if (!channel->incoming) {
    const SocketAddress there = data_.meeting->remote_address(link);
    for (const StreamKind kind : {StreamKind::kMessages, StreamKind::kBulk}) {
      auto fd = connecting_socket(there);
      if (!fd) return fd.error();
      auto dialling = std::make_unique<Dialling>(*channel, kind, std::move(*fd), there, peer.token);
      if (auto started = dialling->start(); !started) return started.error();
      channel->dialling.push_back(std::move(dialling));
    }
  }
  if (channel->streams.has(StreamKind::kMessages) && channel->streams.has(StreamKind::kBulk))
    loop_.cancel(*channel);
  return channel;
}

void Plane::take(const Preamble& preamble, UniqueFd fd) {
  Channel* const channel = channels_.in_slot(preamble.token[0]);
  if (!channel || !channel->incoming) return;
  const std::uint64_t difference =
      (channel->token[0] ^ preamble.token[0]) | (channel->token[1] ^ preamble.token[1]);
  const bool is_known = preamble.kind == StreamKind::kMessages || preamble.kind == StreamKind::kBulk;
  if (difference != 0 || !is_known || channel->streams.has(preamble.kind)) return;
  attach(*channel, preamble.kind, std::move(fd));
}

void Plane::attach(Channel& channel, StreamKind kind, UniqueFd fd) {
  const Depth depth(*this);
  tune_stream(fd.get());
  epoll_event event{};
  if (kind == StreamKind::kMessages && !channel.paused) event.events = EPOLLIN;
  event.data.u64 = channel.link;
  ::epoll_ctl(ready_.get(), EPOLL_CTL_ADD, fd.get(), &event);
  channel.streams.attach(kind, plain_stream(std::move(fd)));
  if (channel.opened && channel.streams.has(StreamKind::kMessages) && channel.streams.has(StreamKind::kBulk))
    loop_.cancel(channel);
  channel.streams.flush(may_send());
  note_busy(channel);
}

void Plane::remove(LinkId link) {
  const Depth depth(*this);
  auto channel = channels_.remove(link);
  if (!channel) return;
  channel->dialling.clear();
  if (channel->scheduled()) loop_.cancel(*channel);
  channel->streams.flush(kSentAlone);
  for (const StreamKind kind : {StreamKind::kMessages, StreamKind::kBulk})
    ::epoll_ctl(ready_.get(), EPOLL_CTL_DEL, channel->streams.fd(kind), nullptr);
  channel->streams.close(scratch_);
  look_at_retired();
  for (auto* list : {&busy_, &collected_})
    std::replace(list->begin(), list->end(), channel.get(), static_cast<Channel*>(nullptr));
  std::erase(opened_, channel.get());
  resting_ = opened_.empty();
  removed_.push_back(std::move(channel));
}

void Plane::pause(LinkId link, bool on) {
  Channel* const channel = channels_.find(link);
  if (!channel || std::exchange(channel->paused, on) == on) return;
  watch(*channel, armed_);
}

void Plane::look_at_retired() {
  if (RetiredPages::all().look() > 0) loop_.schedule_after(retired_timer_, kRetiredLook);
}

void Plane::lose(Channel& channel, Code code, const std::string& why) {
  if (std::exchange(channel.lost, true)) return;
  data_.lose(channel.link, {code, why});
}

// ---- The loop's side ------------------------------------------------------------------------------

std::size_t Plane::bytes_in_flight(const WayEnd& end) const {
  const auto& channel = static_cast<const Channel&>(end);
  return channel.streams.bytes_in_flight(channel.paused);
}

Result<void> Plane::send(WayEnd& end, OutFrame&& frame) {
  const Depth depth(*this);
  auto& channel = static_cast<Channel&>(end);
  const bool later = data_.collecting && channel.sent_round == round_;
  channel.sent_round = round_;
  if (channel.streams.send(std::move(frame), later)) small_sent_in_ = round_;
  if (later) {
    if (!std::exchange(channel.collected, true)) collected_.push_back(&channel);
    data_.collected = true;
    return {};
  }
  if (!channel.streams.sending()) return {};
  channel.streams.flush(may_send());
  note_busy(channel);
  return {};
}

void Plane::flush() {
  if (collected_.empty()) return;
  const Depth depth(*this);
  for (std::size_t i = 0; i < collected_.size(); ++i) {
    Channel* const channel = collected_[i];
    if (!channel) continue;
    channel->collected = false;
    channel->streams.flush(may_send());
    note_busy(*channel);
  }
  collected_.clear();
}

void Plane::note_busy(Channel& channel) {
  const Connection& streams = channel.streams;
  if (!streams.sending() && !streams.receiving_bulk() && !streams.has_input()) return;
  if (!std::exchange(channel.busy, true)) busy_.push_back(&channel);
  if (armed_) watch(channel, true);
}

void Plane::check(Channel& channel, Connection::Got got) {
  if (got == Connection::Got::kOn) return;
  if (got == Connection::Got::kNonsense)
    lose(channel, Code::kDataLoss, "the peer sent nonsense on its stream");
  if (std::exchange(channel.ended, true)) return;
  for (const StreamKind kind : {StreamKind::kMessages, StreamKind::kBulk})
    ::epoll_ctl(ready_.get(), EPOLL_CTL_DEL, channel.streams.fd(kind), nullptr);
  loop_.schedule_after(channel, kMeetingFollows);
}

int Plane::receive(Channel& channel) {
  if (channel.ended || channel.lost || channel.paused || !channel.opened) return 0;
  int did = 0;
  check(channel, channel.streams.receive(scratch_, did));
  if (did > 0) note_busy(channel);
  return did;
}

int Plane::receive_ready() {
  std::array<epoll_event, kReadyBatch> events;
  const int count = ::epoll_wait(ready_.get(), events.data(), kReadyBatch, 0);
  int did = 0;
  for (int i = 0; i < count; ++i) {
    const epoll_event& event = events[static_cast<std::size_t>(i)];
    Channel* const channel = channels_.find(event.data.u64);
    if (!channel) continue;
    const int here = receive(*channel);
    if (here == 0 && (event.events & (EPOLLERR | EPOLLHUP)) != 0) check(*channel, Connection::Got::kEnded);
    did += here;
  }
  return did;
}

std::size_t Plane::may_send() const {
  return round_ - small_sent_in_ > kQuietRounds ? kSentAlone : kSentBesides;
}

std::size_t Plane::may_receive() const {
  return quiet_rounds_ > kQuietRounds ? kReceivedAlone : kReceivedBesides;
}

std::size_t Plane::go_on(Channel& channel) {
  std::size_t moved = 0;
  if (channel.streams.sending()) moved += channel.streams.flush(may_send());
  if (channel.streams.has_input()) moved += static_cast<std::size_t>(receive(channel));
  if (!channel.streams.receiving_bulk() || channel.lost || channel.paused) return moved;
  check(channel, channel.streams.receive_bulk(may_receive(), moved));
  return moved;
}

int Plane::poll() {
  if (opened_.empty()) return 0;
  ++round_;
  if (armed_) {
    armed_ = false;
    for (Channel* channel : busy_)
      if (channel) watch(*channel, false);
  }
  const Depth depth(*this);
  int did = 0;
  if (opened_.size() <= kFew) {
    for (std::size_t i = 0; i < opened_.size(); ++i) did += receive(*opened_[i]);
  } else {
    did = receive_ready();
  }
  quiet_rounds_ = data_.arrivals.empty() ? quiet_rounds_ + 1 : 0;
  std::size_t moved = 0;
  for (std::size_t i = 0; i < busy_.size(); ++i) {
    Channel* const channel = busy_[i];
    if (!channel) continue;
    moved += go_on(*channel);
    if (busy_[i] != channel) continue;
    const Connection& streams = channel->streams;
    const bool receives = streams.receiving_bulk() || streams.has_input();
    if (streams.sending() || (receives && !channel->ended && !channel->lost)) continue;
    channel->busy = false;
    busy_[i] = nullptr;
  }
  return did + (moved > 0 ? 1 : 0);
}

void Plane::drain(LinkId link) {
  Channel* const channel = channels_.find(link);
  if (!channel || !channel->opened) return;
  const Depth depth(*this);
  int did = 1;
  while (did > 0 && channel->streams.receive(scratch_, did = 0) == Connection::Got::kOn) continue;
  for (std::size_t moved = 1; moved > 0;) channel->streams.receive_bulk(kReceivedAlone, moved = 0);
}

bool Plane::arm() {
  flush();
  for (const Channel* channel : busy_)
    if (channel && channel->streams.has_input() && !channel->paused && !channel->ended) return false;
  if (!std::exchange(armed_, true))
    for (Channel* channel : busy_)
      if (channel) watch(*channel, true);
  return true;
}

/// While armed, `ready_` tells what a busy channel waits for.
void Plane::watch(Channel& channel, bool armed) {
  if (channel.ended) return;
  const Connection& streams = channel.streams;
  for (const StreamKind kind : {StreamKind::kMessages, StreamKind::kBulk}) {
    const bool receiving =
        !channel.paused &&
        (kind == StreamKind::kMessages ? !(armed && streams.full()) : armed && streams.receiving_bulk());
    epoll_event event{};
    if (receiving) event.events |= EPOLLIN;
    if (armed && channel.streams.sending(kind)) event.events |= EPOLLOUT;
    event.data.u64 = channel.link;
    ::epoll_ctl(ready_.get(), EPOLL_CTL_MOD, channel.streams.fd(kind), &event);
  }
}

}  // namespace troupe::rpc::tcp
