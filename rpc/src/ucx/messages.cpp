// What a worker sends and receives.
#include <cstring>
#include <string>
#include <utility>

#include "ucx/worker.hpp"

namespace troupe::rpc {

namespace {

/// The byte that a word about the link is.
constexpr std::byte kGoOn{0};
constexpr std::byte kBeSilent{1};
/// Rendezvous from one peer that are received at once: over shared memory UCX copies them one after the
/// other anyway, and the second is there so that it always has work; a network is kept busy by several,
/// until there is enough under way.
constexpr std::size_t kMostReceived = 2;
constexpr std::size_t kMostReceivedOverNetwork = 8;
constexpr std::size_t kEnoughUnderWay = std::size_t{4} << 20;
/// More than any peer has under way that keeps to its bounds.
constexpr std::size_t kMostAnnounced = std::size_t{1} << 16;

std::size_t bytes_of(const OutFrame& frame) {
  std::size_t bytes = frame.head.size();
  for (const Buffer& part : frame.parts) bytes += part.size();
  return bytes;
}

}  // namespace

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
    operation.long_header = links_->data.heads.acquire(kTagBytes + head.size());
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

Result<void> UcxWorker::send(UcxEnd& end, OutFrame&& frame) {
  if (!end.peer_deaf && end.waiting.empty()) return send_now(end, std::move(frame));
  end.bytes_in_flight += bytes_of(frame);
  end.waiting.push_back(std::move(frame));
  return {};
}

/// To peers that hear again.
void UcxWorker::send_waiting() {
  for (const LinkId link : std::exchange(hearing_, {})) {
    for (;;) {  // found anew each time: dropping a buffer may run anybody's code
      UcxEnd* const end = links_->ends.find(link);
      if (!end || end->worker != this || end->peer_deaf || end->waiting.empty()) break;
      OutFrame frame = std::move(end->waiting.front());
      end->waiting.pop_front();
      end->bytes_in_flight -= bytes_of(frame);
      if (!send_now(*end, std::move(frame))) break;  // the link is lost
    }
  }
}

void UcxWorker::pause(UcxEnd& end) {
  if (!end.paused && links_->data.control->peer_has_left(end.link)) return;  // nobody is left to be told
  SendOperation& operation = take_send_operation();
  operation.is_word = true;
  const std::byte word = end.paused ? kBeSilent : kGoOn;
  const auto header = write_header(operation, end.peer_tag, {&word, 1});
  static_cast<void>(post(operation, end, kWordId, header, {}));  // if it fails, the link is lost
  if (!end.paused && !in_progress_) accept_announced(end);
}

Result<void> UcxWorker::send_now(UcxEnd& end, OutFrame&& frame) {
  SendOperation& operation = take_send_operation();
  const auto header = write_header(operation, end.peer_tag, frame.head.bytes());
  Payload payload;
  if (!frame.parts.empty()) {
    operation.parts = std::move(frame.parts);
    payload = describe(operation.parts, operation.pieces);
  }
  return post(operation, end, kMessageId, header, payload);
}

Result<void> UcxWorker::post(SendOperation& operation, UcxEnd& end, unsigned am_id,
                             std::span<const std::byte> header, const Payload& payload) {
  operation.end = &end;
  operation.bytes = header.size() + payload.bytes;
  ++end.operations;
  end.bytes_in_flight += operation.bytes;

  ucp_request_param_t params;
  params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA |
                        UCP_OP_ATTR_FIELD_DATATYPE | UCP_OP_ATTR_FIELD_MEMORY_TYPE;
  params.cb.send = &UcxWorker::on_sent;
  params.user_data = &operation;
  params.datatype = payload.type;
  params.memory_type = UCS_MEMORY_TYPE_HOST;
  if (end.over_network && payload.type == UCP_DATATYPE_IOV) {
    // Over TCP, rendezvous of scattered memory falls back to small copied pieces, each waited for: 1.3 GB/s
    // against 4 eagerly (and 8 by rendezvous of one part), 1 MiB in two parts.
    params.op_attr_mask |= UCP_OP_ATTR_FIELD_FLAGS;
    params.flags = UCP_AM_SEND_FLAG_EAGER;
  }
  void* request = ucp_am_send_nbx(end.endpoint, am_id, header.data(), header.size(), payload.data,
                                  payload.count, &params);
  if (UCS_PTR_IS_PTR(request)) return {};

  // Sent already (null), or refused.
  --end.operations;
  end.bytes_in_flight -= operation.bytes;
  operation.parts.clear();
  operation.long_header = {};
  const bool is_word = std::exchange(operation.is_word, false);
  free_sends_.push_back(&operation);
  if (request == nullptr) {
    end.has_sent |= !is_word;
    return {};
  }
  Error error = ucx_error(UCS_PTR_STATUS(request), "sending to the peer");
  links_->data.lose(end.link, error);
  return error;
}

void UcxWorker::on_sent(void* request, ucs_status_t status, void* user_data) {
  auto& operation = *static_cast<SendOperation*>(user_data);
  UcxWorker& self = *operation.worker;
  UcxEnd& end = *operation.end;
  ucp_request_free(request);
  end.bytes_in_flight -= operation.bytes;
  end.has_sent |= status == UCS_OK && !operation.is_word;
  operation.is_word = false;
  if (status != UCS_OK && !end.detached)
    self.links_->data.lose(end.link, ucx_error(status, "sending to the peer"));
  self.end_operation(end);
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

ucs_status_t UcxWorker::on_word(void* self_, const void* header, std::size_t header_size, void*, std::size_t,
                                const ucp_am_recv_param_t*) {
  auto& self = *static_cast<UcxWorker*>(self_);
  const std::span bytes(static_cast<const std::byte*>(header), header_size);
  UcxEnd* const end = self.end_of(bytes);
  if (!end) return UCS_OK;
  end->peer_deaf = bytes[kTagBytes] == kBeSilent;
  if (!end->peer_deaf) self.hearing_.push_back(end->link);
  return UCS_OK;
}

/// For which link it is; null, and counted, if it is for none.
UcxEnd* UcxWorker::end_of(std::span<const std::byte> header) {
  if (header.size() <= kTagBytes || header.size() > kTagBytes + links_->data.max_head_bytes) {
    ++links_->data.stats.malformed;
    return nullptr;
  }
  std::uint64_t tag = 0;
  std::memcpy(&tag, header.data(), kTagBytes);
  UcxEnd* const end = links_->ends.in_slot(tag);
  if (end && end->own_tag == tag && end->worker == this) return end;
  ++links_->data.stats.stray;
  return nullptr;
}

/// Returns whether UCX's descriptor, `data`, is kept.
bool UcxWorker::receive(std::span<const std::byte> header, void* data, std::size_t size, bool rendezvous) {
  UcxEnd* const end = end_of(header);
  if (!end) return false;
  end->has_received = true;
  Arrival arrival;
  arrival.link = end->link;
  // Where UCX put the header is neither aligned nor ours to keep.
  arrival.head = links_->data.heads.acquire(header.size() - kTagBytes);
  std::memcpy(arrival.head.data(), header.data() + kTagBytes, arrival.head.size());
  if (rendezvous && size > 0) {
    if (end->announced.size() >= kMostAnnounced) {
      links_->data.lose(end->link,
                        {Code::kResourceExhausted, "the peer has announced too many long messages"});
      return false;
    }
    end->announced.push_back({std::move(arrival), size, data});
    accept_announced(*end);
    return true;
  }
  if (size > 0) {
    if (!links_->data.ask_for_parts(arrival, size)) return false;
    scatter(static_cast<const std::byte*>(data), arrival.parts);
  }
  links_->data.arrivals.push(std::move(arrival));
  return false;
}

/// Memory is given to few messages at a time, in the order in which they were announced. So a sender can
/// make us hold little more than the message that is being received, and one after the other they go into
/// the same memory, which the processor's cache still has: 1 MiB messages at 12 GB/s in place of 7.
void UcxWorker::accept_announced(UcxEnd& end) {
  const std::size_t most = end.over_network ? kMostReceivedOverNetwork : kMostReceived;
  while (!end.announced.empty() && !end.detached && !end.paused) {
    Announced& next = end.announced.front();
    const bool one_more = end.receiving < most && end.bytes_receiving < kEnoughUnderWay;
    if (end.receiving > 0 && !one_more) return;
    Announced announced = std::move(next);
    end.announced.pop_front();
    if (links_->data.ask_for_parts(announced.arrival, announced.bytes)) {
      start_rendezvous(end, std::move(announced));
    } else {
      ucp_am_data_release(worker_, announced.descriptor);
    }
  }
}

void UcxWorker::decline_announced(UcxEnd& end) {
  for (const Announced& announced : end.announced) ucp_am_data_release(worker_, announced.descriptor);
  end.announced.clear();
}

void UcxWorker::start_rendezvous(UcxEnd& end, Announced announced) {
  if (free_receives_.empty()) free_receives_.push_back(&receives_.emplace_back());
  ReceiveOperation& operation = *free_receives_.back();
  free_receives_.pop_back();
  operation.worker = this;
  operation.end = &end;
  operation.arrival = std::move(announced.arrival);
  operation.bytes = announced.bytes;
  ++end.operations;
  ++end.receiving;
  end.bytes_receiving += announced.bytes;
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
  UcxEnd& end = *operation.end;
  UcxWorker& self = *operation.worker;
  const bool is_large = operation.bytes >= kEnoughUnderWay;
  self.end_receive(operation, status);
  if (!is_large) return self.accept_announced(end);
  if (!end.detached) self.postponed_.push_back(end.link);
}

/// After a message as large as a cache the next one waits until that has been delivered: then it usually goes
/// into the same memory.
void UcxWorker::accept_postponed() {
  for (const LinkId link : std::exchange(postponed_, {})) {
    UcxEnd* const end = links_->ends.find(link);
    if (end && end->worker == this) accept_announced(*end);
  }
}

void UcxWorker::end_receive(ReceiveOperation& operation, ucs_status_t status) {
  UcxEnd& end = *operation.end;
  Arrival arrival = std::exchange(operation.arrival, {});
  free_receives_.push_back(&operation);
  --receiving_;
  --end.receiving;
  end.bytes_receiving -= operation.bytes;
  end_operation(end);
  if (end.detached) return;
  // Parts were read from the sender's own memory, perhaps. A sender that goes closes its socket before it
  // frees anything: if that is open still, what we have read was the message.
  if (status == UCS_OK && links_->data.control->peer_has_left(end.link)) {
    ++links_->data.stats.lost;
    return;
  }
  if (status == UCS_OK) return links_->data.arrivals.push(std::move(arrival));
  ++links_->data.stats.lost;
  links_->data.lose(end.link, ucx_error(status, "receiving from the peer"));
}

}  // namespace troupe::rpc
