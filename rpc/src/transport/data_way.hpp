#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include <troupe/rpc/transport.hpp>
#include <troupe/runtime/buffer.hpp>
#include <troupe/runtime/result.hpp>

namespace troupe::rpc {

/// Two 64-bit words of which nobody knows both but we and, once it is told, the peer.
using Token = std::array<std::uint64_t, 2>;

/// A link that has come up, as the ways see it.
struct LinkFacts {
  LinkId link = 0;
  bool incoming = false;  ///< the peer dialled
  bool is_local = false;  ///< the two have met through an address that no other machine can have
  Token token{};          ///< of this link; its lowest bits are the link's slot
};

/// A link's end on one way. The way owns it.
struct WayEnd {
  explicit WayEnd(LinkId of) : link(of) {}
  const LinkId link;

 protected:
  ~WayEnd() = default;
};

/// Names a way in data addresses; the numbers go over the wire.
enum class WayId : std::uint16_t { kSharedMemory = 1, kTcp = 2, kUcx = 3 };

/// A way that the messages of links can take: rings in shared memory, streams over TCP, UCX. A transport has
/// several, in order of preference, and the two ends of a link come to use the same one:
///
/// 1. Each offers what its ways have for the link (offer()), in its data address.
/// 2. Each opens the first way of which the peer has offered something and which can be opened (open()).
/// 3. Where one end may fail and the other not, the way tells the other (agreement()): both use it, or none.
///
/// Whatever arrives goes to DataPlane, or to its events if nothing of a vendor's is on the stack. Loop only;
/// a way belongs to a transport, which polls it.
class DataWay {
 public:
  enum class Agreement : std::uint8_t { kPending, kAgreed, kRefused };

  virtual ~DataWay() = default;
  virtual WayId id() const = 0;
  virtual std::string_view name() const = 0;

  // ---- Links --------------------------------------------------------------------------------------
  /// A link has come up.
  virtual Result<void> add(const LinkFacts& facts) = 0;
  /// What the peer's end of this way needs to know; empty if it cannot be had. Idempotent.
  virtual std::vector<std::byte> offer(LinkId link) = 0;
  /// Opens it, with the peer's offer. kUnimplemented: another way is to be taken, and the peer knows or will
  /// be told. kInvalidArgument: malformed. Others: the link is of no use.
  virtual Result<WayEnd*> open(LinkId link, std::span<const std::byte> peer_offer) = 0;
  /// Whether the peer uses it, too. Of an end that is open.
  virtual Agreement agreement(WayEnd&) { return Agreement::kAgreed; }
  /// Who is at the other end of an open end, as far as the way has proof of its own; empty: it has none.
  virtual std::string_view peer_identity(const WayEnd&) const { return {}; }
  /// Another way has been taken, by both.
  virtual void leave(LinkId link) { remove(link); }
  /// The link has ended. Safe if there is nothing of it.
  virtual void remove(LinkId link) = 0;

  // ---- Messages -----------------------------------------------------------------------------------
  /// Whether it can carry such memory.
  virtual bool can_take(const Buffer& part) const { return part.device().kind != MemoryKind::kDevice; }
  /// Precondition: all parts are such as it can take.
  virtual Result<void> send(WayEnd& end, OutFrame&& frame) = 0;
  virtual std::size_t bytes_in_flight(const WayEnd& end) const = 0;
  /// While on, as little as it can do is received on the link. Safe if there is nothing of it.
  virtual void pause(LinkId link, bool on) = 0;
  /// Delivers what a peer that has left had sent. Safe if there is nothing of the link.
  virtual void drain(LinkId link) = 0;

  // ---- The loop's side ----------------------------------------------------------------------------
  /// Sends and receives what there is; returns how much was done.
  virtual int poll() = 0;
  /// No link uses it, nor has: it need not be polled as long as no link may come to.
  bool resting() const { return resting_; }
  /// Sends what has been collected (DataPlane::collecting).
  virtual void flush() {}
  /// Readable when there is something to do after arm(); -1 if there is no such descriptor.
  virtual int event_fd() const = 0;
  /// Whether event_fd() may always be watched, because it is quiet while the loop polls.
  virtual bool is_quiet() const { return false; }
  /// False: there is something to do already.
  virtual bool arm() = 0;

 protected:
  bool resting_ = false;
};

/// What an offer holds, as one structure.
template <class T>
std::vector<std::byte> bytes_of_offer(const T& offer) {
  const auto* bytes = reinterpret_cast<const std::byte*>(&offer);
  return {bytes, bytes + sizeof offer};
}
template <class T>
Result<T> offer_of_bytes(std::span<const std::byte> bytes) {
  T offer{};
  if (bytes.size() != sizeof offer)
    return Error{Code::kInvalidArgument, "the peer's data address is malformed: an offer has a wrong size"};
  std::memcpy(&offer, bytes.data(), sizeof offer);
  return offer;
}

}  // namespace troupe::rpc
