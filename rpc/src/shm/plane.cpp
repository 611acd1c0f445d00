#include "shm/plane.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <utility>

#include "shm/asymmetric_fence.hpp"

namespace troupe::rpc::shm {
namespace {

/// Messages of one link that one round delivers at most.
constexpr int kBatch = 64;
/// With more links than kFew a round looks at those that had something within kBusyRounds, and at kOthers
/// more.
constexpr std::size_t kFew = 16;
constexpr std::size_t kOthers = 8;
constexpr std::uint64_t kBusyRounds = 1024;
/// Bytes of large messages copied in one round: little while small messages come, which wait meanwhile.
constexpr std::size_t kCopiedBesides = std::size_t{64} << 10;
constexpr std::size_t kCopiedAlone = std::size_t{512} << 10;
constexpr unsigned kQuietSteps = 16;
/// A round that finds nothing looks so many times more: the rest of a round takes longer than all of them.
constexpr int kLooks = 8;

/// A number for the process ids' namespace that we live in.
std::uint32_t own_pid_namespace() {
  static const std::uint32_t number = [] {
    struct stat info {};
    return ::stat("/proc/self/ns/pid", &info) == 0 ? static_cast<std::uint32_t>(info.st_ino) : 0;
  }();
  return number;
}

}  // namespace

class Plane::Depth {
 public:
  explicit Depth(Plane& plane) : plane_(plane) { ++plane_.depth_; }
  ~Depth() {
    if (--plane_.depth_ == 0 && (plane_.has_holes_ || !plane_.removed_.empty())) plane_.forget_removed();
  }
  Depth(const Depth&) = delete;
  Depth& operator=(const Depth&) = delete;

 private:
  Plane& plane_;
};

Plane::Plane(DataPlane& data, bool enabled) : data_(data), enabled_(enabled) {
  if (!enabled_) return;
  auto bell = Doorbell::create();
  if (bell)
    doorbell_ = std::move(*bell);
  else
    enabled_ = false;  // there are other ways
}

// ---- Links ----------------------------------------------------------------------------------------

Result<void> Plane::add(const LinkFacts& facts) {
  if (enabled_ && facts.is_local) channels_.emplace_at(facts.link);
  return {};
}

std::vector<std::byte> Plane::offer(LinkId link) {
  const Address own = address(link);
  return own.pid != 0 ? bytes_of_offer(own) : std::vector<std::byte>{};
}

Address Plane::address(LinkId link) {
  Channel* const channel = channels_.find(link);
  if (!channel) return {};
  if (!std::exchange(channel->tried, true)) {
    if (auto in = Inbound::create(link, data_)) {
      channel->in.emplace(std::move(*in));
      reading_.push_back(channel);
    }
  }
  if (!channel->in) return {};
  Address address;
  address.pid = static_cast<std::uint32_t>(::getpid());
  address.ring_fd = channel->in->fd();
  address.bell_fd = doorbell_.fd();
  address.pid_namespace = own_pid_namespace();
  address.cookie = channel->in->cookie();
  address.probe = channel->in->probe();
  return address;
}

Result<WayEnd*> Plane::open(LinkId link, std::span<const std::byte> peer_offer) {
  const auto peer = offer_of_bytes<Address>(peer_offer);
  return peer ? open(link, *peer) : peer.error();
}

Result<WayEnd*> Plane::open(LinkId link, const Address& peer) {
  // What both sides find out by themselves.
  if (address(link).pid == 0) return Error{Code::kUnimplemented, "none is to be had here"};
  if (peer.pid == 0 || peer.pid_namespace != own_pid_namespace())
    return Error{Code::kUnimplemented, "the peer is in another container"};
  Channel& channel = *channels_.find(link);
  const auto pid = static_cast<pid_t>(peer.pid);
  auto segment = Segment::open(pid, peer.ring_fd, ring::kSegmentBytes);
  if (!segment) return refuse(channel, segment.error());
  const auto& header = *reinterpret_cast<const RingHeader*>(segment->data());
  if (header.magic != RingHeader::kMagic || header.cookie != peer.cookie || peer.cookie == 0)
    return refuse(channel, {Code::kUnavailable, "what lies there is another's memory"});
  auto bell = Bell::open(pid, peer.bell_fd);
  if (!bell) return refuse(channel, bell.error());
  channel.out.emplace(std::move(*segment), std::move(*bell));
  channel.in->set_writer(pid, RemoteCopy::may_copy(pid, peer.probe, peer.cookie), channel.out->bell());
  channel.out->bell().ring();  // it may wait for our word
  return &channel;
}

Error Plane::refuse(Channel& channel, const Error& why) {
  channel.in->refuse(why.code == Code::kUnimplemented ? Refusal::kMayNot : Refusal::kCannot);
  return {Code::kUnimplemented, why.message};
}

/// What a side has found out stands in memory that the other has opened, if it could: that it has opened the
/// other's ring in that ring, that it cannot in its own.
DataWay::Agreement Plane::agreement(WayEnd& end) {
  auto& channel = static_cast<Channel&>(end);
  if (channel.out->refused() != Refusal::kNone) return Agreement::kRefused;
  return channel.in->attached() ? Agreement::kAgreed : Agreement::kPending;
}

/// Our ring stays, though nothing is read from it, because the peer may yet look why.
void Plane::leave(LinkId link) {
  const Depth depth(*this);
  Channel* const channel = channels_.find(link);
  if (!channel) return;
  for (auto* list : {&reading_, &sending_, &copying_})
    std::replace(list->begin(), list->end(), channel, static_cast<Channel*>(nullptr));
  has_holes_ = true;
  channel->lost = true;  // its reading may be on the stack
  channel->out.reset();
}

void Plane::remove(LinkId link) {
  const Depth depth(*this);
  auto channel = channels_.remove(link);
  if (!channel) return;
  for (auto* list : {&reading_, &sending_, &copying_})
    std::replace(list->begin(), list->end(), channel.get(), static_cast<Channel*>(nullptr));
  removed_.push_back(std::move(channel));
}

void Plane::forget_removed() {
  has_holes_ = false;
  const auto busy_end = reading_.begin() + static_cast<std::ptrdiff_t>(busy_);
  busy_ -= static_cast<std::size_t>(std::count(reading_.begin(), busy_end, nullptr));
  for (auto* list : {&reading_, &sending_, &copying_}) std::erase(*list, nullptr);
  // Their buffers' owners may do anything when these are dropped.
  const auto removed = std::exchange(removed_, {});
}

void Plane::lose(Channel& channel) {
  channel.lost = true;
  data_.lose(channel.link, {Code::kDataLoss, "the peer wrote nonsense into shared memory"});
}

// ---- The loop's side ------------------------------------------------------------------------------

Result<void> Plane::send(WayEnd& end, OutFrame&& frame) {
  auto& channel = static_cast<Channel&>(end);
  const Depth depth(*this);
  channel.out->send(std::move(frame));
  if (channel.out->busy() && !std::exchange(channel.sending, true)) sending_.push_back(&channel);
  return {};
}

std::size_t Plane::bytes_in_flight(const WayEnd& end) const {
  return static_cast<const Channel&>(end).out->bytes_in_flight();
}

void Plane::deliver(Arrival& arrival) {
  data_.events->on_frame(arrival.link, std::move(arrival.head), std::move(arrival.parts));
}

/// Delivers messages of one link. Afterwards the channel may be gone: a handler may close it, or wait, and
/// so call poll() again.
int Plane::receive(Channel& channel) {
  const LinkId link = channel.link;
  int did = 0;
  Arrival arrival;
  while (did < kBatch && !channel.lost && !channel.paused) {
    arrival.parts.clear();  // whoever got the one before has perhaps left them
    const Inbound::Got got = channel.in->receive(arrival);
    if (got == Inbound::Got::kNothing) break;
    ++did;
    if (got == Inbound::Got::kNonsense) lose(channel);
    if (got == Inbound::Got::kMore && channel.in->copying() && !channel.copying) {
      channel.copying = true;
      copying_.push_back(&channel);
    }
    if (got != Inbound::Got::kMessage) continue;
    quiet_steps_ = 0;
    deliver(arrival);
    if (channels_.find(link) != &channel) break;
  }
  return did;
}

int Plane::receive_all() {
  int did = 0;
  const auto look_at = [&](std::size_t index) {
    Channel* const channel = reading_[index];
    if (!channel) return;
    const int here = receive(*channel);
    if (here > 0 && is_there(index, *channel)) heat(index);
    did += here;
  };
  if (reading_.size() <= kFew) {
    for (std::size_t i = 0; i < reading_.size(); ++i) look_at(i);
    return did;
  }
  for (std::size_t i = 0; i < busy_ && i < reading_.size(); ++i) look_at(i);
  for (std::size_t n = 0; n < kOthers; ++n) {
    if (++cursor_ >= reading_.size()) cursor_ = busy_;
    if (cursor_ < reading_.size()) look_at(cursor_);
  }
  if (round_ % kBusyRounds == 0 && depth_ == 1) cool_down();
  return did;
}

/// A link that had something is looked at in every round for a while.
void Plane::heat(std::size_t index) {
  reading_[index]->active_in = round_;
  if (index < busy_) return;
  std::swap(reading_[index], reading_[busy_]);
  ++busy_;
}

void Plane::cool_down() {
  const auto busy_end = reading_.begin() + static_cast<std::ptrdiff_t>(busy_);
  const auto still = std::partition(reading_.begin(), busy_end, [&](const Channel* channel) {
    return channel && round_ - channel->active_in < kBusyRounds;
  });
  busy_ = static_cast<std::size_t>(still - reading_.begin());
}

/// One step for one link, the links in turn.
int Plane::copy_some() {
  if (++turn_ >= copying_.size()) turn_ = 0;
  Channel* const channel = copying_[turn_];
  if (!channel || channel->lost || channel->paused) return 0;
  Arrival arrival;
  const bool alone = ++quiet_steps_ > kQuietSteps;
  const auto got = channel->in->copy(arrival, alone ? kCopiedAlone : kCopiedBesides);
  if (!channel->in->copying()) {
    channel->copying = false;
    std::erase(copying_, channel);
  }
  if (got == Inbound::Got::kMessage) deliver(arrival);
  return 1;
}

int Plane::go_on_sending() {
  int did = 0;
  for (std::size_t i = 0; i < sending_.size(); ++i) {
    Channel* const channel = sending_[i];
    if (channel) did += channel->out->progress();
    if (i >= sending_.size() || sending_[i] != channel || !channel || channel->out->busy()) continue;
    channel->sending = false;
    sending_[i] = nullptr;
  }
  if (depth_ == 1) std::erase(sending_, nullptr);
  return did;
}

/// Between two looks a message that has come waits: so they are to be short.
[[gnu::always_inline]] inline bool Plane::has_arrivals() const {
  Channel* const* const channels = reading_.data();
  const std::size_t count = reading_.size() <= kFew ? reading_.size() : std::min(busy_, kFew);
  for (std::size_t i = 0; i < count; ++i)
    if (channels[i] && !channels[i]->in->empty() && !channels[i]->paused) return true;
  return false;
}

int Plane::poll() {
  if (armed_) disarm();
  if (reading_.empty()) return 0;
  const Depth depth(*this);
  ++round_;
  int did = receive_all();
  for (int look = 0; did == 0 && look < kLooks; ++look)
    if (has_arrivals()) did = receive_all();
  if (!copying_.empty()) did += copy_some();
  if (!sending_.empty()) did += go_on_sending();
  return did;
}

void Plane::drain(LinkId link) {
  const Depth depth(*this);
  Channel* channel = channels_.find(link);
  while (channel && channel->out && receive(*channel) > 0) channel = channels_.find(link);
}

bool Plane::arm() {
  const bool raised = !std::exchange(armed_, true);
  if (!raise_flags()) return false;
  if (!raised) return true;
  // A writer has seen the flags now, or what it has written shows itself: see Outbound::publish().
  if (AsymmetricFence::available()) AsymmetricFence::order_all();
  return raise_flags();
}

/// False: there is something to do.
bool Plane::raise_flags() {
  bool quiet = true;
  for (Channel* channel : reading_) {
    if (!channel || channel->lost) continue;
    if (!channel->paused && !channel->in->arm()) quiet = false;
    if (!channel->out || !channel->out->busy()) continue;
    // Without a way back the peer cannot ring.
    if (!channel->in->attached() || !channel->out->arm()) quiet = false;
  }
  return quiet;
}

void Plane::disarm() {
  armed_ = false;
  for (Channel* channel : reading_) {
    if (!channel) continue;
    channel->in->disarm();
    if (channel->out && channel->out->busy()) channel->out->disarm();
  }
  doorbell_.clear();
}

}  // namespace troupe::rpc::shm
