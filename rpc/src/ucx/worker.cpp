#include "ucx/worker.hpp"

#include <algorithm>
#include <cassert>
#include <chrono>
#include <cstring>
#include <string>

#include "ucx/parked_workers.hpp"

namespace troupe::rpc {

namespace {

constexpr unsigned kMessageId = 1;
/// A worker that is going away lets its last operations end as long as something happens within this
/// time, and for no longer than the second one in all.
constexpr auto kFarewellPause = std::chrono::milliseconds(5);
constexpr auto kFarewell = std::chrono::seconds(1);
/// Rendezvous from one peer that are received at once: over shared memory UCX copies them one after the
/// other anyway, and the second is there so that it always has work; a network is kept busy by several,
/// until there is enough under way.
constexpr std::size_t kMostReceived = 2;
constexpr std::size_t kMostReceivedOverNetwork = 8;
constexpr std::size_t kEnoughUnderWay = std::size_t{4} << 20;
/// How often, in rounds, the endpoints being closed are looked at: those of the dead stay for long.
constexpr unsigned kClosingRounds = 32;

}  // namespace

Result<UcxWorker::Handle> UcxWorker::create(const TransportOptions& options, UcxPlane& plane) {
  if (auto parked = ParkedWorkers::all().take(options)) {
    parked->plane_ = &plane;
    return Handle(parked.release());
  }
  Handle worker(new UcxWorker(options, plane));
  auto started = worker->start();
  if (!started) return started.error();
  return worker;
}

Result<void> UcxWorker::start() {
  auto context = UcxContext::create(options_);
  if (!context) return context.error();
  context_ = std::move(*context);

  ucp_worker_params_t params{};
  params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  params.thread_mode = UCS_THREAD_MODE_SERIALIZED;  // the loop's turn moves between threads
  ucs_status_t status = ucp_worker_create(context_->get(), &params, &worker_);
  if (status != UCS_OK) return ucx_error(status, "making a UCX worker for '" + options_.transports + "'");
  status = ucp_worker_get_efd(worker_, &event_fd_);
  if (status != UCS_OK) return ucx_error(status, "getting the UCX worker's event descriptor");

  ucp_worker_attr_t attributes{};
  attributes.field_mask = UCP_WORKER_ATTR_FIELD_MAX_AM_HEADER;
  ucp_worker_query(worker_, &attributes);
  max_am_header_ = attributes.max_am_header;

  ucp_address_t* address = nullptr;
  std::size_t size = 0;
  status = ucp_worker_get_address(worker_, &address, &size);
  if (status != UCS_OK) return ucx_error(status, "getting the UCX worker's address");
  const auto* bytes = reinterpret_cast<const std::byte*>(address);
  address_.assign(bytes, bytes + size);
  ucp_worker_release_address(worker_, address);

  ucp_am_handler_param_t handler{};
  handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                       UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
  handler.id = kMessageId;
  handler.flags = UCP_AM_FLAG_WHOLE_MSG;
  handler.cb = &UcxWorker::on_message;
  handler.arg = this;
  status = ucp_worker_set_am_recv_handler(worker_, &handler);
  if (status != UCS_OK) return ucx_error(status, "setting UCX's message handler");
  return {};
}

void UcxWorker::Retire::operator()(UcxWorker* worker) const {
  std::unique_ptr<UcxWorker> owned(worker);
  if (!owned->worker_) return;
  assert(owned->attached_ == 0);
  owned->finish();
  if (owned->can_end()) return;
  owned->plane_ = nullptr;
  owned->postponed_.clear();
  ParkedWorkers::all().park(std::move(owned));
}

UcxWorker::~UcxWorker() {
  if (!worker_) return;
  // UCX insists that nobody waits for a closing that it cuts short.
  for (void* request : closing_) ucp_request_free(request);
  // Ends everything else; the operations' buffers go after it.
  ucp_worker_destroy(worker_);
}

void UcxWorker::finish() {
  using SteadyClock = std::chrono::steady_clock;
  const auto begin = SteadyClock::now();
  auto last_event = begin;
  while (unfinished() > 0) {
    const auto now = SteadyClock::now();
    if (progress() > 0) last_event = now;
    if (now - last_event > kFarewellPause || now - begin > kFarewell) break;
  }
  check_closing();
}

/// UCX 1.13 ends the process, by an assertion, when a worker goes
/// - in the middle of a copy from another process's memory. Such a copy needs nobody's help and so ends
/// within
///   finish(), unless it is of many gigabytes;
/// - while its answer to a peer that connects waits for a connection of its own (ucp_request_send_state_ff,
///   ucp_wireup_ep). Of that we see nothing; but there is none left when a message has gone each way.
bool UcxWorker::can_end() const {
  const bool copies = receiving_ > 0 && !options_.transports.starts_with("tcp");
  return !copies && !half_connected_;
}

int UcxWorker::progress() {
  assert(!in_progress_ && "progress() inside of a UCX callback");
  if (!postponed_.empty() && plane_->arrivals.empty()) accept_postponed();
  in_progress_ = true;
  const unsigned events = ucp_worker_progress(worker_);
  in_progress_ = false;
  if (!ended_sends_.empty()) recycle_sent();
  if (drained_some_) close_drained();
  if (!closing_.empty() && ++rounds_ % kClosingRounds == 0) check_closing();
  return static_cast<int>(events);
}

Result<void> UcxWorker::open(Channel& channel, std::span<const std::byte> peer_worker_address) {
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE;
  params.address = reinterpret_cast<const ucp_address_t*>(peer_worker_address.data());
  // UCX's own failure handling does not exist for shared memory and slows TCP down; the meeting socket
  // tells when a peer has died.
  params.err_mode = UCP_ERR_HANDLING_MODE_NONE;
  const ucs_status_t status = ucp_ep_create(worker_, &params, &channel.endpoint);
  if (status == UCS_OK) return {};
  channel.endpoint = nullptr;
  return ucx_error(status, "UCX finds no way to the peer (do both allow a common transport?)");
}

// ---- Sending --------------------------------------------------------------------------------------

UcxWorker::SendOperation& UcxWorker::take_send_operation() {
  if (free_sends_.empty()) {
    SendOperation& made = sends_.emplace_back();
    made.worker = this;
    return made;
  }
  SendOperation& operation = *free_sends_.back();
  free_sends_.pop_back();
  return operation;
}

std::span<const std::byte> UcxWorker::write_header(SendOperation& operation, std::uint64_t tag,
                                                   std::span<const std::byte> head) {
  std::byte* header = operation.short_header.data();
  if (head.size() > HeadPool::kSmallBytes) {
    operation.long_header = plane_->heads.acquire(kTagBytes + head.size());
    header = operation.long_header.data();
  }
  std::memcpy(header, &tag, kTagBytes);
  std::memcpy(header + kTagBytes, head.data(), head.size());
  return {header, kTagBytes + head.size()};
}

UcxWorker::Payload UcxWorker::describe(const std::vector<Buffer>& parts, std::vector<ucp_dt_iov_t>& pieces) {
  Payload payload;
  pieces.clear();
  for (const Buffer& part : parts) {
    if (part.empty()) continue;
    pieces.push_back({part.data(), part.size()});
    payload.bytes += part.size();
  }
  if (pieces.size() > 1) {
    payload.data = pieces.data();
    payload.count = pieces.size();
    payload.type = UCP_DATATYPE_IOV;
  } else if (pieces.size() == 1) {
    payload.data = pieces[0].buffer;
    payload.count = pieces[0].length;
  }
  return payload;
}

Result<void> UcxWorker::send(Channel& channel, OutFrame&& frame) {
  SendOperation& operation = take_send_operation();
  const auto header = write_header(operation, channel.peer_tag, frame.head.bytes());
  Payload payload;
  if (!frame.parts.empty()) {
    operation.parts = std::move(frame.parts);
    payload = describe(operation.parts, operation.pieces);
  }
  operation.channel = &channel;
  operation.bytes = header.size() + payload.bytes;
  ++channel.operations;
  channel.bytes_in_flight += operation.bytes;

  ucp_request_param_t params;
  params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA |
                        UCP_OP_ATTR_FIELD_DATATYPE | UCP_OP_ATTR_FIELD_MEMORY_TYPE;
  params.cb.send = &UcxWorker::on_sent;
  params.user_data = &operation;
  params.datatype = payload.type;
  params.memory_type = UCS_MEMORY_TYPE_HOST;
  if (channel.over_network && payload.type == UCP_DATATYPE_IOV) {
    // Over TCP, rendezvous of scattered memory falls back to small copied pieces, each waited for: 1.3 GB/s
    // against 4 eagerly (and 8 by rendezvous of one part), 1 MiB in two parts.
    params.op_attr_mask |= UCP_OP_ATTR_FIELD_FLAGS;
    params.flags = UCP_AM_SEND_FLAG_EAGER;
  }
  void* request = ucp_am_send_nbx(channel.endpoint, kMessageId, header.data(), header.size(), payload.data,
                                  payload.count, &params);
  if (UCS_PTR_IS_PTR(request)) return {};

  // Sent already (null), or refused.
  --channel.operations;
  channel.bytes_in_flight -= operation.bytes;
  operation.parts.clear();
  operation.long_header = {};
  free_sends_.push_back(&operation);
  if (request == nullptr) {
    channel.has_sent = true;
    return {};
  }
  Error error = ucx_error(UCS_PTR_STATUS(request), "sending to the peer");
  plane_->lose(channel.link, error);
  return error;
}

void UcxWorker::on_sent(void* request, ucs_status_t status, void* user_data) {
  auto& operation = *static_cast<SendOperation*>(user_data);
  UcxWorker& self = *operation.worker;
  Channel& channel = *operation.channel;
  ucp_request_free(request);
  channel.bytes_in_flight -= operation.bytes;
  channel.has_sent |= status == UCS_OK;
  if (status != UCS_OK && !channel.detached)
    self.plane_->lose(channel.link, ucx_error(status, "sending to the peer"));
  self.end_operation(channel);
  self.ended_sends_.push_back(&operation);
}

void UcxWorker::recycle_sent() {
  // Dropping a buffer may run its owner's code, which may send: the list can grow meanwhile.
  while (!ended_sends_.empty()) {
    SendOperation& operation = *ended_sends_.back();
    ended_sends_.pop_back();
    operation.parts.clear();
    operation.long_header = {};
    free_sends_.push_back(&operation);
  }
}

// ---- Receiving ------------------------------------------------------------------------------------

ucs_status_t UcxWorker::on_message(void* self, const void* header, std::size_t header_size, void* data,
                                   std::size_t size, const ucp_am_recv_param_t* param) {
  const bool rendezvous = (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0;
  const bool kept = static_cast<UcxWorker*>(self)->receive(
      {static_cast<const std::byte*>(header), header_size}, data, size, rendezvous);
  // A rendezvous of which the descriptor is not kept is thereby declined: the sender's send ends.
  return kept ? UCS_INPROGRESS : UCS_OK;
}

/// Returns whether UCX's descriptor, `data`, is kept.
bool UcxWorker::receive(std::span<const std::byte> header, void* data, std::size_t size, bool rendezvous) {
  if (header.size() <= kTagBytes || header.size() > kTagBytes + plane_->max_head_bytes) {
    ++plane_->stats.malformed;
    return false;
  }
  std::uint64_t tag = 0;
  std::memcpy(&tag, header.data(), kTagBytes);
  Channel* channel = plane_->channels.in_slot(tag);
  if (!channel || channel->own_tag != tag || channel->worker != this) {
    ++plane_->stats.stray;
    return false;
  }
  channel->has_received = true;
  Arrival arrival;
  arrival.link = channel->link;
  // Where UCX put the header is neither aligned nor ours to keep.
  arrival.head = plane_->heads.acquire(header.size() - kTagBytes);
  std::memcpy(arrival.head.data(), header.data() + kTagBytes, arrival.head.size());
  if (rendezvous && size > 0) {
    channel->announced.push_back({std::move(arrival), size, data});
    accept_announced(*channel);
    return true;
  }
  if (size > 0) {
    if (!plane_->ask_for_parts(arrival, size)) return false;
    scatter(static_cast<const std::byte*>(data), arrival.parts);
  }
  plane_->arrivals.push(std::move(arrival));
  return false;
}

/// Memory is given to few messages at a time, in the order in which they were announced. So a sender can
/// make us hold little more than the message that is being received, and one after the other they go into
/// the same memory, which the processor's cache still has: 1 MiB messages at 12 GB/s in place of 7.
void UcxWorker::accept_announced(Channel& channel) {
  const std::size_t most = channel.over_network ? kMostReceivedOverNetwork : kMostReceived;
  while (!channel.announced.empty() && !channel.detached) {
    Announced& next = channel.announced.front();
    const bool one_more = channel.receiving < most && channel.bytes_receiving < kEnoughUnderWay;
    if (channel.receiving > 0 && !one_more) return;
    Announced announced = std::move(next);
    channel.announced.pop_front();
    if (plane_->ask_for_parts(announced.arrival, announced.bytes)) {
      start_rendezvous(channel, std::move(announced));
    } else {
      ucp_am_data_release(worker_, announced.descriptor);
    }
  }
}

void UcxWorker::decline_announced(Channel& channel) {
  for (const Announced& announced : channel.announced) ucp_am_data_release(worker_, announced.descriptor);
  channel.announced.clear();
}

void UcxWorker::start_rendezvous(Channel& channel, Announced announced) {
  if (free_receives_.empty()) free_receives_.push_back(&receives_.emplace_back());
  ReceiveOperation& operation = *free_receives_.back();
  free_receives_.pop_back();
  operation.worker = this;
  operation.channel = &channel;
  operation.arrival = std::move(announced.arrival);
  operation.bytes = announced.bytes;
  ++channel.operations;
  ++channel.receiving;
  channel.bytes_receiving += announced.bytes;
  ++receiving_;
  const Payload payload = describe(operation.arrival.parts, operation.pieces);

  ucp_request_param_t params;
  params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA |
                        UCP_OP_ATTR_FIELD_DATATYPE | UCP_OP_ATTR_FIELD_MEMORY_TYPE;
  params.cb.recv_am = &UcxWorker::on_received;
  params.user_data = &operation;
  params.datatype = payload.type;
  params.memory_type = UCS_MEMORY_TYPE_HOST;
  void* request = ucp_am_recv_data_nbx(worker_, announced.descriptor, payload.data, payload.count, &params);
  if (!UCS_PTR_IS_PTR(request)) end_receive(operation, UCS_PTR_STATUS(request));
}

void UcxWorker::on_received(void* request, ucs_status_t status, std::size_t, void* user_data) {
  ucp_request_free(request);
  auto& operation = *static_cast<ReceiveOperation*>(user_data);
  Channel& channel = *operation.channel;
  UcxWorker& self = *operation.worker;
  const bool is_large = operation.bytes >= kEnoughUnderWay;
  self.end_receive(operation, status);
  if (!is_large) return self.accept_announced(channel);
  if (!channel.detached) self.postponed_.push_back(channel.link);
}

/// After a message as large as a cache the next one waits until that has been delivered: then it usually goes
/// into the same memory.
void UcxWorker::accept_postponed() {
  for (const LinkId link : std::exchange(postponed_, {})) {
    Channel* const channel = plane_->channels.find(link);
    if (channel && channel->worker == this) accept_announced(*channel);
  }
}

void UcxWorker::end_receive(ReceiveOperation& operation, ucs_status_t status) {
  Channel& channel = *operation.channel;
  Arrival arrival = std::exchange(operation.arrival, {});
  free_receives_.push_back(&operation);
  --receiving_;
  --channel.receiving;
  channel.bytes_receiving -= operation.bytes;
  end_operation(channel);
  if (channel.detached) return;
  // Parts were read from the sender's own memory, perhaps. A sender that goes closes its socket before it
  // frees anything: if that is open still, what we have read was the message.
  if (status == UCS_OK && plane_->meeting->peer_has_left(channel.link)) {
    ++plane_->stats.lost;
    return;
  }
  if (status == UCS_OK) return plane_->arrivals.push(std::move(arrival));
  ++plane_->stats.lost;
  plane_->lose(channel.link, ucx_error(status, "receiving from the peer"));
}

// ---- Ends -----------------------------------------------------------------------------------------

void UcxWorker::end_operation(Channel& channel) {
  --channel.operations;
  if (channel.detached && channel.operations == 0) drained_some_ = true;
}

void UcxWorker::detach(std::unique_ptr<Channel> channel) {
  --attached_;
  channel->detached = true;
  half_connected_ |=
      channel->over_network && channel->address_given && !(channel->has_sent && channel->has_received);
  decline_announced(*channel);
  if (channel->operations == 0) return close_endpoint(*channel);
  draining_.push_back(std::move(channel));
}

void UcxWorker::close_drained() {
  drained_some_ = false;
  std::vector<std::unique_ptr<Channel>> drained;
  for (auto& channel : draining_) {
    if (channel->operations == 0) drained.push_back(std::move(channel));
  }
  std::erase(draining_, nullptr);
  for (const auto& channel : drained) close_endpoint(*channel);
}

/// Forced closing needs UCX's failure handling; the gentle kind waits for what is under way, which for
/// a dead peer may be for ever: then the endpoint goes with the worker.
void UcxWorker::close_endpoint(const Channel& channel) {
  if (!channel.endpoint) return;
  const ucp_request_param_t params{};
  void* request = ucp_ep_close_nbx(channel.endpoint, &params);
  if (UCS_PTR_IS_PTR(request)) closing_.push_back(request);
}

void UcxWorker::check_closing() {
  std::erase_if(closing_, [](void* request) {
    if (ucp_request_check_status(request) == UCS_INPROGRESS) return false;
    ucp_request_free(request);
    return true;
  });
}

}  // namespace troupe::rpc
