#pragma once

#include <cstddef>
#include <memory>

#include <troupe/rpc/call.hpp>
#include <troupe/runtime/timer.hpp>

namespace troupe::rpc {

class DeviceArrival;

/// A message that is an arrival: whose, and until when. Loop only.
struct Arriving {
  SessionId session = kLocal;
  std::shared_ptr<DeviceArrival> arrival;
  std::size_t counted = 0;  ///< bytes for which the peer is charged
  /// Memory of a call that has ended, in which devices may still write.
  std::shared_ptr<const Tensor> claimed = {};
  Timer late = {};  ///< at the caller's deadline
};

}  // namespace troupe::rpc
