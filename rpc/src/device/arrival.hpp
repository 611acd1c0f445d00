#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
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
    std::size_t lane = 0;     ///< whose stream copies
    std::uint64_t lease = 0;  ///< not 0: it lies in a slab of the peer's
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
    bool needs_mapping() const { return lease != 0 && !mapping; }
  };

  /// `into`: where the first tensor is to lie; null: anywhere.
  DeviceArrival(DeviceTensors& devices, TimePoint came, std::shared_ptr<const Tensor> into)
      : devices_(devices), came_(came), into_(std::move(into)) {}

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
  /// After all that has been given.
  Result<std::vector<Event>> events();
  /// Once they have passed: the message, with its tensors where they are to be. What is left of a request's
  /// time has run since it came.
  std::unique_ptr<InMessage> finish(TimePoint now);
  std::vector<std::uint64_t> leases() const;

 private:
  Result<void> choose(Piece& piece, const PeerDevices* from, std::uint8_t gpu, std::uint8_t target) const;
  Result<void> find_place(Piece& piece);
  Result<void> find_source(Piece& piece);
  Result<bool> advance(Piece& piece);

  DeviceTensors& devices_;
  const TimePoint came_;
  const std::shared_ptr<const Tensor> into_;
  std::unique_ptr<InMessage> message_;
  std::vector<Piece> pieces_;
};

}  // namespace troupe::rpc
