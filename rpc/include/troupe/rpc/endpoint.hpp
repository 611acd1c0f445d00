#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <troupe/rpc/call.hpp>
#include <troupe/rpc/transport.hpp>
#include <troupe/runtime/gpu.hpp>
#include <troupe/runtime/loop.hpp>
#include <troupe/runtime/memory_pool.hpp>

namespace troupe::rpc {

/// What a callee remembers of calls with a token, for each caller's node: its latest answers, up to these
/// bounds. A repeat that comes later runs again.
struct AnswerLimits {
  std::uint32_t answers = 1 << 16;
  std::size_t bytes = std::size_t{64}
                      << 20;               ///< an answer of more than half of it is not kept; repeats hear so
  Duration time{std::chrono::minutes(3)};  ///< from the answer on
  std::uint32_t callers = 1 << 12;         ///< nodes of which anything is remembered
  /// Of all callers together; past it those that have most give up their oldest.
  std::size_t total_bytes = std::size_t{1} << 30;
};

/// How much may be open, on its way and waiting. Past it calls end with kResourceExhausted.
struct CallLimits {
  std::uint32_t max_open_calls = 1 << 18;              ///< of this endpoint; past it calls are refused
  std::uint32_t max_inbound_calls = 1 << 18;           ///< unanswered calls of others, likewise
  std::uint32_t max_inbound_calls_per_peer = 1 << 16;  ///< those of one node that have begun, likewise
  // To one peer. Past the first bounds messages wait here, past the second ones calls are refused.
  std::uint32_t max_calls_in_flight = 1 << 14;  ///< sent and not answered
  /// Of long messages; as much again of short ones, and of one-way messages. Calls count until they are
  /// answered, one-way messages until their handlers are done there, others until they have left. Each counts
  /// kRequestBytes beside its own.
  std::size_t max_bytes_in_flight = std::size_t{1} << 30;
  std::uint32_t max_calls_waiting = 1 << 14;
  std::size_t max_bytes_waiting = std::size_t{1} << 30;
  // From one peer. While more bytes of answers than this wait to leave, its further requests are not begun.
  std::size_t max_answer_bytes = std::size_t{64} << 20;
  /// Its requests that are not answered, begun or not, each with kRequestBytes beside its own: past this
  /// bound nothing is read from it. A peer that keeps to its own bounds above stays below, if they are no
  /// more than a third of it.
  std::size_t max_inbound_bytes = std::size_t{3} << 30;
  /// None longer is sent; one that comes closes its link.
  std::size_t max_message_bytes = std::size_t{16} << 30;
};

/// What a request is charged for beside its bytes: what its callee keeps to have it answered.
inline constexpr std::size_t kRequestBytes = 1024;

/// Bytes of a node's name.
inline constexpr std::size_t kMostNodeName = 255;

struct EndpointOptions {
  std::uint64_t node_id = 0;  ///< random, never 0, chosen anew at each start
  std::string node_name;      ///< for messages and logs; what is longer than kMostNodeName is cut off
  std::uint32_t protocol_version = 2;  ///< other than 2 only in tests
  /// Known to all nodes, at least 16 bytes; both sides of each meeting must prove that they know it. Empty:
  /// nothing is proved, and only this machine can be reached.
  std::string secret = {};
  bool secret_is_of_this_machine = false;  ///< other machines do not have it: only this one can be reached
  std::string secret_identity = "secret";  ///< what those who have proved it are called: Peer::identity
  std::uint32_t max_strangers = 256;       ///< links of others on which nothing has been proved yet
  Duration default_timeout{std::chrono::seconds(60)};  ///< at the start: see Endpoint::set_default_timeout()
  Duration handshake_timeout{std::chrono::seconds(5)};
  Duration heartbeat_interval{std::chrono::seconds(1)};
  Duration silence_limit{
      std::chrono::seconds(5)};  ///< a peer that was asked and is silent for so long is dead
  CallLimits limits;
  AnswerLimits answers;
  SharedPool::Limits shared;  ///< of shared_pool(); max_bytes 0: nothing is shared, either way
  /// Those whose tensors may travel; at most 16. What a peer held on a device comes on the first, or on the
  /// one that is the peer's own; without any it comes in host memory.
  std::vector<Gpu> gpus = {};
  /// False: device tensors go through the host's memory also where one GPU reaches the other's memory.
  bool map_gpu_memory = true;
  /// Of host memory that is locked for device tensors on their way. What is to be sent waits where there is
  /// no more; a quarter is left to what is received.
  std::size_t max_pinned_bytes = std::size_t{2} << 30;
  std::uint64_t seed = 0;  ///< of the pauses between attempts; 0: the node id
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
  bool authenticated = false;  ///< it has proved that it knows the shared secret
  std::string way = {};        ///< that data takes, and why not a better one; for people
  std::string identity = {};   ///< as whom the secret has shown it; empty: it has proved nothing

  friend bool operator==(const Peer&, const Peer&) = default;
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
  /// A handler of ours has answered with an error, or has thrown, and it happened here, not where the handler
  /// itself has called. For the log.
  virtual void on_failure(const InboundCall& call, const Error& error) { (void)call, (void)error; }
  /// Calls can go both ways.
  virtual void on_session(SessionId session, const Peer& peer) = 0;
  /// Something threw that the endpoint had called: one of these functions, or a ReplySink. It has ended
  /// there; nobody else is told.
  virtual void on_exception(const Error& error) { (void)error; }
  /// Once for every session that did not end by close(), also for one that was never ready. All its
  /// open calls have been answered already.
  virtual void on_session_closed(SessionId session, const Peer& peer, const Error& error) = 0;
  /// Nothing was heard of a peer, met or not, that is watched (Endpoint::keep_watch) for half the silence
  /// limit, or longer; again in each heartbeat interval, until it is heard or its session ends.
  virtual void on_quiet(SessionId session, const Peer& peer, Duration silence) {
    (void)session, (void)peer, (void)silence;
  }
  /// It is known how device tensors of this peer come here, and, if not in the best way, why; for people.
  virtual void on_device_way(SessionId session, const Peer& peer, const std::string& way) {
    (void)session, (void)peer, (void)way;
  }
  /// A number that goes with each sign of life.
  virtual std::uint64_t news() { return 0; }
  /// A peer's.
  virtual void on_news(SessionId session, std::uint64_t news) { (void)session, (void)news; }
};

/// Calls to and from peers, over one transport, on one loop: meets peers (version check), knows when
/// they die, and gives every call exactly one answer, in time. All functions: with the loop's turn.
class Endpoint final {
 public:
  struct Stats {
    std::uint64_t calls_sent = 0, calls_received = 0, replies_late = 0, deadlines_exceeded = 0;
    std::uint64_t bytes_sent = 0, bytes_received = 0;  ///< envelopes and attachments
    std::uint64_t messages_waited = 0;                 ///< that had to wait for room on the way to a peer
    std::uint64_t calls_refused = 0;                   ///< of ours, because too many waited
    std::uint64_t repeats_answered = 0;  ///< calls of others that had run already, or were running
    std::uint64_t calls_retried = 0;     ///< attempts of ours beyond the first
    std::uint64_t exceptions = 0;        ///< thrown by what was called from here
    std::uint64_t requests_held = 0;     ///< of others, that waited for their answers' room
    std::uint64_t pauses = 0;            ///< times that nothing was read from a peer any more
    // Device tensors to other nodes: those that they copy from our memory, and those that go through the
    // host's.
    std::uint64_t device_mapped = 0, device_staged = 0;
    std::uint64_t device_mapped_bytes = 0, device_staged_bytes = 0;
    std::uint64_t device_waited = 0;   ///< of these, that waited for pinned memory
    std::uint64_t device_arrived = 0;  ///< messages whose device tensors were brought here, and their bytes
    std::uint64_t device_arrived_bytes = 0;
    std::uint64_t device_given_up = 0;  ///< that nobody wanted any more before they were here
    std::uint64_t device_fetched = 0;   ///< tensors of peers that could not be mapped, and were asked for
  };

  /// `loop` and `events` must outlive it.
  Endpoint(Loop& loop, std::unique_ptr<Transport> transport, EndpointOptions options, EndpointEvents& events);
  ~Endpoint();  ///< after shut_down()
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
  /// As whom the peer has been authenticated: what its link has proof of (Transport::peer_identity), or else
  /// Peer::identity. Empty: nothing has been proved, or there is no such session.
  std::string identity_of(SessionId session) const;
  /// See Transport::local_host.
  std::string local_host(SessionId session) const;
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

  Loop& loop() const { return loop_; }
  MemoryPool& pool();
  /// Tensors in it are mapped by peers on this machine, not copied. Any thread.
  SharedPool& shared_pool();
  const EndpointOptions& options() const;
  /// How long calls may take that do not say it: for those that begin from now on. Any thread.
  /// kInvalidArgument: zero or less.
  Result<void> set_default_timeout(Duration timeout);
  Duration default_timeout() const;
  Duration timeout_of(const CallOptions& options) const {
    return options.timeout == kDefaultTimeout ? default_timeout() : options.timeout;
  }
  const Stats& stats() const;
  std::size_t open_calls() const;
  /// Calls of others, and of this endpoint to itself, that are not answered yet.
  std::size_t inbound_calls() const;
  /// Answers of ours that are remembered for repeats (AnswerLimits).
  std::size_t kept_answers() const;
  /// Calls and one-way messages of ours that wait for room, and their bytes; of all peers together.
  struct Waiting {
    std::size_t calls = 0, bytes = 0;
  };
  Waiting waiting() const;
  /// What device tensors take at the moment; zeros without GPUs.
  struct DeviceUse {
    std::size_t pinned_bytes = 0;      ///< locked, in use or kept
    std::size_t messages_waiting = 0;  ///< to be sent, for pinned memory
    std::size_t messages_arriving = 0;
    std::size_t slabs_mapped = 0;  ///< of peers
    std::size_t pool_bytes = 0;    ///< of device memory that what has come lies in
  };
  DeviceUse device_use() const;
  /// What has been counted of calls, made and answered; nothing without EndpointOptions::metrics.
  std::vector<FunctionMetrics> function_metrics();
  /// Null without EndpointOptions::metrics.
  CallMetrics* metrics();

  /// What it is made of, for the parts of rpc/.
  EndpointCore& core() { return *core_; }

 private:
  Loop& loop_;
  std::unique_ptr<EndpointCore> core_;
};

}  // namespace troupe::rpc
