#include "shm/way.hpp"

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

class ShmWay::Depth {
 public:
  explicit Depth(ShmWay& way) : way_(way) { ++way_.depth_; }
  ~Depth() {
    if (--way_.depth_ == 0 && (way_.has_holes_ || !way_.removed_.empty())) way_.forget_removed();
  }
  Depth(const Depth&) = delete;
  Depth& operator=(const Depth&) = delete;

 private:
  ShmWay& way_;
};

ShmWay::ShmWay(DataPlane& data, bool enabled) : data_(data), enabled_(enabled) {
  if (!enabled_) return;
  auto bell = Doorbell::create();
  if (bell)
    doorbell_ = std::move(*bell);
  else
    enabled_ = false;  // there are other ways
}

// ---- Links ----------------------------------------------------------------------------------------

Result<void> ShmWay::add(const LinkFacts& facts) {
  if (enabled_ && facts.is_local) ends_.emplace_at(facts.link);
  return {};
}

std::vector<std::byte> ShmWay::offer(LinkId link) {
  const Address own = address(link);
  return own.pid != 0 ? bytes_of_offer(own) : std::vector<std::byte>{};
}

Address ShmWay::address(LinkId link) {
  End* const end = ends_.find(link);
  if (!end) return {};
  if (!std::exchange(end->tried, true)) {
    if (auto in = Inbound::create(link, data_)) {
      end->in.emplace(std::move(*in));
      reading_.push_back(end);
    }
  }
  if (!end->in) return {};
  Address address;
  address.pid = static_cast<std::uint32_t>(::getpid());
  address.ring_fd = end->in->fd();
  address.bell_fd = doorbell_.fd();
  address.pid_namespace = own_pid_namespace();
  address.cookie = end->in->cookie();
  address.probe = end->in->probe();
  return address;
}

Result<WayEnd*> ShmWay::open(LinkId link, std::span<const std::byte> peer_offer) {
  const auto peer = offer_of_bytes<Address>(peer_offer);
  return peer ? open(link, *peer) : peer.error();
}

Result<WayEnd*> ShmWay::open(LinkId link, const Address& peer) {
  // What both sides find out by themselves.
  if (address(link).pid == 0) return Error{Code::kUnimplemented, "none is to be had here"};
  if (peer.pid == 0 || peer.pid_namespace != own_pid_namespace())
    return Error{Code::kUnimplemented, "the peer is in another container"};
  End& end = *ends_.find(link);
  const auto pid = static_cast<pid_t>(peer.pid);
  auto segment = Segment::open(pid, peer.ring_fd, ring::kSegmentBytes);
  if (!segment) return refuse(end, segment.error());
  const auto& header = *reinterpret_cast<const RingHeader*>(segment->data());
  if (header.magic != RingHeader::kMagic || header.cookie != peer.cookie || peer.cookie == 0)
    return refuse(end, {Code::kUnavailable, "what lies there is another's memory"});
  auto bell = Bell::open(pid, peer.bell_fd);
  if (!bell) return refuse(end, bell.error());
  end.out.emplace(std::move(*segment), std::move(*bell));
  end.in->set_writer(pid, RemoteCopy::may_copy(pid, peer.probe, peer.cookie), end.out->bell());
  end.out->bell().ring();  // it may wait for our word
  return &end;
}

Error ShmWay::refuse(End& end, const Error& why) {
  end.in->refuse(why.code == Code::kUnimplemented ? Refusal::kMayNot : Refusal::kCannot);
  return {Code::kUnimplemented, why.message};
}

/// What a side has found out stands in memory that the other has opened, if it could: that it has opened the
/// other's ring in that ring, that it cannot in its own.
DataWay::Agreement ShmWay::agreement(WayEnd& way_end) {
  auto& end = static_cast<End&>(way_end);
  if (end.out->refused() != Refusal::kNone) return Agreement::kRefused;
  return end.in->attached() ? Agreement::kAgreed : Agreement::kPending;
}

/// Our ring stays, though nothing is read from it, because the peer may yet look why.
void ShmWay::leave(LinkId link) {
  const Depth depth(*this);
  End* const end = ends_.find(link);
  if (!end) return;
  for (auto* list : {&reading_, &sending_, &copying_})
    std::replace(list->begin(), list->end(), end, static_cast<End*>(nullptr));
  has_holes_ = true;
  end->lost = true;  // its reading may be on the stack
  if (end->in) end->in->forget_writer();
  end->out.reset();
}

void ShmWay::remove(LinkId link) {
  const Depth depth(*this);
  auto end = ends_.remove(link);
  if (!end) return;
  for (auto* list : {&reading_, &sending_, &copying_})
    std::replace(list->begin(), list->end(), end.get(), static_cast<End*>(nullptr));
  removed_.add(std::move(end));
}

void ShmWay::forget_removed() {
  has_holes_ = false;
  const auto busy_end = reading_.begin() + static_cast<std::ptrdiff_t>(busy_);
  busy_ -= static_cast<std::size_t>(std::count(reading_.begin(), busy_end, nullptr));
  for (auto* list : {&reading_, &sending_, &copying_}) std::erase(*list, nullptr);
  // Their buffers' owners may do anything when these are dropped.
  removed_.drop();
}

void ShmWay::lose(End& end) {
  end.lost = true;
  data_.lose(end.link, {Code::kDataLoss, "the peer wrote nonsense into shared memory"});
}

// ---- The loop's side ------------------------------------------------------------------------------

Result<void> ShmWay::send(WayEnd& way_end, OutFrame&& frame) {
  auto& end = static_cast<End&>(way_end);
  const Depth depth(*this);
  end.out->send(std::move(frame));
  if (end.out->busy() && !end.sending) {
    sending_.push_back(&end);  // first: if there is no memory the next message tries it again
    end.sending = true;
  }
  return {};
}

std::size_t ShmWay::bytes_in_flight(const WayEnd& way_end) const {
  return static_cast<const End&>(way_end).out->bytes_in_flight();
}

void ShmWay::deliver(Arrival& arrival) {
  data_.events->on_frame(arrival.link, std::move(arrival.head), std::move(arrival.parts));
}

/// Delivers messages of one link. Afterwards the end may be gone: a handler may close it, or wait, and
/// so call poll() again.
int ShmWay::receive(End& end) {
  const LinkId link = end.link;
  int did = 0;
  Arrival arrival;
  while (did < kBatch && !end.lost && !end.paused) {
    arrival.parts.clear();  // whoever got the one before has perhaps left them
    const Inbound::Got got = end.in->receive(arrival);
    if (got == Inbound::Got::kNothing) break;
    ++did;
    if (got == Inbound::Got::kNonsense) lose(end);
    if (got == Inbound::Got::kMore && end.in->copying() && !end.copying) {
      copying_.push_back(&end);
      end.copying = true;
    }
    if (got != Inbound::Got::kMessage) continue;
    quiet_steps_ = 0;
    deliver(arrival);
    if (ends_.find(link) != &end) break;
  }
  return did;
}

int ShmWay::receive_all() {
  int did = 0;
  const auto look_at = [&](std::size_t index) {
    End* const end = reading_[index];
    if (!end) return;
    const int here = receive(*end);
    if (here > 0 && is_there(index, *end)) heat(index);
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
void ShmWay::heat(std::size_t index) {
  reading_[index]->active_in = round_;
  if (index < busy_) return;
  std::swap(reading_[index], reading_[busy_]);
  ++busy_;
}

void ShmWay::cool_down() {
  const auto busy_end = reading_.begin() + static_cast<std::ptrdiff_t>(busy_);
  const auto still = std::partition(reading_.begin(), busy_end, [&](const End* end) {
    return end && round_ - end->active_in < kBusyRounds;
  });
  busy_ = static_cast<std::size_t>(still - reading_.begin());
}

/// One step for one link, the links in turn.
int ShmWay::copy_some() {
  if (++turn_ >= copying_.size()) turn_ = 0;
  End* const end = copying_[turn_];
  if (!end || end->lost || end->paused) return 0;
  Arrival arrival;
  const bool alone = ++quiet_steps_ > kQuietSteps;
  const auto got = end->in->copy(arrival, alone ? kCopiedAlone : kCopiedBesides);
  if (!end->in->copying()) {
    end->copying = false;
    std::erase(copying_, end);
  }
  if (got == Inbound::Got::kMessage) deliver(arrival);
  return 1;
}

int ShmWay::go_on_sending() {
  int did = 0;
  for (std::size_t i = 0; i < sending_.size(); ++i) {
    End* const end = sending_[i];
    if (end) did += end->out->progress();
    if (i >= sending_.size() || sending_[i] != end || !end || end->out->busy()) continue;
    end->sending = false;
    sending_[i] = nullptr;
  }
  if (depth_ == 1) std::erase(sending_, nullptr);
  return did;
}

/// Between two looks a message that has come waits: so they are to be short.
[[gnu::always_inline]] inline bool ShmWay::has_arrivals() const {
  End* const* const ends = reading_.data();
  const std::size_t count = reading_.size() <= kFew ? reading_.size() : std::min(busy_, kFew);
  for (std::size_t i = 0; i < count; ++i)
    if (ends[i] && !ends[i]->in->empty() && !ends[i]->paused) return true;
  return false;
}

int ShmWay::poll() {
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

void ShmWay::drain(LinkId link) {
  const Depth depth(*this);
  End* end = ends_.find(link);
  if (!end || !end->in) return;
  // What stood in the ring when the peer had left; who writes on is no peer any more.
  const std::uint64_t last = end->in->position() + ring::kBytes;
  while (end && end->out && end->in->position() < last && receive(*end) > 0) end = ends_.find(link);
}

bool ShmWay::arm() {
  const bool raised = !std::exchange(armed_, true);
  if (!raise_flags()) return false;
  if (!raised) return true;
  // A writer has seen the flags now, or what it has written shows itself: see Outbound::publish().
  if (AsymmetricFence::available()) AsymmetricFence::order_all();
  return raise_flags();
}

/// False: there is something to do.
bool ShmWay::raise_flags() {
  bool quiet = true;
  for (End* end : reading_) {
    if (!end || end->lost) continue;
    if (!end->paused && !end->in->arm()) quiet = false;
    if (!end->out || !end->out->busy()) continue;
    // Without a way back the peer cannot ring.
    if (!end->in->attached() || !end->out->arm()) quiet = false;
  }
  return quiet;
}

void ShmWay::disarm() {
  armed_ = false;
  for (End* end : reading_) {
    if (!end) continue;
    end->in->disarm();
    if (end->out && end->out->busy()) end->out->disarm();
  }
  doorbell_.clear();
}

}  // namespace troupe::rpc::shm
