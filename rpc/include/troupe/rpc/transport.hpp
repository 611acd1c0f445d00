#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <troupe/runtime/buffer.hpp>
#include <troupe/runtime/clock.hpp>
#include <troupe/runtime/loop.hpp>
#include <troupe/runtime/result.hpp>

namespace troupe::rpc {

/// One transport's name for its connection to one peer. Never reused within a transport; 0 is none.
using LinkId = std::uint64_t;

struct FrameLeases;

/// A message to be sent: an encoded envelope and the bytes that travel beside it. The transport keeps
/// the buffers until it has sent them, and reads them in place.
struct OutFrame {
  Buffer head;                ///< 1 to Transport::Limits::max_head_bytes bytes, host memory
  std::vector<Buffer> parts;  ///< tensors' bytes, in the order of the envelope's attachment table
  std::shared_ptr<FrameLeases> leases = nullptr;  ///< tensors that the peer maps; the endpoint's business
};

/// What a transport tells the layer above. Every function is called on the loop, from inside
/// Transport::poll() or a timer, and never while a vendor's library is on the stack; on_parts() alone
/// is called from vendor callbacks and may only look at the head and allocate.
class TransportEvents {
 public:
  virtual ~TransportEvents() = default;
  /// A link is up: control messages may be sent. `incoming`: the peer dialled.
  virtual void on_link(LinkId link, std::string_view peer_address, bool incoming) = 0;
  /// A control message, whole and in order.
  virtual void on_control(LinkId link, std::span<const std::byte> message) = 0;
  /// A message with `total_bytes` > 0 of parts is coming: fills `parts` with buffers whose sizes add up
  /// to `total_bytes`, into which the transport writes. An error closes the link. `head` is 8-byte aligned.
  virtual Result<void> on_parts(LinkId link, std::span<const std::byte> head, std::size_t total_bytes,
                                std::vector<Buffer>& parts) = 0;
  /// A whole message. `head`'s data is 8-byte aligned. Small messages of one link arrive in order;
  /// large ones (rendezvous) may be overtaken by later small ones.
  virtual void on_frame(LinkId link, Buffer&& head, std::vector<Buffer>&& parts) = 0;
  /// The link is gone: the peer closed it, died, could not be reached, or broke the transport's
  /// protocol. Called once for a link, also for one that never came up; not after close().
  virtual void on_closed(LinkId link, Error error) = 0;
};

/// Carries messages between processes. Each link has two ways through it: *control*, ordered and
/// reliable from the moment of on_link() (a socket, whose end is the sign of the peer's death), and
/// *data*, fast, usable after open_data() on this side.
///
/// A transport belongs to one loop, as one of its sources; all functions: with the loop's turn only.
/// Waiting is the loop's business: no function here waits.
class Transport : public Source {
 public:
  struct Limits {
    std::size_t max_head_bytes = 4096;      ///< longest OutFrame::head
    std::size_t max_control_bytes = 65536;  ///< longest control message
    std::size_t eager_bytes = 8192;         ///< about where sending changes to rendezvous; for tuning
  };
  /// What peers may take before they are known: until admit() of their link.
  struct StrangerBounds {
    std::size_t max_control_bytes = 65536;  ///< a longer message ends the link
    std::size_t max_links = SIZE_MAX;  ///< incoming; more wait with the kernel, and the oldest are given up
    Duration patience{std::chrono::seconds(5)};  ///< who connects and says nothing for so long is given up
    bool this_machine_only = false;              ///< no secret: other machines are neither dialled nor let in
  };

  /// Whoever makes a transport sets the events' receiver before the first dial() or listen().
  virtual void set_events(TransportEvents& events) = 0;
  virtual Limits limits() const = 0;
  virtual void bound_strangers(const StrangerBounds& bounds) = 0;
  /// The layer above knows who is at the other end of the link.
  virtual void admit(LinkId link) = 0;
  /// Whether nothing off this machine is meant, or let in, by dialling or listening at `address`. What is
  /// no address is local; so is a name, because what it stands for is found out when it is dialled: see
  /// StrangerBounds::this_machine_only.
  virtual bool is_local(std::string_view address) const = 0;
  /// Whether there is room for an incoming link: a newcomer must not take what those that are here need.
  virtual bool has_room_for(LinkId link) const {
    (void)link;
    return true;
  }
  /// The number, without a port, of this side's host on the way to the peer; empty: it has none.
  virtual std::string local_host(LinkId link) const {
    (void)link;
    return {};
  }
  /// Whether the peer may be a process of this machine, which could map our memory.
  virtual bool can_share_memory(LinkId link) const {
    (void)link;
    return false;
  }
  /// Who is at the other end, as far as the link has proof of its own; empty: it has none.
  virtual std::string peer_identity(LinkId link) const {
    (void)link;
    return {};
  }
  /// Starts to accept links at `address` ("127.0.0.1:0", "[::1]:4000", "unix:/run/x.sock"; simulated:
  /// any name). Returns the address that others can dial, with the port that was chosen.
  /// kAlreadyExists: in use. kInvalidArgument: not an address. kPermissionDenied.
  virtual Result<std::string> listen(std::string_view address) = 0;
  /// Begins to connect; on_link() or on_closed() follows. A name of a host is looked up, without waiting, and
  /// all its addresses are tried.
  virtual Result<LinkId> dial(std::string_view address) = 0;
  /// Queues a control message. Nothing to wait for: the end of the link is the only failure.
  virtual void send_control(LinkId link, std::span<const std::byte> message) = 0;
  /// What the peer needs to know for sending data to this side of this link; it travels in a control
  /// message of the layer above.
  virtual std::vector<std::byte> data_address(LinkId link) = 0;
  /// Makes the data way usable, with the peer's data_address(). kInvalidArgument: malformed.
  virtual Result<void> open_data(LinkId link, std::span<const std::byte> peer_data_address) = 0;
  /// For people: the way that the link's messages take, and why not a better one. Known when the peer has
  /// opened its side, too.
  virtual std::string describe_way(LinkId) { return {}; }
  /// Sends a message; of the frame nothing is to be used any more. kUnavailable: no such link, or its data
  /// way is not open.
  virtual Result<void> send(LinkId link, OutFrame&& frame) = 0;
  /// Bytes handed to send() on this link that have not left yet.
  virtual std::size_t bytes_in_flight(LinkId link) const = 0;
  /// While on, no message of the link is delivered, and but for little that is under way already none is
  /// received: the peer's sending backs up, and what is not received takes no memory here. Control goes on,
  /// other links do, and so does sending on this one. A link that ends is on no longer: what its peer had
  /// sent is still delivered. Safe for a link that is gone, and from inside each event.
  virtual void pause(LinkId link, bool on) = 0;
  /// Ends a link at once, without on_closed(). What was queued on it may be lost. Safe for a link that
  /// is gone already.
  virtual void close(LinkId link) = 0;
};

/// How the transport of real processes is set up.
struct TransportOptions {
  /// What to use: "auto" (rings in shared memory on one machine; else RDMA by UCX if both machines have it,
  /// or TCP), "shm", "tcp", "ucx" (everything by UCX, over the network), or a list in UCX_TLS's own words
  /// ("rc_x,tcp,self"), with which everything goes by UCX in these ways.
  std::string transports = "auto";
  /// UCX's network devices ("lo", "eth0", a UCX_NET_DEVICES list). Empty: "lo" until listen() or dial() names
  /// another host, so that nothing off this machine can reach a node that listens on loopback.
  std::string net_devices = {};

  bool operator==(const TransportOptions&) const = default;
};

/// The transport of real processes; adds itself to `loop`'s sources while it lives.
/// kUnavailable: UCX is needed and cannot be set up so; the message says what it offers instead.
Result<std::unique_ptr<Transport>> make_process_transport(Loop& loop, const TransportOptions& options = {});

}  // namespace troupe::rpc
