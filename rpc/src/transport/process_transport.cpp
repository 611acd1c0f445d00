#include "transport/process_transport.hpp"

#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <new>
#include <utility>

#include "transport/data_address.hpp"

namespace troupe::rpc {

namespace {

/// For the name of an address at which to listen.
constexpr Duration kNamePatience = std::chrono::seconds(5);
/// Messages that one poll() delivers at most before it returns to the loop.
constexpr int kDeliverBatch = 256;
/// What is collected goes after this time, though there is more to deliver.
constexpr Duration kLongestCollected = std::chrono::microseconds(20);
/// Where so many messages wait to be delivered, and the ones before took so little each, the first answer is
/// collected, too: the others follow at once. So it is taken to be for so long.
constexpr std::size_t kMany = 8;
constexpr Duration kBriskEach = std::chrono::microseconds(3);
constexpr Duration kBriskFor = std::chrono::milliseconds(1);
/// A round of the ways that did so much is followed by another one in the same poll().
constexpr int kBusyRound = 8;
constexpr int kMaxRounds = 4;
/// So much is kept of what comes on a paused link by ways that cannot be stopped at once.
constexpr std::size_t kMostHeldBytes = std::size_t{64} << 20;

class DepthGuard {
 public:
  explicit DepthGuard(int& depth) : depth_(depth) { ++depth_; }
  ~DepthGuard() { --depth_; }
  DepthGuard(const DepthGuard&) = delete;
  DepthGuard& operator=(const DepthGuard&) = delete;

 private:
  int& depth_;
};

bool uses_rings(const std::string& transports) {
  return transports == "auto" || transports == "shm";
}

bool uses_ucx(const std::string& transports) {
  if (transports == "auto") return has_rdma();
  return transports != "shm" && transports != "tcp";
}

tcp::Offer offer_of_streams(const std::string& transports) {
  if (transports == "auto") return has_rdma() ? tcp::Offer::kIfNeeded : tcp::Offer::kGladly;
  return transports == "tcp" ? tcp::Offer::kGladly : tcp::Offer::kNone;
}

std::size_t bytes_of(const Buffer& head, const std::vector<Buffer>& parts) {
  std::size_t bytes = head.size();
  for (const Buffer& part : parts) bytes += part.size();
  return bytes;
}

Error no_such_link() {
  return {Code::kUnavailable, "the link to the peer is closed"};
}

/// Apart from send(), through which most messages go without parts.
[[gnu::noinline]] bool can_take_all(const DataWay& way, const std::vector<Buffer>& parts) {
  return std::all_of(parts.begin(), parts.end(), [&](const Buffer& part) {
    return part.device().kind == MemoryKind::kHost || way.can_take(part);
  });
}

[[gnu::noinline, gnu::cold]] Error cannot_carry(std::string_view way) {
  return {Code::kUnimplemented,
          std::string(way) + " cannot carry a tensor that lies on a device: bring it to host memory"};
}

}  // namespace

Result<std::unique_ptr<ProcessTransport>> ProcessTransport::create(Loop& loop,
                                                                   const TransportOptions& options) {
  const Loop::Turn turn(loop);
  std::unique_ptr<ProcessTransport> transport(new ProcessTransport(loop, options));
  if (!transport->event_fd_) return errno_error(errno, "making an epoll descriptor");
  if (auto made = transport->make_ways(); !made) return made.error();
  loop.add_source(*transport);
  return transport;
}

ProcessTransport::ProcessTransport(Loop& loop, const TransportOptions& options)
    : loop_(loop),
      options_(options),
      event_fd_(::epoll_create1(EPOLL_CLOEXEC)),
      data_(limits_.max_head_bytes),
      shm_(data_, uses_rings(options_.transports)),
      tcp_(loop, data_, offer_of_streams(options_.transports)),
      control_(loop, limits_.max_control_bytes, *this) {
  limits_.eager_bytes = std::size_t{48} << 10;
  data_.control = &control_;
  data_.holder = this;
}

Result<void> ProcessTransport::make_ways() {
  if (uses_rings(options_.transports)) ways_.push_back(&shm_);
  // Before UCX: whether a link goes this way, although UCX could carry it, is a matter of both sides' offers.
  if (offer_of_streams(options_.transports) != tcp::Offer::kNone) {
    ways_.push_back(&tcp_);
    control_.expect_streams(tcp::Preamble::kMagic, sizeof(tcp::Preamble));
  }
  if (uses_ucx(options_.transports)) {
    auto ucx = UcxWay::create(options_, data_);
    if (!ucx) return ucx.error();
    ucx_ = std::move(*ucx);
    ways_.push_back(ucx_.get());
  }
  for (const DataWay* way : ways_) {
    if (!way->is_quiet() || way->event_fd() < 0) continue;
    epoll_event event{};
    event.events = EPOLLIN;
    ::epoll_ctl(event_fd_.get(), EPOLL_CTL_ADD, way->event_fd(), &event);
  }
  return {};
}

ProcessTransport::~ProcessTransport() {
  const Loop::Turn turn(loop_);
  loop_.remove_source(*this);
  // Sockets first: a peer that is reading our memory just now sees that it can no longer trust it.
  for (const LinkId link : control_.links()) control_.close(link);
  for (const LinkId link : links_.ids()) detach(link);
}

Result<void> ProcessTransport::reach_beyond(const SocketAddress& address) {
  return ucx_ && !address.is_local() ? ucx_->reach_beyond() : Result<void>{};
}

// ---- The loop's side ------------------------------------------------------------------------------

int ProcessTransport::poll() {
  const HeadPool::Scope heads(data_.heads);
  if (watching_) watch_ways(false);
  flush();  // of whoever is interrupted by this poll
  data_.collecting = true;
  int events = 0;
  {
    const DepthGuard polling(polling_);
    for (std::size_t i = 0; i < undecided_.size(); ++i) look_at_agreement(undecided_[i]);
    if (!undecided_.empty()) std::erase(undecided_, LinkId{0});
    for (int round = 0; round < kMaxRounds; ++round) {
      int progressed = 0;
      const bool all = decided_ != links_.size();
      for (DataWay* way : ways_)
        if (all || !way->resting()) progressed += way->poll();
      if (!data_.arrivals.empty() || !resumed_.empty()) progressed += deliver();
      events += progressed;
      if (progressed < kBusyRound) break;
    }
    flush();
  }
  data_.collecting = polling_ > 0;
  if (!data_.broken.empty()) fail_broken();
  return events;
}

void ProcessTransport::flush() {
  if (!std::exchange(data_.collected, false)) return;
  for (DataWay* way : ways_) way->flush();
}

bool ProcessTransport::arm() {
  if (!data_.arrivals.empty() || !resumed_.empty() || !data_.broken.empty()) return false;
  flush();
  const bool all = decided_ != links_.size();
  for (DataWay* way : ways_)
    if ((all || !way->resting()) && !way->arm()) return false;
  watch_ways(true);
  return true;
}

/// Most ways' descriptors are in our epoll set only while the loop may sleep: else each packet over TCP would
/// be announced through one epoll set more, which costs a busy loop about half a microsecond.
void ProcessTransport::watch_ways(bool on) {
  if (on == watching_) return;
  watching_ = on;
  for (const DataWay* way : ways_) {
    if (way->is_quiet() || way->event_fd() < 0) continue;
    epoll_event event{};
    event.events = EPOLLIN;
    ::epoll_ctl(event_fd_.get(), on ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, way->event_fd(), &event);
  }
}

int ProcessTransport::deliver() {
  int delivered = resumed_.empty() ? 0 : deliver_held();
  TimePoint collected_at;
  const bool many = data_.arrivals.size() >= kMany;
  const TimePoint begun = many || brisk_until_ != TimePoint() ? loop_.recent_now() : TimePoint();
  data_.brisk = begun < brisk_until_;
  for (; delivered < kDeliverBatch && !data_.arrivals.empty(); ++delivered) {
    Arrival arrival = data_.arrivals.pop();
    Link* const link = links_.find(arrival.link);
    if (!link) continue;  // closed since
    if (link->paused || !link->held.empty()) {
      hold(*link, std::move(arrival));
      continue;
    }
    const bool before = data_.collected;
    data_.events->on_frame(arrival.link, std::move(arrival.head), std::move(arrival.parts));
    if (!data_.collected) continue;
    const TimePoint now = loop_.recent_now();
    if (!before)
      collected_at = now;
    else if (now - collected_at >= kLongestCollected)
      flush();
  }
  data_.brisk = false;
  if (many) {
    const TimePoint now = loop_.recent_now();
    brisk_until_ = now - begun <= delivered * kBriskEach ? now + kBriskFor : TimePoint();
  } else if (begun >= brisk_until_) {
    brisk_until_ = TimePoint();
  }
  return delivered;
}

/// What had come for links that were paused, in its order; what comes later goes behind it.
int ProcessTransport::deliver_held() {
  int delivered = 0;
  while (delivered < kDeliverBatch && !resumed_.empty()) {
    Link* const link = links_.find(resumed_.back());
    if (!link || link->paused || link->held.empty()) {
      resumed_.pop_back();
      continue;
    }
    Arrival arrival = std::move(link->held.front());
    link->held.pop_front();
    link->bytes_held -= bytes_of(arrival.head, arrival.parts);
    ++delivered;
    data_.events->on_frame(arrival.link, std::move(arrival.head), std::move(arrival.parts));
  }
  return delivered;
}

void ProcessTransport::hold(Link& link, Arrival&& arrival) {
  // One message may always be held, however long: it was on its way already.
  if (link.bytes_held > kMostHeldBytes)
    data_.lose(link.id, {Code::kResourceExhausted, "the peer goes on sending though it is not read"});
  link.bytes_held += bytes_of(arrival.head, arrival.parts);
  link.held.push_back(std::move(arrival));
}

void ProcessTransport::fail_broken() {
  auto broken = std::exchange(data_.broken, {});
  for (auto& [link, error] : broken) {
    if (!links_.find(link)) continue;
    control_.close(link);
    detach(link);
    data_.events->on_closed(link, std::move(error));
  }
}

// ---- Links ----------------------------------------------------------------------------------------

Result<std::string> ProcessTransport::listen(std::string_view address) {
  auto where = Destination::parse(address);
  if (!where) return where.error();
  if (where->addresses.empty()) {
    auto found = look_up_and_wait(where->name, kNamePatience);
    if (!found) return with_context(found.error(), "'" + where->text + "'");
    where->addresses = *std::move(found);
  }
  const SocketAddress& own = where->addresses.front();
  auto listening = control_.listen(own);
  if (!listening) return listening;
  auto reached = reach_beyond(own);
  if (!reached) return reached.error();
  return listening;
}

Result<LinkId> ProcessTransport::dial(std::string_view address) {
  auto to = Destination::parse(address);
  if (!to) return to.error();
  return control_.dial(*to);
}

std::string ProcessTransport::local_host(LinkId link) const {
  const auto own = parse_host_port(control_.local_address(link).to_string());
  return own ? own->host : "";
}

void ProcessTransport::on_met(LinkId link, std::string_view peer_address, bool incoming) {
  const SocketAddress there = control_.remote_address(link);
  if (auto reached = reach_beyond(there); !reached) return control_.fail_soon(link, reached.error());
  auto token = secret_token(link);
  if (!token) return control_.fail_soon(link, token.error());
  const LinkFacts facts{link, incoming, there.is_local(), *token};
  links_.emplace_at(link, facts.is_local);
  for (DataWay* way : ways_)
    if (auto added = way->add(facts); !added) return control_.fail_soon(link, added.error());
  data_.events->on_link(link, peer_address, incoming);
}

void ProcessTransport::on_message(LinkId link, std::span<const std::byte> message) {
  data_.events->on_control(link, message);
}

void ProcessTransport::on_stream(std::span<const std::byte> bytes, UniqueFd fd) {
  tcp::Preamble preamble;
  if (bytes.size() != sizeof preamble) return;
  std::memcpy(&preamble, bytes.data(), sizeof preamble);
  tcp_.take(preamble, std::move(fd));
}

void ProcessTransport::on_parted(LinkId link, Error error) {
  if (links_.find(link)) {
    try {
      deliver_rest(link);
    } catch (const std::bad_alloc&) {  // it is lost with the link, which ends all the same
    }
    if (!links_.find(link)) return;  // a handler closed it
    detach(link);
  }
  data_.events->on_closed(link, std::move(error));
}

/// What a peer that has left had sent.
void ProcessTransport::deliver_rest(LinkId link) {
  const HeadPool::Scope heads(data_.heads);
  pause(link, false);
  for (DataWay* way : ways_) way->drain(link);
  // What has come by now, and no more: handlers let others' messages come meanwhile.
  const Link* const left = links_.find(link);
  std::size_t batches = 2 + (data_.arrivals.size() + (left ? left->held.size() : 0)) / kDeliverBatch;
  while (batches-- > 0 && deliver() > 0) continue;
}

/// The link's place may be given to another from now on, so no want of memory stops this half-way.
void ProcessTransport::detach(LinkId id) {
  for (DataWay* way : ways_) {
    try {
      way->remove(id);
    } catch (const std::bad_alloc&) {  // it has forgotten the link before anything else
    }
  }
  const auto link = links_.remove(id);
  if (!link) return;
  if (link->way) --decided_;
  std::replace(undecided_.begin(), undecided_.end(), id, LinkId{0});
}

void ProcessTransport::close(LinkId link) {
  try {
    control_.close(link);
  } catch (...) {  // its place may be given to another link: no way may still know this one
    detach(link);
    throw;
  }
  detach(link);
}

// ---- Which way a link takes -----------------------------------------------------------------------

std::vector<std::byte> ProcessTransport::data_address(LinkId id) {
  if (!links_.find(id)) return {};
  DataAddressWriter address;
  for (DataWay* way : ways_) address.add(way->id(), way->offer(id));
  return address.finish();
}

Result<void> ProcessTransport::open_data(LinkId id, std::span<const std::byte> peer_data_address) {
  Link* const link = links_.find(id);
  if (!link) return no_such_link();
  if (link->opened) return Error{Code::kFailedPrecondition, "the link's data way is open already"};
  if (!is_data_address(peer_data_address))
    return Error{Code::kInvalidArgument, "the peer's data address is malformed"};
  link->offers.assign(peer_data_address.begin(), peer_data_address.end());
  return try_ways(*link, 0);
}

Result<void> ProcessTransport::try_ways(Link& link, std::size_t from) {
  for (std::size_t i = from; i < ways_.size(); ++i) {
    DataWay& way = *ways_[i];
    if (way.offer(link.id).empty()) continue;
    const auto offer = offer_in(link.offers, way.id());
    auto end = offer.empty() ? Error{Code::kUnimplemented, "the peer offers none"} : way.open(link.id, offer);
    if (end) {
      link.opened = true;
      link.tried = i;
      link.end = *end;
      undecided_.push_back(link.id);
      look_at_agreement(link.id);
      return {};
    }
    if (end.error().code != Code::kUnimplemented) return end.error();
    link.note(way, end.error().message);
  }
  return Error{Code::kUnavailable, "no common way for data with the peer; '" + options_.transports +
                                       "' is allowed here, and the peer offers no such way" +
                                       (link.reasons.empty() ? "" : " that can be used: " + link.reasons)};
}

void ProcessTransport::look_at_agreement(LinkId id) {
  Link* const link = links_.find(id);
  if (!link || link->way) return;
  DataWay& way = *ways_[link->tried];
  switch (way.agreement(*link->end)) {
    case DataWay::Agreement::kPending:
      return;
    case DataWay::Agreement::kAgreed:
      return decide(*link);
    case DataWay::Agreement::kRefused:
      break;
  }
  std::replace(undecided_.begin(), undecided_.end(), id, LinkId{0});
  way.leave(id);
  link->end = nullptr;
  link->note(way, "the peer cannot open ours");
  if (auto tried = try_ways(*link, link->tried + 1); !tried) data_.lose(id, tried.error());
}

void ProcessTransport::decide(Link& link) {
  const LinkId id = link.id;
  link.way = ways_[link.tried];
  link.offers = {};
  ++decided_;
  std::replace(undecided_.begin(), undecided_.end(), id, LinkId{0});
  for (DataWay* way : ways_)
    if (way != link.way) way->leave(id);
  // Found anew each time: a buffer that is dropped may run anybody's code.
  for (Link* now = links_.find(id); now && !now->waiting.empty(); now = links_.find(id)) {
    OutFrame frame = std::move(now->waiting.front());
    now->waiting.pop_front();
    now->bytes_waiting -= bytes_of(frame.head, frame.parts);
    if (auto sent = now->way->send(*now->end, std::move(frame)); !sent) return;  // the link is lost
  }
}

std::string ProcessTransport::peer_identity(LinkId id) const {
  const Link* const link = links_.find(id);
  return std::string(link && link->way ? link->way->peer_identity(*link->end) : std::string_view());
}

std::string ProcessTransport::describe_way(LinkId id) {
  look_at_agreement(id);
  const Link* const link = links_.find(id);
  if (!link || !link->way) return "not agreed yet";
  return std::string(link->way->name()) + (link->reasons.empty() ? "" : " (" + link->reasons + ")");
}

// ---- Data -----------------------------------------------------------------------------------------

Result<void> ProcessTransport::send(LinkId id, OutFrame&& frame) {
  if (frame.head.empty() || frame.head.size() > limits_.max_head_bytes) [[unlikely]] {
    return Error{Code::kInvalidArgument, "a message's head must have 1 to " +
                                             std::to_string(limits_.max_head_bytes) + " bytes, not " +
                                             std::to_string(frame.head.size())};
  }
  Link* const link = links_.find(id);
  if (!link) return no_such_link();
  if (!link->opened) return Error{Code::kUnavailable, "the link's data way is not open yet"};
  if (!frame.parts.empty()) [[unlikely]] {
    const DataWay& way = *ways_[link->tried];
    if (!can_take_all(way, frame.parts)) return cannot_carry(way.name());
  }
  if (link->way && link->waiting.empty()) [[likely]]
    return link->way->send(*link->end, std::move(frame));
  link->bytes_waiting += bytes_of(frame.head, frame.parts);
  link->waiting.push_back(std::move(frame));
  look_at_agreement(id);
  return {};
}

std::size_t ProcessTransport::bytes_in_flight(LinkId id) const {
  const Link* const link = links_.find(id);
  if (!link) return 0;
  return (link->way ? link->way->bytes_in_flight(*link->end) : 0) + link->bytes_waiting;
}

void ProcessTransport::pause(LinkId id, bool on) {
  Link* const link = links_.find(id);
  if (!link || std::exchange(link->paused, on) == on) return;
  for (DataWay* way : ways_) way->pause(id, on);
  if (!on && !link->held.empty()) resumed_.push_back(id);
}

Result<std::unique_ptr<Transport>> make_process_transport(Loop& loop, const TransportOptions& options) {
  auto transport = ProcessTransport::create(loop, options);
  if (!transport) return transport.error();
  return std::unique_ptr<Transport>(std::move(*transport));
}

}  // namespace troupe::rpc
