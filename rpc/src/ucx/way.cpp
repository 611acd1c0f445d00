#include "ucx/way.hpp"

#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

namespace troupe::rpc {
namespace {

/// Rounds of UCX when a peer has left: what it sent before leaving still arrives.
constexpr int kLastRounds = 16;
/// A worker with so many endpoints that cannot be closed takes no more links.
constexpr std::size_t kMaxUnfinished = 64;
constexpr std::size_t kTagBytes = sizeof(std::uint64_t);

}  // namespace

Result<std::unique_ptr<UcxWay>> UcxWay::create(const TransportOptions& options, DataPlane& data) {
  std::unique_ptr<UcxWay> way(new UcxWay(options, data));
  if (!way->events_) return errno_error(errno, "making an epoll descriptor");
  if (auto added = way->add_worker(); !added) return added.error();
  const std::size_t longest = way->workers_.back()->max_am_header() - kTagBytes;
  if (longest < data.max_head_bytes) {
    return Error{Code::kUnavailable, "UCX takes headers of " + std::to_string(longest) +
                                         " bytes only with '" + options.transports + "'"};
  }
  return way;
}

UcxWay::UcxWay(const TransportOptions& options, DataPlane& data)
    : options_(options),
      events_(::epoll_create1(EPOLL_CLOEXEC)),
      links_(data),
      loopback_only_(options.net_devices.empty()) {
  resting_ = true;
}

UcxWay::~UcxWay() {
  for (const LinkId link : links_.ends.ids()) remove(link);
  workers_.clear();
}

Result<void> UcxWay::add_worker() {
  TransportOptions options = options_;
  if (loopback_only_) options.net_devices = "lo";
  auto worker = UcxWorker::create(options, links_);
  if (!worker) return worker.error();
  epoll_event event{};
  event.events = EPOLLIN;
  ::epoll_ctl(events_.get(), EPOLL_CTL_ADD, (*worker)->event_fd(), &event);
  workers_.push_back(std::move(*worker));
  resting_ = !used_ && workers_.size() == 1;
  return {};
}

Result<void> UcxWay::reach_beyond() {
  return std::exchange(loopback_only_, false) ? add_worker() : Result<void>{};
}

void UcxWay::retire_workers() {
  for (std::size_t i = 0; i + 1 < workers_.size(); ++i) {
    if (workers_[i]->attached() > 0) continue;
    ::epoll_ctl(events_.get(), EPOLL_CTL_DEL, workers_[i]->event_fd(), nullptr);
    workers_.erase(workers_.begin() + static_cast<std::ptrdiff_t>(i));
    resting_ = !used_ && workers_.size() == 1;
    return;
  }
}

std::size_t UcxWay::unfinished() const {
  std::size_t count = 0;
  for (const auto& worker : workers_) count += worker->unfinished();
  return count;
}

// ---- Links ----------------------------------------------------------------------------------------

Result<void> UcxWay::add(const LinkFacts& facts) {
  if (workers_.back()->unfinished() > kMaxUnfinished) {
    if (auto added = add_worker(); !added) return added;
  }
  workers_.back()->make_room();
  UcxEnd* const end = links_.ends.emplace_at(facts.link, *workers_.back());
  end->own_tag = facts.token[0];
  end->over_network = !facts.is_local || uses_network_only(options_);
  end->worker->attach();
  return {};
}

std::vector<std::byte> UcxWay::offer(LinkId link) {
  UcxEnd* const end = links_.ends.find(link);
  if (!end) return {};
  end->address_given = true;
  const std::vector<std::byte>& address = end->worker->address();
  std::vector<std::byte> offer(kTagBytes + address.size());
  std::memcpy(offer.data(), &end->own_tag, kTagBytes);
  std::memcpy(offer.data() + kTagBytes, address.data(), address.size());
  return offer;
}

Result<WayEnd*> UcxWay::open(LinkId link, std::span<const std::byte> peer_offer) {
  UcxEnd* const end = links_.ends.find(link);
  if (!end) return Error{Code::kUnimplemented, "none is to be had here"};
  if (peer_offer.size() <= kTagBytes)
    return Error{Code::kInvalidArgument, "the peer's data address is malformed: it has no UCX address"};
  std::memcpy(&end->peer_tag, peer_offer.data(), kTagBytes);
  // UCX 1.13 over TCP ends the process if the peer has connected to it and died since (an assertion in
  // uct_tcp_ep_destroy_progress). A process that dies closes its older sockets first, and so the control
  // socket before that of UCX: what is left is a death between these two lines.
  if (links_.data.control->peer_has_left(link)) return Error{Code::kUnavailable, "the peer has left"};
  used_ = true;
  resting_ = false;
  if (auto opened = end->worker->open(*end, peer_offer.subspan(kTagBytes)); !opened) return opened.error();
  return end;
}

/// The peer does without it, too, and so has not begun to connect.
void UcxWay::leave(LinkId link) {
  if (UcxEnd* const end = links_.ends.find(link)) end->address_given = false;
  remove(link);
}

void UcxWay::remove(LinkId link) {
  auto end = links_.ends.remove(link);
  if (!end) return;
  UcxWorker* const worker = end->worker;
  worker->detach(std::move(end));
}

// ---- Messages -------------------------------------------------------------------------------------

Result<void> UcxWay::send(WayEnd& way_end, OutFrame&& frame) {
  auto& end = static_cast<UcxEnd&>(way_end);
  return end.worker->send(end, std::move(frame));
}

std::size_t UcxWay::bytes_in_flight(const WayEnd& way_end) const {
  return static_cast<const UcxEnd&>(way_end).bytes_in_flight;
}

void UcxWay::pause(LinkId link, bool on) {
  UcxEnd* const end = links_.ends.find(link);
  if (!end || std::exchange(end->paused, on) == on) return;
  if (end->endpoint) end->worker->pause(*end);
}

void UcxWay::drain(LinkId link) {
  ++depth_;
  for (int round = 0; round < kLastRounds; ++round) {
    // Found anew each time: a sent buffer that is dropped may run anybody's code.
    UcxEnd* const end = links_.ends.find(link);
    if (!end || !end->endpoint || end->worker->progress() == 0) break;
  }
  --depth_;
}

// ---- The loop's side ------------------------------------------------------------------------------

int UcxWay::poll() {
  ++depth_;
  int progressed = 0;
  // By index: dropping a sent buffer may run code that adds a worker.
  for (std::size_t i = 0; i < workers_.size(); ++i) progressed += workers_[i]->progress();
  if (--depth_ == 0 && workers_.size() > 1) retire_workers();
  return progressed;
}

bool UcxWay::arm() {
  return std::all_of(workers_.begin(), workers_.end(), [](const auto& worker) { return worker->arm(); });
}

}  // namespace troupe::rpc
