#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <troupe/rpc/endpoint.hpp>
#include <troupe/runtime/random.hpp>
#include <troupe/runtime/timer.hpp>

#include "calls/inbound_calls.hpp"
#include "session/session.hpp"

namespace troupe::rpc {

class Answers;
struct Arriving;
class DeviceArrival;
class DeviceTensors;

/// What stands behind an Endpoint: the registry of sessions (endpoint.cpp, liveness), making calls and taking
/// them in (calls/), and delivery to oneself (calls/local.cpp). What concerns one peer is its Session's.
class EndpointCore final : private TransportEvents {
 public:
  using Stats = Endpoint::Stats;
  using FindTarget = Endpoint::FindTarget;

  EndpointCore(Loop& loop, std::unique_ptr<Transport> transport, EndpointOptions options,
               EndpointEvents& events);
  ~EndpointCore() override;
  EndpointCore(const EndpointCore&) = delete;
  EndpointCore& operator=(const EndpointCore&) = delete;

  Loop& loop() { return loop_; }
  const EndpointOptions& options() const { return options_; }
  EndpointEvents& events() { return events_; }
  Duration default_timeout() const { return Duration(default_timeout_ns_.load(std::memory_order_relaxed)); }
  Duration timeout_of(const CallOptions& options) const;
  CallMetrics* metrics() { return metrics_.get(); }
  bool is_open(std::uint64_t call_id) const;
  void cancel(std::uint64_t call_id);
  /// Soon: see Endings.
  void cancel_all(std::span<const std::uint64_t> call_ids);
  /// Runs what belongs to others. What it throws ends here, and is told once.
  template <class F>
  void shield(std::string_view where, F&& run) noexcept;

 private:
  friend class Endpoint;
  friend class Liveness;
  friend class InboundCall;
  friend class Session;
  friend class detail::StreamSource;
  friend class detail::StreamSink;
  friend struct OpenCall;
  class Cancelling;
  class RetryingCall;
  class FlowPump;
  class Endings;
  struct LocalDelivery;

  // endpoint.cpp: the registry of sessions
  void shut_down();
  Result<std::string> listen(std::string_view address);
  Result<SessionId> connect(std::string_view address);
  void close(SessionId session, const Error& why);
  void close_all_with(std::uint64_t node_id, const Error& why);
  bool ready(SessionId session) const;
  Session* find(SessionId session);
  Session* look_up(SessionId session);
  /// Ends a session: answers its calls, tells the layer above. See Endings for when.
  void end_session(SessionId session, Error error, bool tell);
  void on_thrown(std::string_view where);
  /// What is open with a peer, or with ourselves; null: there is no such session.
  PeerCalls* calls_of(SessionId session);

  void on_link(LinkId link, std::string_view peer_address, bool incoming) override;
  void on_control(LinkId link, std::span<const std::byte> message) override;
  Result<void> on_parts(LinkId link, std::span<const std::byte> head, std::size_t total_bytes,
                        std::vector<Buffer>& parts) override;
  Result<void> begin_message(LinkId link, std::span<const std::byte> head, std::size_t total_bytes,
                             std::vector<Buffer>& parts);
  void on_frame(LinkId link, Buffer&& head, std::vector<Buffer>&& parts) override;
  const Tensor* destination(LinkId link, const MessageHeader& header);
  void on_closed(LinkId link, Error error) override;

  // admission.cpp
  Result<void> may_meet_at(std::string_view address) const;
  void expect_strangers();

  // liveness.cpp
  void keep_watch(SessionId session, bool on);
  void attend(Session& session);

  // flow.cpp: what must wait
  Result<void> send_frame(SessionId session, OutFrame&& frame, Flow flow, OpenCall* call = nullptr,
                          TimePoint deadline = TimePoint::never());
  bool send_waiting(SessionId session);
  bool begin_held(SessionId session);
  Endpoint::Waiting waiting() const;
  // one_way.cpp: messages that nobody answers
  void on_ask_done(SessionId session, std::uint64_t at);
  void on_done(SessionId session, std::uint64_t bytes);
  void note_done(SessionId session, std::size_t bytes);
  bool tell_done(SessionId session);
  /// The tensors of a message to another process are leased from now on; the peer maps them if it can and
  /// `may_map`.
  void lease_tensors(OutMessage& message, SessionId to, bool may_map, const troupe::Stream* after = nullptr);

  // outgoing.cpp: making calls
  std::uint64_t call(CallTarget target, MethodId method, const CallOptions& options, const BodyWriter& body,
                     ReplySink& sink);
  std::uint64_t open(CallTarget target, MethodId method, const CallOptions& options, const BodyWriter& body,
                     ReplySink& sink, detail::CallScope* scope);
  /// Gives the call a place among the open ones, and sends it. Returns its id; 0: the arguments could not be
  /// encoded, and it has no place. `failure`: why it is not on its way.
  std::uint64_t begin(const MessageHeader& header, CallTarget target, const CallOptions& options,
                      const BodyWriter& body, ReplySink& sink, OpenSpan& span, detail::CallScope* scope,
                      std::optional<Error>& failure);
  Result<void> send(CallTarget target, MethodId method, const CallOptions& options, const BodyWriter& body);
  void send_cancel(CallTarget target, std::uint64_t call_id);
  OpenCall* find_call(std::uint64_t call_id) { return calls_.find(call_id); }
  void complete(OpenCall& call, Result<std::unique_ptr<InMessage>>&& reply);
  ReplySink& release(OpenCall& call);
  Result<std::shared_ptr<detail::CallScope>> join_scope(CallOptions& options) const;
  /// `to` matters to those that may have many attachments. `share`: tensors may be mapped there; the frame
  /// then goes nowhere else, and once only.
  Result<OutFrame> encode(const MessageHeader& header, const BodyWriter& body, SessionId to = kElsewhere,
                          bool share = false, const troupe::Stream* after = nullptr);
  static constexpr SessionId kElsewhere = UINT64_MAX;
  std::size_t max_head_bytes(SessionId session) const;

  // into.cpp: calls that say where their answer is to lie
  Result<void> check_into(const Tensor& into) const;
  void claim_into(const Tensor& into);
  void release_into(const Tensor& into);

  // retrying_call.cpp
  std::uint64_t call_with_retries(FindTarget find, MethodId method, const CallOptions& options,
                                  const BodyWriter& body, ReplySink& sink);
  std::uint64_t call_encoded(CallTarget target, OutFrame frame, Duration timeout, Duration remaining,
                             ReplySink& sink, OpenSpan span);

  // device/core_devices.cpp, core_arrivals.cpp: tensors in device memory
  /// `after` may be null. Throws BadResult: they cannot leave.
  void depart(OutMessage& message, Session* to, bool may_stay, const troupe::Stream* after);
  /// Whether a frame must wait for a device; what has passed is forgotten.
  static bool must_wait(const OutFrame& frame);
  Result<bool> stage_later(SessionId session, OutFrame& frame);
  void hold_for_memory(SessionId session, OutFrame&& frame, Flow flow, std::uint64_t call, TimePoint until);
  void hold_for_devices(SessionId session, OutFrame&& frame, Flow flow, OpenCall* call, TimePoint deadline);
  Result<void> send_held(SessionId session, OutFrame&& frame, Flow flow, std::uint64_t call, TimePoint until);
  void fail_held(SessionId session, const OutFrame& frame, std::uint64_t call_id, const Error& why);
  /// Takes a message with tensors that are to be brought into devices, or out of a peer's, first.
  bool take_to_devices(SessionId session, std::unique_ptr<InMessage>& message);
  using ArrivalPtr = std::shared_ptr<DeviceArrival>;
  void begin_arrival(SessionId session, const ArrivalPtr& arrival);
  void give_up(Arriving& listed);
  void prepare(SessionId session, const ArrivalPtr& arrival);
  void lose_way(Session& session, const Reach& way, const Error& why);
  void on_stage(SessionId session, std::uint64_t lease);
  void on_staged(SessionId session, const InMessage& message);
  void bring(SessionId session, const ArrivalPtr& arrival);
  void brought(SessionId session, const ArrivalPtr& arrival, const Result<void>& outcome);
  void fail_arrival(SessionId session, DeviceArrival& arrival, const Result<void>& outcome);
  void leave_arrivals(OpenCall& call);
  void leave_arrivals(SessionId session);
  void cancel_arrivals(SessionId session, std::uint64_t call_id);
  void meet_devices(Session& session);
  void leave_devices(Session& session);
  void forget_slab(Session& session, std::uint64_t slab);
  void tell_slabs_gone(const std::vector<std::uint64_t>& slabs);
  Endpoint::DeviceUse device_use() const;

  // incoming.cpp: what comes in
  void deliver(SessionId session, std::unique_ptr<InMessage>&& message);
  void deliver_whole(SessionId session, std::unique_ptr<InMessage>&& message);
  void on_request(SessionId session, std::unique_ptr<InMessage>&& message);
  void begin_request(InboundCallPtr call);
  Result<void> check_inbound(const InboundCall& call);
  /// To the layer above.
  void hand_on(InboundCallPtr call);
  void on_reply(SessionId session, std::unique_ptr<InMessage>&& message);
  void on_cancel(SessionId session, std::uint64_t call_id);
  void on_release(SessionId session, const InMessage& message);

  // inbound_call.cpp, call_scope.cpp: calls of others, until they are answered
  void enlist(InboundCall& call);
  void delist(InboundCall& call);
  void forget(InboundCall& call);
  void drop(InboundCallPtr call);
  void abandon(InboundCall& call);
  void answer(InboundCall& call, const BodyWriter& body);
  void answer_error(const InboundCall& call, const Error& error);
  /// Their caller wants no answer any more: to one, or to any of a peer's.
  void cancel_inbound(PeerCalls& calls, std::uint64_t call_id);
  std::size_t cancel_some_inbound(PeerCalls& calls, std::size_t& chain, std::size_t most);
  void cancel_orphans();

  // answers.cpp: calls with a token
  void forget_caller(std::uint64_t node_id);
  bool take_repeat(InboundCallPtr& call, std::uint64_t caller);
  void begin_repeats(std::uint64_t caller, std::vector<InboundCallPtr>&& repeats);
  bool keep_answer(std::uint64_t caller, const InboundCall& call, const OutFrame& frame);
  InboundCall* first_of(const InboundCall& repeat);
  std::uint64_t caller_of(const InboundCall& call);
  void answer_token(InboundCall& call, const BodyWriter& body, bool keep);
  void send_kept(const InboundCall& call, const OutFrame& answer);

  // streams.cpp
  void on_item(SessionId session, std::unique_ptr<InMessage> message);
  void on_credit(SessionId session, const MessageHeader& header);
  void send_credit(std::uint64_t call_id, std::uint64_t items, std::uint64_t bytes);
  void forget_stream(SessionId session, std::uint64_t call_id);

  // tracing.cpp
  TraceContext trace_of(const CallOptions& options) const;
  OpenSpan begin_span(TraceContext& trace, SpanKind kind, const CallTarget& target, const MethodId& method);
  void begin_span(InboundCall& call);
  void end_span(const InboundCall& call, OpenSpan span);
  void end_span(OpenCall& call, const Error* error);
  void end_span(OpenCall& call, Result<std::unique_ptr<InMessage>>& reply);
  void name_span(Span& span, const CallTarget& target, const MethodId& method);
  const std::string* peer_name(SessionId session);

  // call_metrics.cpp
  std::vector<FunctionMetrics> function_metrics();
  void end_metered(detail::MeteredCall& call, const Result<std::unique_ptr<InMessage>>& reply);
  void begin_metered(InboundCall& call);
  void count_one_way(std::uint64_t method, std::size_t bytes);
  void count_refused(std::uint64_t method, Code code, const ReplySink& sink);

  // local.cpp: what an endpoint sends to itself
  struct Local {
    std::unique_ptr<InMessage> message;  // or
    InboundCallPtr call;                 // or
    std::unique_ptr<detail::DirectResult> result;
    std::uint64_t call_id = 0;  // whose result it is
  };
  class Deeper;
  std::uint64_t open_directly(CallTarget target, const MessageHeader& header, OpenSpan span,
                              const BodyWriter& body, ReplySink& sink, detail::CallScope* scope);
  void answer_directly(std::uint64_t call_id, detail::DirectResult& result);
  Result<void> send_local(OutFrame&& frame);
  bool may_deliver() const;
  void wait_local(Local local);
  void give(std::uint64_t call_id, detail::DirectResult& result);
  void deliver_local(Local local);
  void hand_over(Local local);
  void deliver_waiting_local();

  Loop& loop_;
  EndpointOptions options_;
  std::atomic<Duration::rep> default_timeout_ns_;  // any thread
  EndpointEvents& events_;
  MemoryPool pool_;
  SharedPool shared_pool_;
  std::unique_ptr<DeviceTensors> devices_;  // null: without GPUs
  std::unique_ptr<CallMetrics> metrics_;
  std::unique_ptr<HeadPool> heads_;  // for short messages of ours
  Random random_;                    // for pauses between attempts, and where calls lie in their tables
  CallSlots calls_;                  // of ours
  std::map<const std::byte*, const std::byte*> into_;  // memory that they receive into: begin and end
  std::size_t inbound_calls_ = 0;                      // open ones of others, and of ourselves
  PeerCalls own_;                                      // calls to ourselves, from both ends
  InboundCalls orphans_;                               // calls that belong to no session, nor to a node
  int local_depth_ = 0;                                // of deliveries to ourselves in one another
  std::deque<Local> local_waiting_;                    // deliveries that were too deep
  FlowQueue::Total waiting_;                           // of all sessions
  std::unordered_map<SessionId, std::unique_ptr<Session>> sessions_;
  PeerNodes nodes_;                // those that have met, or have left something
  Session* last_found_ = nullptr;  // by find(): the next message is likely to be of the same session
  std::unique_ptr<FlowPump> pump_;
  std::unique_ptr<Endings> endings_;
  std::size_t long_from_;  // bytes from which a message counts as long: it goes by rendezvous
  std::unique_ptr<Answers> answers_;
  std::unordered_map<std::uint64_t, std::unique_ptr<RetryingCall>> retrying_;
  std::uint64_t next_retrying_ = 0;
  Stats stats_;
  bool closing_ = false;  // the endpoint is being destroyed
  std::unique_ptr<Liveness> liveness_;
  std::unique_ptr<LocalDelivery> local_delivery_;
  std::unique_ptr<Transport> transport_;
};

}  // namespace troupe::rpc

#include "endpoint/core_inline.hpp"
