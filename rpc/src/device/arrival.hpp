#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <vector>

#include <troupe/rpc/message.hpp>
#include <troupe/runtime/stream.hpp>
#include <troupe/runtime/tensor.hpp>

#include "device/device_tensors.hpp"

namespace troupe::rpc {

/// A message whose tensors are on their way into devices of ours, or out of a peer's: examine(), then a
/// mapping for each piece that lies in a peer's device, begin(), then advance() until all has been given to
/// our devices, and when the events have passed, finish().
class DeviceArrival {
 public:
  struct Piece {
    std::size_t number = 0;  ///< among the message's tensors
    std::size_t bytes = 0;
    std::size_t lane = 0;                    ///< whose stream copies
    const troupe::Stream* stream = nullptr;  ///< this one; null: none has been given anything
    std::uint8_t gpu = 0;                    ///< the peer's
    std::uint64_t lease = 0;                 ///< not 0: it lies in a slab of the peer's
    bool asked = false;  ///< the peer was asked for its bytes, because that cannot be mapped
    GpuSlab slab;
    std::uint64_t offset = 0;
    std::shared_ptr<const GpuMapping> mapping;
    Buffer from;                                          ///< else
    Buffer to;                                            ///< empty: it is to be allocated
    bool to_host = false;                                 ///< for a caller who receives into host memory
    bool stays = false;                                   ///< nothing is copied: it is only waited for
    const std::atomic<std::uint64_t>* written = nullptr;  ///< how much has come; null: all
    bool may_copy = false;                                ///< copy engines may be given what it comes in
    std::size_t given = 0;                                ///< bytes, to a device
    bool is_missing() const { return lease != 0 && !mapping && from.empty(); }
  };

  /// `into`: where the first tensor is to lie; null: anywhere. `is_own`: this node has sent it itself.
  DeviceArrival(DeviceTensors& devices, TimePoint came, std::shared_ptr<const Tensor> into, bool is_own)
      : devices_(devices), came_(came), into_(std::move(into)), is_own_(is_own) {}

  /// Whether there is something to be copied. `from`: what is known of the peer's GPUs; null: nothing.
  /// kDataLoss: what is said of its device memory cannot be.
  Result<bool> examine(const InMessage& message, const PeerDevices* from);
  void take(std::unique_ptr<InMessage> message) { message_ = std::move(message); }
  std::vector<Piece>& pieces() { return pieces_; }
  const InMessage& message() const { return *message_; }

  /// kDataLoss: a piece lies outside of its slab.
  Result<void> begin();
  /// Gives to the devices what can be given; true: that was the last.
  Result<bool> advance();
  /// What devices may be at work in is used for nothing else any more.
  void lose_memory();
  /// After all that has been given.
  Result<std::vector<Event>> events();
  /// Once they have passed: the message, with its tensors where they are to be. What is left of a request's
  /// time has run since it came.
  std::unique_ptr<InMessage> finish(TimePoint now);
  std::vector<std::uint64_t> leases() const;
  /// Bytes that take memory of ours.
  std::size_t own_bytes() const;

  enum class Stage : std::uint8_t {
    kPreparing,  ///< slabs are mapped, or bytes asked for
    kGiving,     ///< devices are given copies, or have been
    kEnded,
  };
  Stage stage = Stage::kPreparing;
  bool is_mapping = false;  ///< a slab is being mapped for it
  /// Nobody wants it any more: what devices have been given they do, and nothing more.
  void give_up() { given_up_ = true; }
  bool given_up() const { return given_up_; }
  /// When nobody will want it any more; never: that is told.
  TimePoint deadline() const;
  std::list<Arriving>::iterator place;  ///< in the list of all

 private:
  Result<void> choose(Piece& piece, const PeerDevices* from, std::uint8_t gpu, std::uint8_t target) const;
  Result<void> find_place(Piece& piece);
  Result<void> find_source(Piece& piece);
  Result<bool> advance(Piece& piece);
  const troupe::Stream& stream_of(Piece& piece) const;

  DeviceTensors& devices_;
  const TimePoint came_;
  const std::shared_ptr<const Tensor> into_;
  const bool is_own_;
  std::unique_ptr<InMessage> message_;
  std::vector<Piece> pieces_;
  bool given_up_ = false;
};

}  // namespace troupe::rpc
