#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <troupe/rpc/call.hpp>
#include <troupe/rpc/transport.hpp>
#include <troupe/runtime/loop.hpp>
#include <troupe/runtime/memory_pool.hpp>
#include <troupe/runtime/random.hpp>

namespace troupe::rpc {

class Answers;
namespace detail {
class StreamSink;
}

/// What a callee remembers of calls with a token, for each caller's node: its latest answers, up to these
/// bounds. A repeat that comes later runs again.
struct AnswerLimits {
  std::uint32_t answers = 1 << 16;
  std::size_t bytes = std::size_t{64}
                      << 20;               ///< an answer of more than half of it is not kept; repeats hear so
  Duration time{std::chrono::minutes(3)};  ///< from the answer on
  std::uint32_t callers = 1 << 12;         ///< nodes of which anything is remembered
};

/// How much may be open, on its way and waiting. Past it calls end with kResourceExhausted.
struct CallLimits {
  std::uint32_t max_open_calls = 1 << 18;     ///< of this endpoint; past it calls are refused
  std::uint32_t max_inbound_calls = 1 << 18;  ///< unanswered calls of others, likewise
  // To one peer. Past the first bounds messages wait here, past the second ones calls are refused.
  std::uint32_t max_calls_in_flight = 1 << 14;             ///< sent and not answered
  std::size_t max_bytes_in_flight = std::size_t{1} << 30;  ///< of long messages; as much again of short ones
  std::uint32_t max_calls_waiting = 1 << 14;
  std::size_t max_bytes_waiting = std::size_t{1} << 30;
  /// None longer is sent; one that comes closes its link.
  std::size_t max_message_bytes = std::size_t{16} << 30;
};

struct EndpointOptions {
  std::uint64_t node_id = 0;           ///< random, never 0, chosen anew at each start
  std::string node_name;               ///< for messages and logs
  std::uint32_t protocol_version = 1;  ///< other than 1 only in tests
  /// Known to all nodes, at least 16 bytes; both sides of each meeting must prove that they know it. Empty:
  /// nothing is proved, and only this machine can be reached.
  std::string secret = {};
  std::uint32_t max_strangers = 256;  ///< links of others on which nothing has been proved yet
  Duration default_timeout{std::chrono::seconds(60)};
  Duration handshake_timeout{std::chrono::seconds(5)};
  Duration heartbeat_interval{std::chrono::seconds(1)};
  Duration silence_limit{
      std::chrono::seconds(5)};  ///< a peer that was asked and is silent for so long is dead
  CallLimits limits;
  AnswerLimits answers;
  SharedPool::Limits shared;  ///< of shared_pool(); max_bytes 0: nothing is shared, either way
  std::uint64_t seed = 0;     ///< of the pauses between attempts; 0: the node id
  Tracer* tracer =
      nullptr;          ///< makes spans of calls; null: contexts are only passed on. Outlives the endpoint.
  bool metrics = true;  ///< calls are counted by function: see Endpoint::function_metrics()
};

/// Who is at the other end of a session.
struct Peer {
  std::uint64_t node_id = 0;
  std::string node_name;
  std::string address;  ///< as dialled, or as seen when it dialled
  bool incoming = false;
  std::string way = {};  ///< that data takes, and why not a better one; for people
};

/// What an endpoint tells the layer above, on the loop. These functions may make calls and end sessions,
/// but not destroy the endpoint.
class EndpointEvents {
 public:
  virtual ~EndpointEvents() = default;
  virtual void on_call(InboundCallPtr call) = 0;
  /// Whether this method of an actor of ours can be called without a message, by callers who mean `type`:
  /// see MethodTable::Entry::direct_type.
  virtual bool takes_directly(std::uint64_t actor, std::uint64_t method, const void* type) {
    (void)actor, (void)method, (void)type;
    return false;
  }
  /// For traces: who is called. Asked only for calls that are sampled; valid until this is asked again.
  virtual CallNames names_of(const CallTarget& target, std::uint64_t method) {
    (void)target, (void)method;
    return {};
  }
  /// Whether a session with this peer, which has just said who it is, may begin; the error is the refusal
  /// that it gets.
  virtual Result<void> may_meet(const Peer& peer) {
    (void)peer;
    return {};
  }
  /// Calls can go both ways.
  virtual void on_session(SessionId session, const Peer& peer) = 0;
  /// Once for every session that did not end by close(), also for one that was never ready. All its
  /// open calls have been answered already.
  virtual void on_session_closed(SessionId session, const Peer& peer, const Error& error) = 0;
  /// Nothing was heard of a peer that is watched (Endpoint::keep_watch) for half the silence limit, or
  /// longer; again in each heartbeat interval, until it is heard or its session ends.
  virtual void on_quiet(SessionId session, const Peer& peer, Duration silence) {
    (void)session, (void)peer, (void)silence;
  }
  /// A number that goes with each sign of life.
  virtual std::uint64_t news() { return 0; }
  /// A peer's.
  virtual void on_news(SessionId session, std::uint64_t news) { (void)session, (void)news; }
};

/// Calls to and from peers, over one transport, on one loop: meets peers (version check), knows when
/// they die, and gives every call exactly one answer, in time. All functions: with the loop's turn.
class Endpoint final : private TransportEvents {
 public:
  struct Stats {
    std::uint64_t calls_sent = 0, calls_received = 0, replies_late = 0, deadlines_exceeded = 0;
    std::uint64_t bytes_sent = 0, bytes_received = 0;  ///< envelopes and attachments
    std::uint64_t messages_waited = 0;                 ///< that had to wait for room on the way to a peer
    std::uint64_t calls_refused = 0;                   ///< of ours, because too many waited
    std::uint64_t repeats_answered = 0;  ///< calls of others that had run already, or were running
    std::uint64_t calls_retried = 0;     ///< attempts of ours beyond the first
  };

  /// `loop` and `events` must outlive it.
  Endpoint(Loop& loop, std::unique_ptr<Transport> transport, EndpointOptions options, EndpointEvents& events);
  ~Endpoint() override;  ///< after shut_down()
  /// Says goodbye on every session, answers what is open with kCancelled, as any call made from then on, and
  /// takes no more sessions. Idempotent.
  void shut_down();
  Endpoint(const Endpoint&) = delete;
  Endpoint& operator=(const Endpoint&) = delete;

  /// See Transport::listen. kFailedPrecondition: other machines can reach `address`, and there is no secret.
  /// kInvalidArgument: the secret is too short.
  Result<std::string> listen(std::string_view address);
  /// A session to whoever listens at `address`. Calls may be made at once; they wait for the meeting.
  /// Errors as for listen().
  Result<SessionId> connect(std::string_view address);
  /// Ends a session, telling the peer `why`; its open calls are answered with that error.
  void close(SessionId session, const Error& why);
  /// close() for every session with this node.
  void close_all_with(std::uint64_t node_id, const Error& why);
  /// This node will never call again: what is kept for repeats of its calls is given up.
  void forget_caller(std::uint64_t node_id);
  /// Whether the peer of this session is asked for signs of life also while no call is open on it.
  void keep_watch(SessionId session, bool on);
  /// Somebody has heard nothing of this peer for `silence`: it is asked at once. If it stays silent it is
  /// judged as if it had been silent for so long here, but not before it had a quarter of the silence limit
  /// to answer in.
  void suspect(SessionId session, Duration silence);
  const Peer* peer(SessionId session) const;
  bool ready(SessionId session) const;

  /// Makes a call. `body` is run before call() returns, or not at all. Returns its id, for cancel(). If too
  /// much is on its way to the peer already the call waits in a queue, in order, within its deadline.
  /// Every outcome comes through `sink`: the reply, or kUnavailable (no such session, or it ended),
  /// kDeadlineExceeded, kResourceExhausted (too much is open or waits: slow down), kCancelled,
  /// kInvalidArgument (the arguments do not fit in a message). Within a handler the call becomes part of the
  /// one that is answered (unless detached): ends with it, and no later.
  std::uint64_t call(CallTarget target, MethodId method, const CallOptions& options, const BodyWriter& body,
                     ReplySink& sink);
  /// Like call(), without an answer. The error says only that it could not be sent.
  Result<void> send(CallTarget target, MethodId method, const CallOptions& options, const BodyWriter& body);
  /// Where the callee of a call is at the moment, asked before each attempt.
  using FindTarget = std::function<Result<CallTarget>()>;
  /// Makes a call that is repeated as options.retry says. kInvalidArgument: it has no token. Else as call().
  std::uint64_t call_with_retries(FindTarget find, MethodId method, const CallOptions& options,
                                  const BodyWriter& body, ReplySink& sink);
  /// Answers an open call with kCancelled and tells the callee that nobody waits for it.
  void cancel(std::uint64_t call_id);
  bool is_open(std::uint64_t call_id) const;

  Loop& loop() { return loop_; }
  MemoryPool& pool() { return pool_; }
  /// Tensors in it are mapped by peers on this machine, not copied. Any thread.
  SharedPool& shared_pool() { return shared_pool_; }
  const EndpointOptions& options() const { return options_; }
  const Stats& stats() const { return stats_; }
  std::size_t open_calls() const { return open_calls_; }
  /// Calls and one-way messages of ours that wait for room, and their bytes; of all peers together.
  struct Waiting {
    std::size_t calls = 0, bytes = 0;
  };
  Waiting waiting() const;
  /// What has been counted of calls, made and answered; nothing without EndpointOptions::metrics.
  std::vector<FunctionMetrics> function_metrics();
  /// Null without EndpointOptions::metrics.
  CallMetrics* metrics() { return metrics_.get(); }

 private:
  friend class InboundCall;
  friend class detail::StreamSource;
  friend class detail::StreamSink;
  struct Session;
  struct OpenCall;
  class RetryingCall;
  class FlowPump;
  enum class Flow : std::uint8_t;
  class Liveness;
  struct LocalDelivery;
  struct Greeting;

  void on_link(LinkId link, std::string_view peer_address, bool incoming) override;
  void on_control(LinkId link, std::span<const std::byte> message) override;
  Result<void> on_parts(LinkId link, std::span<const std::byte> head, std::size_t total_bytes,
                        std::vector<Buffer>& parts) override;
  void on_frame(LinkId link, Buffer&& head, std::vector<Buffer>&& parts) override;
  const Tensor* destination(LinkId link, std::span<const std::byte> head);
  void on_closed(LinkId link, Error error) override;

  Session* find(SessionId session);
  Session* look_up(SessionId session);
  Result<void> may_meet_at(std::string_view address) const;
  void expect_strangers();
  void begin_meeting(Session& session);
  void on_greeting(Session& session, const Greeting& greeting, bool challenge);
  void send_proof(Session& session);
  void on_proof(Session& session, std::span<const std::byte> claimed);
  void refuse(Session& session, Error why);
  void send_hello(Session& session);
  void on_hello(Session& session, const Peer& peer, std::span<const std::byte> data_address,
                std::uint32_t version);
  void on_ready(Session& session);
  void on_heartbeat(Session& session, std::uint64_t news);
  void attend(Session& session);
  /// Ends a session: answers its calls, tells the layer above.
  void end_session(SessionId session, Error error, bool tell);
  void fail_calls(SessionId session, const Error& error);

  Result<void> send_frame(SessionId session, OutFrame&& frame, Flow flow, OpenCall* call = nullptr,
                          TimePoint deadline = TimePoint::never());
  Result<void> send_now(Session& to, OutFrame&& frame);
  void open_peer_memory(Session& session);
  void on_release(SessionId session, const InMessage& message);
  void return_leases(SessionId session);
  /// The tensors of a message to another process are leased from now on; the peer maps them if it can and
  /// `may_map`.
  void lease_tensors(OutMessage& message, SessionId to, bool may_map);
  bool can_go(const Session& to, Flow flow, std::size_t bytes) const;

  // flow.cpp: what must wait
  bool may_send(const Session& to, Flow flow, std::size_t bytes) const;
  Result<void> wait_for_room(Session& to, OutFrame&& frame, Flow flow, std::size_t bytes, OpenCall* call,
                             TimePoint deadline);
  bool send_waiting(SessionId session);
  using FlowLane = std::uint8_t;
  void send_next(Session& session, FlowLane lane);
  void end_of_flow(OpenCall& call);
  // retrying_call.cpp
  std::uint64_t call_encoded(CallTarget target, OutFrame frame, Duration timeout, Duration remaining,
                             ReplySink& sink, OpenSpan span);
  // answers.cpp: calls with a token
  bool take_repeat(InboundCallPtr& call);
  InboundCall* first_of(const InboundCall& repeat);
  std::uint64_t caller_of(const InboundCall& call);
  void answer_token(InboundCall& call, const BodyWriter& body, bool keep);
  void send_kept(const InboundCall& call, const OutFrame& answer);
  // streams.cpp
  void on_item(SessionId session, std::unique_ptr<InMessage> message);
  void on_credit(SessionId session, const MessageHeader& header);
  void send_credit(std::uint64_t call_id, std::uint64_t items, std::uint64_t bytes);
  void end_streams(SessionId session, const Error& error);

  // tracing.cpp
  TraceContext trace_of(const CallOptions& options) const;
  OpenSpan begin_span(TraceContext& trace, SpanKind kind, const CallTarget& target, const MethodId& method);
  void begin_span(InboundCall& call);
  void end_span(const InboundCall& call, OpenSpan span);
  void end_span(OpenCall& call, const Error* error);
  void end_span(OpenCall& call, Result<std::unique_ptr<InMessage>>& reply);
  void name_span(Span& span, const CallTarget& target, const MethodId& method);
  const std::string* peer_name(SessionId session);

  // What an endpoint sends to itself (local.cpp).
  struct Local {
    std::unique_ptr<InMessage> message;  // or
    InboundCallPtr call;                 // or
    std::unique_ptr<detail::DirectResult> result;
    std::uint64_t call_id = 0;  // whose result it is
  };
  std::uint64_t open_directly(CallTarget target, MethodId method, Duration timeout, const TraceContext& trace,
                              OpenSpan span, const BodyWriter& body, ReplySink& sink,
                              detail::CallScope* scope);
  void answer_directly(std::uint64_t call_id, detail::DirectResult& result);
  Result<void> send_local(OutFrame&& frame);
  class Deeper;
  bool may_deliver() const;
  void wait_local(Local local);
  void give(std::uint64_t call_id, detail::DirectResult& result);
  void deliver_local(Local local);
  void hand_over(Local local);
  void deliver_waiting_local();
  void deliver(SessionId session, std::unique_ptr<InMessage>&& message);
  void on_request(SessionId session, std::unique_ptr<InMessage>&& message);
  void on_reply(SessionId session, std::unique_ptr<InMessage>&& message);
  void send_cancel(CallTarget target, std::uint64_t call_id);
  void on_cancel(SessionId session, std::uint64_t call_id);
  /// Those who call us on `session` want no answer any more to `call_id`, or to anything.
  void cancel_inbound(SessionId session, std::uint64_t call_id);
  static constexpr std::uint64_t kAllCalls = 0;
  Result<std::shared_ptr<detail::CallScope>> join_scope(CallOptions& options) const;
  void answer(InboundCall& call, const BodyWriter& body);
  void answer_error(const InboundCall& call, const Error& error);
  /// `to` matters to those that may have many attachments. `share`: tensors may be mapped there; the frame
  /// then goes nowhere else, and once only.
  Result<OutFrame> encode(const MessageHeader& header, const BodyWriter& body, SessionId to = kElsewhere,
                          bool share = false);
  static constexpr SessionId kElsewhere = UINT64_MAX;
  std::size_t max_head_bytes(SessionId session) const;
  void forget(InboundCall& call);
  void delist(InboundCall& call);

  std::uint64_t open(CallTarget target, MethodId method, const CallOptions& options, const BodyWriter& body,
                     ReplySink& sink, detail::CallScope* scope);
  /// Gives the call a place among the open ones, and sends it. Returns its id; 0: the arguments could not be
  /// encoded, and it has no place. `failure`: why it is not on its way.
  std::uint64_t begin(const MessageHeader& header, CallTarget target, const CallOptions& options,
                      const BodyWriter& body, ReplySink& sink, OpenSpan& span, detail::CallScope* scope,
                      std::optional<Error>& failure);
  // into.cpp: calls that say where their answer is to lie
  Result<void> check_into(const Tensor& into) const;
  void claim_into(const Tensor& into);
  void release_into(const Tensor& into);
  OpenCall& open_call();
  OpenCall* find_call(std::uint64_t call_id);
  void complete(OpenCall& call, Result<std::unique_ptr<InMessage>>&& reply);
  ReplySink& release(OpenCall& call);

  // call_metrics.cpp
  void end_metered(detail::MeteredCall& call, const Result<std::unique_ptr<InMessage>>& reply);
  void begin_metered(InboundCall& call);
  void count_one_way(std::uint64_t method, std::size_t bytes);
  void count_refused(std::uint64_t method, Code code, const ReplySink& sink);

  Loop& loop_;
  EndpointOptions options_;
  EndpointEvents& events_;
  MemoryPool pool_;
  SharedPool shared_pool_;
  std::unique_ptr<CallMetrics> metrics_;
  std::unique_ptr<HeadPool> heads_;  // for short messages of ours
  std::deque<OpenCall> calls_;       // slots; a call's id is its slot and the slot's generation
  std::vector<std::uint32_t> free_calls_;
  std::size_t open_calls_ = 0;
  std::map<const std::byte*, const std::byte*> into_;  // memory that they receive into: begin and end
  InboundCall* inbound_ = nullptr;                     // open calls of others
  std::size_t inbound_calls_ = 0;
  int local_depth_ = 0;              // of deliveries to ourselves in one another
  std::deque<Local> local_waiting_;  // deliveries that were too deep
  std::unordered_map<SessionId, std::unique_ptr<Session>> sessions_;
  Session* last_found_ = nullptr;  // by find(): the next message is likely to be of the same session
  std::unique_ptr<FlowPump> pump_;
  std::size_t long_from_;  // bytes from which a message counts as long: it goes by rendezvous
  std::unique_ptr<Answers> answers_;
  std::unordered_map<std::uint64_t, std::unique_ptr<RetryingCall>> retrying_;
  std::uint64_t next_retrying_ = 0;
  Random random_;  // for pauses between attempts
  std::map<std::pair<SessionId, std::uint64_t>, std::shared_ptr<detail::StreamSource>> streams_;
  Stats stats_;
  bool closing_ = false;  // the endpoint is being destroyed
  std::unique_ptr<Liveness> liveness_;
  std::unique_ptr<LocalDelivery> local_delivery_;
  std::unique_ptr<Transport> transport_;
};

}  // namespace troupe::rpc
