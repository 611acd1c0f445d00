#include "ucx/worker.hpp"

#include <algorithm>
#include <cassert>
#include <chrono>
#include <cstring>
#include <string>
#include <utility>

#include "ucx/parked_workers.hpp"

namespace troupe::rpc {

namespace {

/// A worker that is going away lets its last operations end as long as something happens within this
/// time, and for no longer than the second one in all.
constexpr auto kFarewellPause = std::chrono::milliseconds(5);
constexpr auto kFarewell = std::chrono::seconds(1);
/// How often, in rounds, the endpoints being closed are looked at: those of the dead stay for long.
constexpr unsigned kClosingRounds = 32;

}  // namespace

Result<UcxWorker::Handle> UcxWorker::create(const TransportOptions& options, UcxLinks& links) {
  if (auto parked = ParkedWorkers::all().take(options)) {
    parked->links_ = &links;
    return Handle(parked.release());
  }
  Handle worker(new UcxWorker(options, links));
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

  auto handled = handle(kMessageId, &UcxWorker::on_message);
  return handled ? handle(kWordId, &UcxWorker::on_word) : handled;
}

Result<void> UcxWorker::handle(unsigned am_id, ucp_am_recv_callback_t callback) {
  ucp_am_handler_param_t handler{};
  handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                       UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
  handler.id = am_id;
  handler.flags = UCP_AM_FLAG_WHOLE_MSG;
  handler.cb = callback;
  handler.arg = this;
  const ucs_status_t status = ucp_worker_set_am_recv_handler(worker_, &handler);
  if (status != UCS_OK) return ucx_error(status, "setting UCX's message handler");
  return {};
}

void UcxWorker::Retire::operator()(UcxWorker* worker) const {
  std::unique_ptr<UcxWorker> owned(worker);
  if (!owned->worker_) return;
  assert(owned->attached_ == 0);
  owned->finish();
  if (owned->can_end()) return;
  owned->links_ = nullptr;
  owned->postponed_.clear();
  owned->hearing_.clear();
  ParkedWorkers::all().park(std::move(owned));
}

UcxWorker::~UcxWorker() {
  if (!worker_) return;
  // UCX insists that nobody waits for a closing that it cuts short.
  for (void* request : closing_) ucp_request_free(request);
  // Ends everything else; the operations' buffers go after it.
  ucp_worker_destroy(worker_);
  while (draining_) draining_ = std::move(draining_->next);  // one by one: there may be many
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
  const bool copies = receiving_ > 0 && !uses_network_only(options_);
  return !copies && !half_connected_;
}

int UcxWorker::progress() {
  assert(!in_progress_ && "progress() inside of a UCX callback");
  if (!postponed_.empty() && links_->data.arrivals.empty()) accept_postponed();
  in_progress_ = true;
  const unsigned events = ucp_worker_progress(worker_);
  in_progress_ = false;
  if (!ended_sends_.empty()) recycle_sent();
  if (!hearing_.empty()) send_waiting();
  if (drained_some_) close_drained();
  if (!closing_.empty() && ++rounds_ % kClosingRounds == 0) check_closing();
  return static_cast<int>(events);
}

Result<void> UcxWorker::open(UcxEnd& end, std::span<const std::byte> peer_worker_address) {
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE;
  params.address = reinterpret_cast<const ucp_address_t*>(peer_worker_address.data());
  // UCX's own failure handling does not exist for shared memory and slows TCP down; the control socket
  // tells when a peer has died.
  params.err_mode = UCP_ERR_HANDLING_MODE_NONE;
  const ucs_status_t status = ucp_ep_create(worker_, &params, &end.endpoint);
  if (status == UCS_OK) {
    if (end.paused) pause(end);
    return {};
  }
  end.endpoint = nullptr;
  return ucx_error(status, "UCX finds no way to the peer (do both allow a common transport?)");
}

// ---- Ends -----------------------------------------------------------------------------------------

void UcxWorker::end_operation(UcxEnd& end) {
  --end.operations;
  if (end.detached && end.operations == 0) drained_some_ = true;
}

void UcxWorker::detach(std::unique_ptr<UcxEnd> end) {
  --attached_;
  end->detached = true;
  end->waiting.clear();
  half_connected_ |= end->over_network && end->address_given && !(end->has_sent && end->has_received);
  decline_announced(*end);
  if (end->operations == 0) return close_endpoint(*end);
  end->next = std::move(draining_);
  draining_ = std::move(end);
  ++draining_count_;
}

void UcxWorker::make_room() {
  const std::size_t most = closing_.size() + draining_count_ + attached_ + 1;
  if (closing_.capacity() < most) closing_.reserve(2 * most);
}

void UcxWorker::close_drained() {
  drained_some_ = false;
  for (auto* at = &draining_; *at;) {
    if ((*at)->operations > 0) {
      at = &(*at)->next;
      continue;
    }
    const auto end = std::exchange(*at, std::move((*at)->next));
    --draining_count_;
    close_endpoint(*end);
  }
}

/// Forced closing needs UCX's failure handling; the gentle kind waits for what is under way, which for
/// a dead peer may be for ever: then the endpoint goes with the worker.
void UcxWorker::close_endpoint(const UcxEnd& end) {
  if (!end.endpoint) return;
  const ucp_request_param_t params{};
  void* request = ucp_ep_close_nbx(end.endpoint, &params);
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
