#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <troupe/rpc/endpoint.hpp>

#include "calls/inbound_calls.hpp"
#include "control/proof.hpp"
#include "session/begun_messages.hpp"
#include "session/flow_queue.hpp"
#include "session/leaving_answers.hpp"
#include "session/liveness.hpp"
#include "session/one_way_bytes.hpp"
#include "session/session_memory.hpp"

namespace troupe::rpc {

struct EndedSession;
using EndedSessions = std::list<std::shared_ptr<EndedSession>>;

/// Of the envelope and its attachments, and of device tensors that go another way.
inline std::size_t bytes_of(const OutFrame& frame) {
  std::size_t bytes = frame.head.size();
  for (const Buffer& part : frame.parts) bytes += part.size();
  if (frame.leases) [[unlikely]]
    bytes += frame.leases->device_bytes;
  return bytes;
}

/// What a message is to the bounds on what is on its way to a peer.
enum class Flow : std::uint8_t {
  kCall,    // takes one of the peer's places until it is answered
  kOneWay,  // waits behind the calls made before it, and for others of its kind to be done there
  kReply,   // answers and items of streams: never refused, and never behind a call that waits for an answer
  kUrgent,  // short, and makes room: never waits
};

/// A peer: one link, what both sides have said on it so far, what each has open with the other, what waits to
/// be sent, and what each reads of the other's memory. It ends with the link; who may have ended it meanwhile
/// (any handler may) asks the endpoint for it again. Loop only.
class Session {
 public:
  enum class State : std::uint8_t {
    kDialling,  // the link is not up yet
    kGreeting,  // there is a secret: waiting for the other's greeting or challenge
    kProving,   // waiting for the other's proof
    kMeeting,   // waiting for the other's hello
    kOpening,   // hello came, our data way is open; waiting for the other's `ready`
    kReady,     // calls flow
  };

  /// `peer` is what is known of it: its address, and who dialled.
  Session(EndpointCore& endpoint, LinkId link, Peer peer);
  ~Session() = default;
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  LinkId id() const { return link_; }
  const Peer& peer() const { return peer_; }
  const std::string& name() const { return peer_.node_name.empty() ? peer_.address : peer_.node_name; }
  State state() const { return state_; }
  bool ready() const { return state_ == State::kReady; }
  /// Whether messages may come from it: it may be ready before this side is.
  bool met() const { return state_ >= State::kOpening; }

  // ---- Meeting (admission.cpp, session.cpp). What goes wrong ends the session. -----------------------
  /// The link is up.
  void begin_meeting();
  void on_control(std::span<const std::byte> message);
  /// The last words, to whom hello may be said.
  void say_goodbye(const Error& why);

  // ---- What is sent (flow.cpp) -----------------------------------------------------------------------
  /// Sends it, or keeps it until there is room. `call` is what it makes, if any; a message that makes none
  /// is not worth sending after `deadline`.
  Result<void> send(OutFrame&& frame, std::size_t bytes, Flow flow, OpenCall* call, TimePoint deadline);
  /// A call gives its place back.
  void end_of_flow(OpenCall& call);
  /// Whether something waits that may be sent now; then sends that one. `next` may have ended the session.
  bool send_next();
  const FlowQueue& queue() const { return queue_; }
  /// The peer has said how many bytes of one-way messages are done. False: there are not so many.
  [[nodiscard]] bool on_done(std::uint64_t bytes) { return one_way_.note_told(bytes); }

  // ---- What comes (budget.cpp) -----------------------------------------------------------------------
  /// Begins a request, or holds it. Asked for each one: counters only, while all is well.
  void take_in(InboundCallPtr call);
  /// Whether so much waits to leave that no more answers are to be made.
  bool answers_wait();
  /// Device memory for a request of the peer's that is on its way there; and no more, or it has become a
  /// call.
  void begin_arrival(std::size_t bytes);
  void end_arrival(std::size_t bytes) { arriving_bytes_ -= bytes; }
  /// Reads from the peer again, if there is room.
  void resume_if_due();
  /// One-way messages of the peer (one_way.cpp): so many bytes are done; it asks to be told; it is told now,
  /// if it is to be.
  void note_done(std::size_t bytes);
  void on_ask_done(std::uint64_t at);
  bool tell_done();
  /// Whether the endpoint's pump must look after it.
  bool has_waiting() const {
    return !queue_.empty() || !calls.held.empty() || paused_ || one_way_.must_tell();
  }

  // ---- Memory that is mapped instead of copied -------------------------------------------------------
  SessionMemory& memory() { return memory_; }
  /// Leases that have come back from our own readers go back to the peer.
  void return_leases();
  /// Tells the peer what of its device memory is mapped here.
  void tell_reaches();
  /// Tells the peer that slabs of ours have gone.
  void tell_slabs_gone(std::span<const std::uint64_t> slabs);
  /// False: the message is no list of leases.
  [[nodiscard]] bool take_back_leases(const InMessage& message);

  PeerCalls calls;               ///< what is open
  BegunMessages begun_messages;  ///< whose parts are on their way

  // ---- Life and death (liveness.cpp) -----------------------------------------------------------------
  TimePoint begun{};
  SignsOfLife life;
  /// Whether anything of ours is open with it.
  bool is_waited_for() const { return calls_in_flight_ > 0 || !queue_.empty() || !calls.streams.empty(); }
  bool pumped = false;  ///< the endpoint's pump looks after it
  EndedSessions place;  ///< one, kept for its end, which needs no memory then

 private:
  /// A greeting or a challenge, as it came.
  struct Greeting {
    std::uint16_t scheme = 0;
    std::uint64_t node_id = 0;
    std::span<const std::byte> nonce;
  };
  void end(Error why);
  void refuse(Error why);
  void on_greeting(const Greeting& greeting, bool challenge);
  void send_proof();
  void on_proof(std::span<const std::byte> claimed);
  void send_hello();
  void on_hello(const Peer& peer, std::span<const std::byte> data_address, std::uint32_t version);
  void on_ready();
  void on_heartbeat(std::uint64_t news);
  void open_peer_memory();
  /// False: the peer says what it may not.
  bool on_reaches(std::vector<Reach> reaches);

  bool can_go(Flow flow, std::size_t bytes) const;
  bool may_send(Flow flow, std::size_t bytes) const;
  bool may_call(std::size_t bytes) const;
  Result<void> send_now(OutFrame&& frame, std::size_t bytes, Flow flow);
  void begin_flow(OpenCall& call, std::size_t bytes);
  void end_of_wait(OpenCall& call);
  Result<void> wait_for_room(OutFrame&& frame, Flow flow, std::size_t bytes, OpenCall* call,
                             TimePoint deadline);
  void send_first_of(FlowQueue::Lane lane);
  Result<void> send_one_way(OutFrame&& frame, std::size_t bytes);
  bool ask_for_room(std::size_t bytes);
  bool ask_done(std::uint64_t at);

  bool owes_too_much() const;
  void pause();

  EndpointCore& endpoint_;
  const LinkId link_;
  State state_ = State::kDialling;
  Peer peer_;
  MeetingTerms terms_;                 // what has been said before the hello
  std::uint32_t calls_in_flight_ = 0;  // sent and not answered
  std::size_t short_call_bytes_ = 0;   // of these
  std::size_t long_call_bytes_ = 0;    // likewise
  OneWayBytes one_way_;                // of messages that nobody answers
  FlowQueue queue_;                    // what waits for room, or for kReady
  LeavingAnswers leaving_;             // what is on its way to the peer
  std::size_t arriving_bytes_ = 0;     // of requests whose tensors are on their way to a device
  bool paused_ = false;                // nothing is read from it
  bool probe_told_ = false;            // it was told where our memory is, and may have opened it
  SessionMemory memory_;               // tensors that are mapped instead of copied
};

}  // namespace troupe::rpc
