#include "transport/process_transport.hpp"

#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <utility>

#include "meeting/proof.hpp"

namespace troupe::rpc {

namespace {

/// Messages that one poll() delivers at most before it returns to the loop.
constexpr int kDeliverBatch = 256;
/// A round of UCX that did so much is followed by another one in the same poll().
constexpr int kBusyRound = 8;
constexpr int kMaxRounds = 4;
/// Rounds of UCX when a peer has left: what it sent before leaving still arrives.
constexpr int kLastRounds = 16;
/// So much is kept of what comes on a paused link by ways that cannot be stopped at once.
constexpr std::size_t kMostHeldBytes = std::size_t{64} << 20;
/// A worker with so many endpoints that cannot be closed takes no more links.
constexpr std::size_t kMaxUnfinished = 64;

/// A link's data address: this, then the worker's address.
struct DataAddressHeader {
  std::uint32_t magic = 0;
  std::uint32_t address_bytes = 0;
  std::uint64_t tag = 0;       // with which the link's owner wants its messages
  std::uint64_t checksum = 0;  // of all that follows, because UCX trusts what it unpacks
  shm::Address shared;         // for a peer on the same machine
  tcp::Address streams;        // for one that is reached over TCP
};
constexpr std::size_t kChecked = offsetof(DataAddressHeader, shared);
// Stands for the layout above and for the settings on which both sides must agree (context.cpp).
constexpr std::uint32_t kDataAddressMagic = 0x33785554;  // "TUx3"

/// FNV-1a, 64 bits (Fowler, Noll, Vo).
std::uint64_t checksum_of(std::span<const std::byte> bytes) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const std::byte byte : bytes) hash = (hash ^ static_cast<std::uint64_t>(byte)) * 0x100000001b3;
  return hash;
}

class DepthGuard {
 public:
  explicit DepthGuard(int& depth) : depth_(depth) { ++depth_; }
  ~DepthGuard() { --depth_; }
  DepthGuard(const DepthGuard&) = delete;
  DepthGuard& operator=(const DepthGuard&) = delete;

 private:
  int& depth_;
};

/// Where to find the link, and bits that nobody can guess, because whoever finds a port of ours can send to
/// it. Only a peer that has met us properly is told.
Result<tcp::Token> secret_token(LinkId link) {
  const auto random = make_nonce();
  if (!random) return random.error();
  constexpr std::uint64_t kSlot = LinkTable<Channel>::kMaxLinks - 1;
  tcp::Token token{};
  static_assert(sizeof token <= sizeof *random);
  std::memcpy(&token, random->data(), sizeof token);
  token[0] = (token[0] & ~kSlot) | (link & kSlot);
  return token;
}

/// Whether UCX can do what it alone can: there is a device for RDMA that we may use.
bool has_rdma() {
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator("/dev/infiniband", none)) {
    const bool is_device = entry.path().filename().string().starts_with("uverbs");
    if (is_device && ::access(entry.path().c_str(), R_OK | W_OK) == 0) return true;
  }
  return false;
}

bool uses_ucx(const std::string& transports) {
  if (transports == "auto") return has_rdma();
  return transports != "shm" && transports != "tcp";
}

tcp::Offer offer_of_streams(const std::string& transports) {
  if (transports == "auto") return has_rdma() ? tcp::Offer::kIfNeeded : tcp::Offer::kGladly;
  return transports == "tcp" ? tcp::Offer::kGladly : tcp::Offer::kNone;
}

std::size_t bytes_of(const Arrival& arrival) {
  std::size_t bytes = arrival.head.size();
  for (const Buffer& part : arrival.parts) bytes += part.size();
  return bytes;
}

Error no_such_link() {
  return {Code::kUnavailable, "the link to the peer is closed"};
}

}  // namespace

Result<std::unique_ptr<ProcessTransport>> ProcessTransport::create(Loop& loop,
                                                                   const TransportOptions& options) {
  const Loop::Turn turn(loop);
  std::unique_ptr<ProcessTransport> transport(new ProcessTransport(loop, options));
  if (!transport->event_fd_) return errno_error(errno, "making an epoll descriptor");
  if (transport->uses_ucx_) {
    auto added = transport->add_worker();
    if (!added) return added.error();
    const std::size_t longest = transport->workers_.back()->max_am_header() - sizeof(std::uint64_t);
    if (longest < transport->limits_.max_head_bytes) {
      return Error{Code::kUnavailable, "UCX takes headers of " + std::to_string(longest) +
                                           " bytes only with '" + options.transports + "'"};
    }
  }
  loop.add_source(*transport);
  return transport;
}

ProcessTransport::ProcessTransport(Loop& loop, const TransportOptions& options)
    : loop_(loop),
      options_(options),
      event_fd_(::epoll_create1(EPOLL_CLOEXEC)),
      plane_(limits_.max_head_bytes),
      shm_(plane_, options_.transports == "auto" || options_.transports == "shm"),
      tcp_(loop, plane_, offer_of_streams(options_.transports)),
      meeting_(loop, limits_.max_control_bytes, *this),
      uses_ucx_(uses_ucx(options.transports)),
      loopback_only_(options.net_devices.empty()) {
  limits_.eager_bytes = std::size_t{48} << 10;
  plane_.meeting = &meeting_;
  if (shm_.bell_fd() < 0) return;
  epoll_event event{};
  event.events = EPOLLIN;
  ::epoll_ctl(event_fd_.get(), EPOLL_CTL_ADD, shm_.bell_fd(), &event);
}

ProcessTransport::~ProcessTransport() {
  const Loop::Turn turn(loop_);
  loop_.remove_source(*this);
  // Sockets first: a peer that is reading our memory just now sees that it can no longer trust it.
  for (const LinkId link : meeting_.links()) meeting_.close(link);
  for (const LinkId link : plane_.channels.ids()) detach(link);
  workers_.clear();
}

Result<void> ProcessTransport::add_worker() {
  TransportOptions options = options_;
  if (loopback_only_) options.net_devices = "lo";
  auto worker = UcxWorker::create(options, plane_);
  if (!worker) return worker.error();
  watch_networks(false);
  workers_.push_back(std::move(*worker));
  return {};
}

Result<void> ProcessTransport::reach_beyond(const SocketAddress& address) {
  if (!loopback_only_ || address.is_local()) return {};
  loopback_only_ = false;
  if (!uses_ucx_) return {};
  return add_worker();
}

// ---- The loop's side ------------------------------------------------------------------------------

int ProcessTransport::poll() {
  const DepthGuard depth(depth_);
  const HeadPool::Scope heads(plane_.heads);
  if (watching_) watch_networks(false);
  tcp_.flush();  // of whoever is interrupted by this poll
  tcp_.collect(true);
  const DepthGuard polling(polling_);
  int events = 0;
  for (int round = 0; round < kMaxRounds; ++round) {
    int progressed = shm_.poll() + tcp_.poll();
    // By index: dropping a sent buffer may run code that adds a worker.
    for (std::size_t i = 0; needs_workers() && i < workers_.size(); ++i)
      progressed += workers_[i]->progress();
    if (!plane_.arrivals.empty() || !resumed_.empty()) progressed += deliver();
    events += progressed;
    if (progressed < kBusyRound) break;
  }
  tcp_.flush();
  tcp_.collect(polling_ > 1);
  if (!plane_.broken.empty()) fail_broken();
  if (workers_.size() > 1 && depth_ == 1) retire_workers();
  return events;
}

/// Whether anything may come or go through UCX. While all peers are reached in other ways nothing does, and
/// looking would cost each round more than all the rest.
bool ProcessTransport::needs_workers() {
  if (workers_.empty()) return false;
  return ucx_used_ || workers_.size() > 1 || shm_.settled() + tcp_.opened() != plane_.channels.size();
}

bool ProcessTransport::arm() {
  if (!plane_.arrivals.empty() || !resumed_.empty() || !plane_.broken.empty() || !shm_.arm() || !tcp_.arm())
    return false;
  watch_networks(true);
  if (!needs_workers()) return true;
  return std::all_of(workers_.begin(), workers_.end(), [](const auto& worker) { return worker->arm(); });
}

/// The networks' descriptors are in our epoll set only while the loop may sleep: else each packet over TCP
/// would be announced through one epoll set more, which costs a busy loop about half a microsecond.
void ProcessTransport::watch_networks(bool on) {
  if (on == watching_) return;
  watching_ = on;
  const auto watch = [&](int fd) {
    epoll_event event{};
    event.events = EPOLLIN;
    ::epoll_ctl(event_fd_.get(), on ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, fd, &event);
  };
  for (const auto& worker : workers_) watch(worker->event_fd());
  if (tcp_.event_fd() >= 0) watch(tcp_.event_fd());
}

int ProcessTransport::deliver() {
  int delivered = resumed_.empty() ? 0 : deliver_held();
  for (; delivered < kDeliverBatch && !plane_.arrivals.empty(); ++delivered) {
    Arrival arrival = plane_.arrivals.pop();
    Channel* const channel = plane_.channels.find(arrival.link);
    if (!channel) continue;  // closed since
    if (channel->paused || !channel->held.empty()) {
      hold(*channel, std::move(arrival));
      continue;
    }
    plane_.events->on_frame(arrival.link, std::move(arrival.head), std::move(arrival.parts));
  }
  return delivered;
}

/// What had come for links that were paused, in its order; what comes later goes behind it.
int ProcessTransport::deliver_held() {
  int delivered = 0;
  while (delivered < kDeliverBatch && !resumed_.empty()) {
    Channel* const channel = plane_.channels.find(resumed_.back());
    if (!channel || channel->paused || channel->held.empty()) {
      resumed_.pop_back();
      continue;
    }
    Arrival arrival = std::move(channel->held.front());
    channel->held.pop_front();
    channel->bytes_held -= bytes_of(arrival);
    ++delivered;
    plane_.events->on_frame(arrival.link, std::move(arrival.head), std::move(arrival.parts));
  }
  return delivered;
}

void ProcessTransport::hold(Channel& channel, Arrival&& arrival) {
  channel.bytes_held += bytes_of(arrival);
  if (channel.bytes_held > kMostHeldBytes)
    plane_.lose(channel.link, {Code::kResourceExhausted, "the peer goes on sending though it is not read"});
  channel.held.push_back(std::move(arrival));
}

void ProcessTransport::pause(LinkId link, bool on) {
  Channel* const channel = plane_.channels.find(link);
  if (!channel || std::exchange(channel->paused, on) == on) return;
  shm_.pause(link, on);
  tcp_.pause(link, on);
  if (!on && !channel->held.empty()) resumed_.push_back(link);
  if (channel->endpoint) channel->worker->pause(*channel);
}

void ProcessTransport::fail_broken() {
  auto broken = std::exchange(plane_.broken, {});
  for (auto& [link, error] : broken) {
    if (!plane_.channels.find(link)) continue;
    meeting_.close(link);
    detach(link);
    plane_.events->on_closed(link, std::move(error));
  }
}

void ProcessTransport::retire_workers() {
  for (std::size_t i = 0; i + 1 < workers_.size(); ++i) {
    if (workers_[i]->attached() > 0) continue;
    workers_.erase(workers_.begin() + static_cast<std::ptrdiff_t>(i));
    return;
  }
}

// ---- Links ----------------------------------------------------------------------------------------

Result<std::string> ProcessTransport::listen(std::string_view address) {
  auto parsed = SocketAddress::parse(address);
  if (!parsed) return parsed.error();
  auto reached = reach_beyond(*parsed);
  if (!reached) return reached.error();
  return meeting_.listen(*parsed);
}

Result<LinkId> ProcessTransport::dial(std::string_view address) {
  auto parsed = SocketAddress::parse(address);
  if (!parsed) return parsed.error();
  auto reached = reach_beyond(*parsed);
  if (!reached) return reached.error();
  return meeting_.dial(*parsed);
}

void ProcessTransport::on_met(LinkId link, std::string_view peer_address, bool incoming) {
  if (uses_ucx_ && workers_.back()->unfinished() > kMaxUnfinished) {
    if (auto added = add_worker(); !added) return meeting_.fail_soon(link, added.error());
  }
  auto token = secret_token(link);
  if (!token) return meeting_.fail_soon(link, token.error());
  UcxWorker* const worker = uses_ucx_ ? workers_.back().get() : nullptr;
  Channel* channel = plane_.channels.emplace_at(link, worker);
  channel->own_tag = (*token)[0];
  tcp_.add(link, incoming, *token);
  const auto address = SocketAddress::parse(peer_address);
  channel->over_network = options_.transports.starts_with("tcp") || (address && !address->is_local());
  if (worker) worker->attach();
  plane_.events->on_link(link, peer_address, incoming);
}

void ProcessTransport::on_message(LinkId link, std::span<const std::byte> message) {
  plane_.events->on_control(link, message);
}

void ProcessTransport::on_parted(LinkId link, Error error) {
  if (Channel* channel = plane_.channels.find(link)) {
    const DepthGuard depth(depth_);
    const HeadPool::Scope heads(plane_.heads);
    pause(link, false);
    shm_.drain(link);
    tcp_.drain(link);
    if (!plane_.channels.find(link)) return;  // a handler closed it
    for (int round = 0; channel && channel->worker && round < kLastRounds; ++round) {
      if (channel->worker->progress() == 0) break;
      channel = plane_.channels.find(link);  // a sent buffer that was dropped may have run anybody's code
    }
    while (deliver() > 0) continue;
    if (!plane_.channels.find(link)) return;  // a handler closed it
    detach(link);
  }
  plane_.events->on_closed(link, std::move(error));
}

void ProcessTransport::detach(LinkId link) {
  shm_.remove(link);
  tcp_.remove(link);
  auto channel = plane_.channels.remove(link);
  if (!channel) return;
  if (UcxWorker* const worker = channel->worker) worker->detach(std::move(channel));
}

void ProcessTransport::close(LinkId link) {
  meeting_.close(link);
  detach(link);
}

// ---- Data -----------------------------------------------------------------------------------------

std::vector<std::byte> ProcessTransport::data_address(LinkId link) {
  Channel* channel = plane_.channels.find(link);
  if (!channel) return {};
  channel->address_given = true;
  const std::vector<std::byte> none;
  const std::vector<std::byte>& address = channel->worker ? channel->worker->address() : none;
  DataAddressHeader header{kDataAddressMagic,
                           static_cast<std::uint32_t>(address.size()),
                           channel->own_tag,
                           0,
                           channel->over_network ? shm::Address{} : shm_.address(link),
                           tcp_.address(link)};
  std::vector<std::byte> result(sizeof header + address.size());
  std::memcpy(result.data(), &header, sizeof header);
  std::memcpy(result.data() + sizeof header, address.data(), address.size());
  header.checksum = checksum_of(std::span(result).subspan(kChecked));
  std::memcpy(result.data(), &header, sizeof header);
  return result;
}

Result<void> ProcessTransport::open_data(LinkId link, std::span<const std::byte> peer_data_address) {
  Channel* channel = plane_.channels.find(link);
  if (!channel) return no_such_link();
  if (channel->endpoint || shm_.has(link) || tcp_.has(link))
    return Error{Code::kFailedPrecondition, "the link's data way is open already"};
  DataAddressHeader header;
  if (peer_data_address.size() >= sizeof header) {
    std::memcpy(&header, peer_data_address.data(), sizeof header);
  }
  const auto address = peer_data_address.subspan(std::min(peer_data_address.size(), sizeof header));
  if (header.magic != kDataAddressMagic || header.address_bytes != address.size() ||
      header.checksum != checksum_of(peer_data_address.subspan(kChecked))) {
    return Error{Code::kInvalidArgument, "the peer's data address is malformed"};
  }
  channel->peer_tag = header.tag;
  Result<void> near = channel->over_network ? Error{Code::kUnimplemented, "the peer is on another machine"}
                                            : shm_.open(link, header.shared);
  // A peer that has closed its rings already is going; UCX over TCP would stumble over it.
  if (near || near.error().code != Code::kUnimplemented) return near;
  Result<void> streams = tcp_.open(link, header.streams);
  if (streams) channel->address_given = false;  // the peer does without it, too
  if (streams || streams.error().code != Code::kUnimplemented) return streams;
  if (!channel->worker || address.empty()) {
    return Error{Code::kUnavailable, "no common way for data with the peer; '" + options_.transports +
                                         "' is allowed here, and " + near.error().message};
  }
  // UCX 1.13 over TCP ends the process if the peer has connected to it and died since (an assertion in
  // uct_tcp_ep_destroy_progress). A process that dies closes its older sockets first, and so this one
  // before that of UCX: what is left is a death between these two lines.
  if (meeting_.peer_has_left(link)) return Error{Code::kUnavailable, "the peer has left"};
  ucx_used_ = true;
  return channel->worker->open(*channel, address);
}

Result<void> ProcessTransport::send(LinkId link, OutFrame&& frame) {
  if (frame.head.empty() || frame.head.size() > limits_.max_head_bytes) [[unlikely]] {
    return Error{Code::kInvalidArgument, "a message's head must have 1 to " +
                                             std::to_string(limits_.max_head_bytes) + " bytes, not " +
                                             std::to_string(frame.head.size())};
  }
  for (const Buffer& part : frame.parts) {
    if (part.device().kind == MemoryKind::kDevice) {
      return Error{Code::kUnimplemented, "this UCX has no CUDA support: bring the tensor to host memory"};
    }
  }
  if (shm_.send(link, frame)) return {};
  Channel* const channel = plane_.channels.find(link);
  if (!channel) return no_such_link();
  if (tcp_.has(link)) {
    tcp_.send(link, std::move(frame));
    return {};
  }
  if (!channel->endpoint) return Error{Code::kUnavailable, "the link's data way is not open yet"};
  return channel->worker->send(*channel, std::move(frame));
}

std::size_t ProcessTransport::bytes_in_flight(LinkId link) const {
  if (shm_.has(link)) return shm_.bytes_in_flight(link);
  if (tcp_.has(link)) return tcp_.bytes_in_flight(link);
  const Channel* channel = plane_.channels.find(link);
  return channel ? channel->bytes_in_flight : 0;
}

std::size_t ProcessTransport::unfinished() const {
  std::size_t count = 0;
  for (const auto& worker : workers_) count += worker->unfinished();
  return count;
}

Result<std::unique_ptr<Transport>> make_process_transport(Loop& loop, const TransportOptions& options) {
  auto transport = ProcessTransport::create(loop, options);
  if (!transport) return transport.error();
  return std::unique_ptr<Transport>(std::move(*transport));
}

}  // namespace troupe::rpc
