#pragma once

#include <cstddef>

#include <troupe/runtime/buffer.hpp>

namespace troupe::rpc {

/// Where bytes are received that go on to a device.
class PartMemory {
 public:
  /// Empty: there is none.
  virtual Buffer part(std::size_t bytes) = 0;

 protected:
  ~PartMemory() = default;
};

}  // namespace troupe::rpc
