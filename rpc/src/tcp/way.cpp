#include "tcp/way.hpp"

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
/// Of what is collected on a link so much goes at once: the peer begins with it while more is collected.
constexpr std::size_t kMostHeld = 8192;
/// ... and up to so much of answers while more wait here to be made and take little: a write costs almost the
/// same for more. Goes when as much is held as still waits, but not for the sake of the last few.
constexpr std::size_t kMostHeldOfMany = std::size_t{32} << 10;
constexpr std::size_t kLastFew = 16;
/// ... and of a thread's calls, as long as answers are there when it looks for them: then the peer is the
/// quicker one. Not of a thread that waits: the peer would wait, too, until the next calls are many. Who has
/// looked so often in vain waits.
constexpr unsigned kWaits = 4;
/// Bytes of large messages that one round sends, and receives: little while small messages come, which wait
/// meanwhile.
constexpr std::size_t kSentBesides = std::size_t{64} << 10;
constexpr std::size_t kSentAlone = std::size_t{512} << 10;
constexpr std::size_t kReceivedBesides = std::size_t{128} << 10;
constexpr std::size_t kReceivedAlone = std::size_t{1} << 20;
constexpr unsigned kQuietRounds = 16;
/// How long a peer's streams may take to come.
constexpr Duration kConnectTimeout = std::chrono::seconds(5);
/// A peer that closes a stream is going, and so closes its control socket, too: that is told of instead if it
/// happens within this time.
constexpr Duration kControlFollows = std::chrono::milliseconds(500);
/// Of messages, and pieces of 1 MiB of bulk, that are read after a peer has left: more than any socket holds.
constexpr std::uint64_t kLastBytes = std::uint64_t{32} << 20;
constexpr int kLastPieces = 256;
/// How often it is asked whether peers that have been lent memory are gone.
constexpr Duration kRetiredLook = std::chrono::milliseconds(100);

}  // namespace

class TcpWay::Depth {
 public:
  explicit Depth(TcpWay& way) : way_(way) { ++way_.depth_; }
  ~Depth() {
    if (--way_.depth_ > 0) return;
    if (!way_.busy_.empty()) std::erase(way_.busy_, nullptr);
    way_.removed_.drop();
  }
  Depth(const Depth&) = delete;
  Depth& operator=(const Depth&) = delete;

 private:
  TcpWay& way_;
};

/// A stream that we have dialled, until it is there.
class TcpWay::Dialling final : public FdHandler {
 public:
  Dialling(End& end, StreamKind kind, UniqueFd fd, const SocketAddress& peer, const Token& token)
      : end_(end), preamble_{Preamble::kMagic, kind, token}, fd_(std::move(fd)), peer_(peer) {}
  ~Dialling() override {
    if (fd_) end_.way.loop_.unwatch(fd_.get());
  }

  Result<void> start() { return end_.way.loop_.watch(fd_.get(), EPOLLOUT, *this); }
  void on_ready(std::uint32_t) override {
    End& end = end_;
    TcpWay& way = end.way;
    way.loop_.unwatch(fd_.get());
    auto connected = connect_result(fd_.get(), peer_);
    if (connected && ::send(fd_.get(), &preamble_, sizeof preamble_, MSG_DONTWAIT | MSG_NOSIGNAL) !=
                         static_cast<ssize_t>(sizeof preamble_))
      connected = Error{Code::kUnavailable, "the peer at " + peer_.to_string() + " hung up"};
    UniqueFd fd = std::move(fd_);
    const StreamKind kind = preamble_.kind;
    std::erase_if(end.dialling, [this](const auto& other) { return other.get() == this; });
    if (!connected) return way.lose(end, connected.error().code, connected.error().message);
    way.attach(end, kind, std::move(fd));
  }

 private:
  End& end_;
  const Preamble preamble_;
  UniqueFd fd_;
  const SocketAddress peer_;
};

TcpWay::End::End(LinkId id, TcpWay& owner, bool is_incoming, const Token& own_token, bool lends)
    : WayEnd(id),
      way(owner),
      incoming(is_incoming),
      token(own_token),
      streams(id, owner.data_, lends),
      most_held(kMostHeld) {}

TcpWay::End::~End() = default;

void TcpWay::End::on_timer() {
  if (streams.lacked_memory())
    return way.lose(*this, Code::kResourceExhausted,
                    "there was no memory for the rest of a message to the peer");
  if (ended) return way.lose(*this, Code::kUnavailable, "lost the peer: it closed its data streams");
  way.lose(*this, Code::kUnavailable,
           "the peer's data streams did not come within 5 s (does a firewall, or what forwards the port, "
           "let more than one connection through?)");
}

TcpWay::TcpWay(Loop& loop, DataPlane& data, Offer offer)
    : loop_(loop),
      data_(data),
      offer_(offer),
      ready_(offer == Offer::kNone ? -1 : ::epoll_create1(EPOLL_CLOEXEC)),
      scratch_(ready_ ? Connection::kScratchBytes : 0),
      retired_timer_([this] { look_at_retired(); }) {
  if (!ready_) offer_ = Offer::kNone;
  resting_ = true;
}

TcpWay::~TcpWay() {
  if (retired_timer_.scheduled()) loop_.cancel(retired_timer_);
}

// ---- Links ----------------------------------------------------------------------------------------

Result<void> TcpWay::add(const LinkFacts& facts) {
  if (offer_ == Offer::kNone) return {};
  const bool lends = data_.control->remote_address(facts.link).is_local();
  ends_.emplace_at(facts.link, *this, facts.incoming, facts.token, lends);
  return {};
}

std::vector<std::byte> TcpWay::offer(LinkId link) {
  const Address own = address(link);
  return own.offer != Offer::kNone ? bytes_of_offer(own) : std::vector<std::byte>{};
}

Address TcpWay::address(LinkId link) {
  End* const end = ends_.find(link);
  if (!end) return {};
  Address address;
  if (end->incoming) {
    address.takes_streams = 1;
    address.token = end->token;
  }
  address.offer = offer_;
  return address;
}

Result<WayEnd*> TcpWay::open(LinkId link, std::span<const std::byte> peer_offer) {
  const auto offered = offer_of_bytes<Address>(peer_offer);
  if (!offered) return offered.error();
  const Address& peer = *offered;
  End* const end = ends_.find(link);
  if (!end || peer.offer == Offer::kNone) return Error{Code::kUnimplemented, "one side has no streams"};
  if (offer_ == Offer::kIfNeeded && peer.offer == Offer::kIfNeeded)
    return Error{Code::kUnimplemented, "both sides know a better way"};
  if (!end->incoming && peer.takes_streams == 0)
    return Error{Code::kInvalidArgument, "the peer's data address is malformed: it takes no streams"};
  end->opened = true;
  opened_.push_back(end);
  resting_ = false;
  loop_.schedule_after(*end, kConnectTimeout);
  if (!end->incoming) {
    const SocketAddress there = data_.control->remote_address(link);
    for (const StreamKind kind : {StreamKind::kMessages, StreamKind::kBulk}) {
      auto fd = connecting_socket(there);
      if (!fd) return fd.error();
      auto dialling = std::make_unique<Dialling>(*end, kind, std::move(*fd), there, peer.token);
      if (auto started = dialling->start(); !started) return started.error();
      end->dialling.push_back(std::move(dialling));
    }
  }
  if (end->streams.has(StreamKind::kMessages) && end->streams.has(StreamKind::kBulk)) loop_.cancel(*end);
  return end;
}

void TcpWay::take(const Preamble& preamble, UniqueFd fd) {
  End* const end = ends_.in_slot(preamble.token[0]);
  if (!end || !end->incoming) return;
  const std::uint64_t difference = (end->token[0] ^ preamble.token[0]) | (end->token[1] ^ preamble.token[1]);
  const bool is_known = preamble.kind == StreamKind::kMessages || preamble.kind == StreamKind::kBulk;
  if (difference != 0 || !is_known || end->streams.has(preamble.kind)) return;
  attach(*end, preamble.kind, std::move(fd));
}

void TcpWay::attach(End& end, StreamKind kind, UniqueFd fd) {
  const Depth depth(*this);
  tune_stream(fd.get());
  epoll_event event{};
  if (kind == StreamKind::kMessages && !end.paused) event.events = EPOLLIN;
  event.data.u64 = end.link;
  ::epoll_ctl(ready_.get(), EPOLL_CTL_ADD, fd.get(), &event);
  end.streams.attach(kind, make_stream_(std::move(fd)));
  if (!end.streams.has_one_peer())
    return lose(end, Code::kUnauthenticated, "the peer's two data streams are of different identities");
  if (end.opened && end.streams.has(StreamKind::kMessages) && end.streams.has(StreamKind::kBulk))
    loop_.cancel(end);
  end.streams.flush(may_send());
  note_busy(end);
}

std::string_view TcpWay::peer_identity(const WayEnd& way_end) const {
  return static_cast<const End&>(way_end).streams.peer_identity();
}

void TcpWay::remove(LinkId link) {
  const Depth depth(*this);
  auto removed = ends_.remove(link);
  if (!removed) return;
  End* const end = removed.get();
  // Nobody knows it any more before anything is done that may fail.
  for (auto* list : {&busy_, &collected_})
    std::replace(list->begin(), list->end(), end, static_cast<End*>(nullptr));
  std::erase(opened_, end);
  resting_ = opened_.empty();
  removed_.add(std::move(removed));
  end->dialling.clear();
  if (end->scheduled()) loop_.cancel(*end);
  end->streams.flush(kSentAlone);
  for (const StreamKind kind : {StreamKind::kMessages, StreamKind::kBulk})
    ::epoll_ctl(ready_.get(), EPOLL_CTL_DEL, end->streams.fd(kind), nullptr);
  end->streams.close(scratch_);
  look_at_retired();
}

void TcpWay::pause(LinkId link, bool on) {
  End* const end = ends_.find(link);
  if (!end || std::exchange(end->paused, on) == on) return;
  watch(*end, armed_);
}

void TcpWay::look_at_retired() {
  if (RetiredPages::all().look() > 0) loop_.schedule_after(retired_timer_, kRetiredLook);
}

void TcpWay::lose(End& end, Code code, const std::string& why) {
  if (std::exchange(end.lost, true)) return;
  data_.lose(end.link, {code, why});
}

// ---- The loop's side ------------------------------------------------------------------------------

std::size_t TcpWay::bytes_in_flight(const WayEnd& way_end) const {
  const auto& end = static_cast<const End&>(way_end);
  return end.streams.bytes_in_flight(end.paused);
}

Result<void> TcpWay::send(WayEnd& way_end, OutFrame&& frame) {
  const Depth depth(*this);
  auto& end = static_cast<End&>(way_end);
  const bool first = std::exchange(end.sent_round, round_) != round_;
  const bool later = may_hold(end, frame.head.size()) &&
                     (data_.collecting ? !first || (data_.brisk && !data_.arrivals.empty())
                                       : data_.holder->hold_back(first));
  const bool is_small = end.streams.send(std::move(frame), later);
  if (is_small) small_sent_in_ = round_;
  if (later && (is_small || data_.collecting)) {
    if (!end.collected) collected_.push_back(&end);
    end.collected = true;
    data_.collected = true;
    return {};
  }
  if (!end.streams.sending()) return {};
  end.streams.flush(may_send());
  note_busy(end);
  return {};
}

/// Whether a message whose head has so many bytes may be put to those that are held.
bool TcpWay::may_hold(End& end, std::size_t head_bytes) const {
  const std::size_t held = end.streams.bytes_held();
  if (held < kMostHeld) return true;
  if (!data_.collecting) {
    if (held < end.most_held) return true;
    end.most_held = std::min(kMostHeldOfMany, end.most_held + end.most_held / 8);
    return false;
  }
  if (!data_.brisk || held >= kMostHeldOfMany) return false;
  const std::size_t waiting = data_.arrivals.size();
  return waiting <= kLastFew || held < waiting * head_bytes;
}

void TcpWay::flush() {
  if (collected_.empty()) return;
  const Depth depth(*this);
  // What is sent is dropped, by which more may be collected, or all of this done within it.
  while (!collected_.empty()) {
    End* const end = collected_.back();
    collected_.pop_back();
    if (!end) continue;
    end->collected = false;
    end->streams.flush(may_send());
    note_busy(*end);
  }
}

void TcpWay::note_busy(End& end) {
  const Connection& streams = end.streams;
  if (!streams.sending() && !streams.receiving_bulk() && !streams.has_input()) return;
  if (!end.busy) {
    busy_.push_back(&end);
    end.busy = true;
  }
  if (armed_) watch(end, true);
}

void TcpWay::check(End& end, Connection::Got got) {
  if (got == Connection::Got::kOn) return;
  if (got == Connection::Got::kNonsense) lose(end, Code::kDataLoss, "the peer sent nonsense on its stream");
  if (std::exchange(end.ended, true)) return;
  for (const StreamKind kind : {StreamKind::kMessages, StreamKind::kBulk})
    ::epoll_ctl(ready_.get(), EPOLL_CTL_DEL, end.streams.fd(kind), nullptr);
  loop_.schedule_after(end, kControlFollows);
}

int TcpWay::receive(End& end) {
  if (end.ended || end.lost || end.paused || !end.opened) return 0;
  int did = 0;
  check(end, end.streams.receive(scratch_, did));
  end.nothing_came = did > 0 ? 0 : end.nothing_came + 1;
  if (end.nothing_came == kWaits) end.most_held = std::max(kMostHeld, end.most_held - end.most_held / 4);
  if (did > 0 || end.streams.has_input()) note_busy(end);
  return did;
}

int TcpWay::receive_ready() {
  std::array<epoll_event, kReadyBatch> events;
  const int count = ::epoll_wait(ready_.get(), events.data(), kReadyBatch, 0);
  int did = 0;
  for (int i = 0; i < count; ++i) {
    const epoll_event& event = events[static_cast<std::size_t>(i)];
    End* const end = ends_.find(event.data.u64);
    if (!end) continue;
    const int here = receive(*end);
    const bool at_end = here == 0 && !end->streams.has_input();
    if (at_end && (event.events & (EPOLLERR | EPOLLHUP)) != 0) check(*end, Connection::Got::kEnded);
    did += here;
  }
  return did;
}

std::size_t TcpWay::may_send() const {
  return round_ - small_sent_in_ > kQuietRounds ? kSentAlone : kSentBesides;
}

std::size_t TcpWay::may_receive() const {
  return quiet_rounds_ > kQuietRounds ? kReceivedAlone : kReceivedBesides;
}

std::size_t TcpWay::go_on(End& end) {
  std::size_t moved = 0;
  if (end.streams.sending()) moved += end.streams.flush(may_send());
  if (end.streams.has_input()) moved += static_cast<std::size_t>(receive(end));
  if (!end.streams.receiving_bulk() || end.lost || end.paused) return moved;
  check(end, end.streams.receive_bulk(may_receive(), moved));
  return moved;
}

int TcpWay::poll() {
  if (opened_.empty()) return 0;
  ++round_;
  if (armed_) {
    armed_ = false;
    for (End* end : busy_)
      if (end) watch(*end, false);
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
    End* const end = busy_[i];
    if (!end) continue;
    moved += go_on(*end);
    if (busy_[i] != end) continue;
    const Connection& streams = end->streams;
    const bool receives = streams.receiving_bulk() || streams.has_input();
    if (streams.sending() || (receives && !end->ended && !end->lost)) continue;
    end->busy = false;
    busy_[i] = nullptr;
  }
  return did + (moved > 0 ? 1 : 0);
}

void TcpWay::drain(LinkId link) {
  End* const end = ends_.find(link);
  if (!end || !end->opened) return;
  const Depth depth(*this);
  // Until no more comes, as a whole record or not; who goes on writing is no peer any more.
  int records = 0;
  const std::uint64_t begin = end->streams.received();
  std::uint64_t before = 0;
  do {
    before = end->streams.received();
    if (end->streams.receive(scratch_, records) != Connection::Got::kOn) break;
  } while (end->streams.received() != before && before - begin < kLastBytes);
  std::size_t moved = 1;
  for (int i = 0; moved > 0 && i < kLastPieces; ++i) end->streams.receive_bulk(kReceivedAlone, moved = 0);
}

bool TcpWay::arm() {
  flush();
  for (const End* end : busy_)
    if (end && end->streams.has_input() && !end->paused && !end->ended) return false;
  if (!std::exchange(armed_, true))
    for (End* end : busy_)
      if (end) watch(*end, true);
  return true;
}

/// While armed, `ready_` tells what a busy end waits for.
void TcpWay::watch(End& end, bool armed) {
  if (end.ended) return;
  const Connection& streams = end.streams;
  for (const StreamKind kind : {StreamKind::kMessages, StreamKind::kBulk}) {
    const bool receiving = !end.paused && (kind == StreamKind::kMessages ? !(armed && streams.full())
                                                                         : armed && streams.receiving_bulk());
    epoll_event event{};
    if (receiving) event.events |= EPOLLIN;
    if (armed && end.streams.sending(kind)) event.events |= EPOLLOUT;
    event.data.u64 = end.link;
    ::epoll_ctl(ready_.get(), EPOLL_CTL_MOD, end.streams.fd(kind), &event);
  }
}

}  // namespace troupe::rpc::tcp
