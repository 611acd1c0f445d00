#pragma once

#include <ucp/api/ucp.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <troupe/rpc/transport.hpp>
#include <troupe/runtime/result.hpp>

#include "control/link_table.hpp"
#include "transport/data_plane.hpp"
#include "transport/data_way.hpp"
#include "ucx/context.hpp"

namespace troupe::rpc {

class UcxWorker;

/// A rendezvous that has been announced and not been accepted yet: no memory is given to it, and the
/// sender holds the bytes.
struct Announced {
  Arrival arrival;             // without parts
  std::size_t bytes = 0;       // of parts
  void* descriptor = nullptr;  // UCX's; ours until it is accepted or released
};

/// One link's end on this way.
///
/// UCX wants an endpoint to live as long as any operation on it, so an end whose link is closed
/// lives on, detached, until its last operation has ended; with a peer that died over shared memory
/// that is when the worker goes.
struct UcxEnd final : WayEnd {
  UcxEnd(LinkId link_id, UcxWorker& on) : WayEnd(link_id), worker(&on) {}

  UcxWorker* const worker;
  ucp_ep_h endpoint = nullptr;      // null until open_data()
  std::uint64_t peer_tag = 0;       // under which the peer wants what is sent on this link
  std::uint64_t own_tag = 0;        // ours: the slot of `link`, and bits that only the peer is told
  std::size_t bytes_in_flight = 0;  // in unfinished sends, and waiting
  std::size_t operations = 0;       // unfinished sends and receives
  std::deque<OutFrame> waiting;     // to be sent when the peer is no longer deaf
  std::deque<Announced> announced;  // rendezvous that wait for their turn
  std::size_t receiving = 0;        // rendezvous under way to us
  std::size_t bytes_receiving = 0;  // of those
  bool paused = false;              // no memory is given to long messages, and the peer is asked to wait
  bool peer_deaf = false;           // the peer has paused its side
  bool detached = false;            // the link is closed
  bool over_network = false;        // the peer may be on another machine, or TCP is wanted
  bool address_given = false;       // the peer knows where to send
  bool has_sent = false;            // something whole, and
  bool has_received = false;        // ... the peer, too: UCX has connected both
  std::unique_ptr<UcxEnd> next;     // of those that drain
};

/// What the workers of one transport share.
struct UcxLinks {
  explicit UcxLinks(DataPlane& data_plane) : data(data_plane) {}

  DataPlane& data;
  LinkTable<UcxEnd> ends;
};

/// A ucp worker: the place where UCX's connections meet and are polled.
///
/// UCX calls back from inside ucp_worker_progress(), where nothing that could call UCX again, or take
/// long, may run. Therefore callbacks only note what happened (in DataPlane and in the lists here); the
/// transport acts on it after progress() has returned.
class UcxWorker {
 public:
  /// Lets a worker go: what is unfinished gets a little time, then it is ended; or, where UCX would end the
  /// process for that, parked. Precondition: every end on it is detached.
  struct Retire {
    void operator()(UcxWorker* worker) const;
  };
  using Handle = std::unique_ptr<UcxWorker, Retire>;

  /// A new one, or one that was parked.
  static Result<Handle> create(const TransportOptions& options, UcxLinks& links);
  /// Precondition: can_end(), or it was never started.
  ~UcxWorker();
  UcxWorker(const UcxWorker&) = delete;
  UcxWorker& operator=(const UcxWorker&) = delete;

  /// One round of UCX; returns how much it did.
  int progress();
  int event_fd() const { return event_fd_; }
  bool arm() { return postponed_.empty() && hearing_.empty() && ucp_worker_arm(worker_) == UCS_OK; }

  /// What a peer needs for sending to this worker.
  const std::vector<std::byte>& address() const { return address_; }
  std::size_t max_am_header() const { return max_am_header_; }

  /// Before attach(): memory for the closing of one end more, so that its end needs none.
  void make_room();
  void attach() { ++attached_; }
  Result<void> open(UcxEnd& end, std::span<const std::byte> peer_worker_address);
  /// Precondition: the end is open.
  Result<void> send(UcxEnd& end, OutFrame&& frame);
  /// The end has been paused, or goes on. UCX receives from all peers together, so the peer is asked to
  /// keep its messages, and gets no memory for long ones. Precondition: the end is open.
  void pause(UcxEnd& end);
  /// Ends an end whose link is closed.
  void detach(std::unique_ptr<UcxEnd> end);

  /// Ends of links that live.
  std::size_t attached() const { return attached_; }
  /// Detached ends whose operations, or whose closing, have not ended.
  std::size_t unfinished() const { return draining_count_ + closing_.size(); }
  const TransportOptions& options() const { return options_; }

 private:
  static constexpr std::size_t kTagBytes = sizeof(std::uint64_t);
  /// Active messages: one of the layer above; and a word about the link itself, a byte after the tag.
  static constexpr unsigned kMessageId = 1;
  static constexpr unsigned kWordId = 2;

  /// A message being sent. Everything that UCX reads until the send has ended lives here: header and
  /// parts (and UCX keeps a pointer to the header, too).
  struct SendOperation {
    UcxWorker* worker = nullptr;
    UcxEnd* end = nullptr;
    std::size_t bytes = 0;
    std::vector<Buffer> parts;
    std::vector<ucp_dt_iov_t> pieces;
    Buffer long_header;
    bool is_word = false;  // about the link itself, no message
    alignas(8) std::array<std::byte, kTagBytes + HeadPool::kSmallBytes> short_header;
  };
  /// A message whose parts are being received.
  struct ReceiveOperation {
    UcxWorker* worker = nullptr;
    UcxEnd* end = nullptr;
    Arrival arrival;
    std::size_t bytes = 0;
    std::vector<ucp_dt_iov_t> pieces;
  };
  /// What UCX is told about the bytes of several buffers.
  struct Payload {
    void* data = nullptr;
    std::size_t count = 0;
    ucp_datatype_t type = ucp_dt_make_contig(1);
    std::size_t bytes = 0;
  };

  UcxWorker(const TransportOptions& options, UcxLinks& links) : options_(options), links_(&links) {}
  Result<void> start();

  static ucs_status_t on_message(void* self, const void* header, std::size_t header_size, void* data,
                                 std::size_t size, const ucp_am_recv_param_t* param);
  static void on_sent(void* request, ucs_status_t status, void* operation);
  static void on_received(void* request, ucs_status_t status, std::size_t size, void* operation);

  static ucs_status_t on_word(void* self, const void* header, std::size_t header_size, void* data,
                              std::size_t size, const ucp_am_recv_param_t* param);
  UcxEnd* end_of(std::span<const std::byte> header);
  Result<void> handle(unsigned am_id, ucp_am_recv_callback_t callback);
  Result<void> send_now(UcxEnd& end, OutFrame&& frame);
  Result<void> post(SendOperation& operation, UcxEnd& end, unsigned am_id, std::span<const std::byte> header,
                    const Payload& payload);
  void send_waiting();
  bool receive(std::span<const std::byte> header, void* data, std::size_t size, bool rendezvous);
  void accept_announced(UcxEnd& end);
  void accept_postponed();
  void decline_announced(UcxEnd& end);
  void start_rendezvous(UcxEnd& end, Announced announced);
  void end_receive(ReceiveOperation& operation, ucs_status_t status);
  void end_operation(UcxEnd& end);
  void recycle_sent();
  void close_drained();
  void close_endpoint(const UcxEnd& end);
  void check_closing();
  void finish();
  bool can_end() const;
  static Payload describe(const std::vector<Buffer>& parts, std::vector<ucp_dt_iov_t>& pieces);
  std::span<const std::byte> write_header(SendOperation& operation, std::uint64_t tag,
                                          std::span<const std::byte> head);
  SendOperation& take_send_operation();

  const TransportOptions options_;
  UcxLinks* links_;  // null while parked
  std::unique_ptr<UcxContext> context_;
  ucp_worker_h worker_ = nullptr;
  int event_fd_ = -1;
  std::size_t max_am_header_ = 0;
  std::vector<std::byte> address_;
  bool in_progress_ = false;  // UCX is on the stack

  std::size_t attached_ = 0;
  std::vector<void*> closing_;   // requests for the closing of endpoints that UCX is flushing
  bool half_connected_ = false;  // UCX may be in the middle of connecting to somebody
  unsigned rounds_ = 0;
  std::unique_ptr<UcxEnd> draining_;  // the first of those whose operations have not ended
  std::size_t draining_count_ = 0;
  bool drained_some_ = false;
  std::vector<LinkId> postponed_;  // whose next rendezvous waits for the delivery of a large one
  std::vector<LinkId> hearing_;    // whose peers are no longer deaf

  // Operations are made once and reused; those in flight are in neither list.
  std::deque<SendOperation> sends_;
  std::vector<SendOperation*> free_sends_;
  std::vector<SendOperation*> ended_sends_;  // their buffers wait for being dropped outside of UCX
  std::deque<ReceiveOperation> receives_;
  std::size_t receiving_ = 0;
  std::vector<ReceiveOperation*> free_receives_;
};

}  // namespace troupe::rpc
