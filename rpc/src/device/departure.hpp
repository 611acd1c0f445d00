#pragma once

#include <cstdint>
#include <vector>

#include <troupe/runtime/stream.hpp>
#include <troupe/runtime/tensor.hpp>

#include "device/device_tensors.hpp"

namespace troupe::rpc {

/// How a copy from a device to pinned memory was begun.
struct StagedCopy {
  bool follows = false;  ///< the peer may read it as it comes
  Event written;         ///< else when it has
};
/// `after`: what the copy comes after, besides whoever writes `memory`. An error: it was not begun, and
/// `host` will not be used again.
Result<StagedCopy> begin_staging(DeviceTensors& devices, DeviceLane& lane, Buffer memory, const Buffer& host,
                                 const Event& after, bool may_follow);

/// How the device tensors of one message leave: they stay where they are, for a peer to copy, or are copied
/// to pinned host memory. What is to be waited for before the message may be sent is collected.
class DeviceDeparture {
 public:
  /// What is known of who is to have them.
  struct To {
    const PeerDevices* gpus = nullptr;  ///< null: nothing
    bool may_stay = false;              ///< they may be left where they are, if the peer reaches that
    bool maps = false;                  ///< the peer maps our host memory, and may follow what comes there
  };
  /// `after` may be null.
  DeviceDeparture(DeviceTensors& devices, const To& to, std::uint64_t& next_lease,
                  const troupe::Stream* after)
      : devices_(devices), to_(to), next_lease_(next_lease), stream_(after) {}

  /// For a dense tensor in device memory that is not empty: which then is `tensor` itself, if it stays, or
  /// its copy. `may_stay`: the message has room for what tells where it lies.
  Result<DevicePlace> place(Tensor& tensor, bool may_stay);

  std::vector<Event>& waits() { return waits_; }
  std::uint64_t stayed = 0, staged = 0;  ///< how many did
  std::uint64_t stayed_bytes = 0, staged_bytes = 0;

 private:
  Result<Event> after();
  Result<bool> leave(Tensor& tensor, DeviceLane& lane, DevicePlace& place);
  Result<void> stage(Tensor& tensor, DeviceLane& lane, DevicePlace& place, bool may_share);

  DeviceTensors& devices_;
  const To to_;
  std::uint64_t& next_lease_;
  const troupe::Stream* const stream_;
  Event after_;  // what stream_ has been given so far
  bool recorded_ = false;
  std::vector<Event> waits_;
};

/// What a message keeps of it until it is a frame.
struct DevicePlaces {
  std::vector<DevicePlace> of;  ///< each tensor
  std::vector<Event> waits;
  bool any_stays = false;  ///< or follows
};

}  // namespace troupe::rpc
