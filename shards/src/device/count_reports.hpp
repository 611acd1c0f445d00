#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include <troupe/kernels/row_index.hpp>

#include "device/device_work.hpp"

namespace troupe::shards {

/// What the device tells of how many rows there are, later than they are made.
class CountReports {
 public:
  static Result<std::unique_ptr<CountReports>> create(DeviceWork& work);
  kernels::RowCounts* on_device() const { return reinterpret_cast<kernels::RowCounts*>(device_.data()); }
  /// As of the last report that has come.
  const kernels::RowCounts& known();
  /// Keys that may have got rows since.
  std::uint64_t under_way();
  /// So many keys are about to be given to the device: they count until it has told of what came of them.
  void expect(std::uint64_t keys) { unasked_ += keys; }
  /// Has it told what it has after all so far: the point at which it has. If that fails, the next time will
  /// do.
  Result<Event> ask();
  /// Waits for all so far to be told.
  Result<void> wait();

 private:
  struct Asked {
    std::size_t place;
    std::uint64_t keys;
    Event told;
  };
  explicit CountReports(DeviceWork& work) : work_(work) {}
  void look();
  kernels::RowCounts* place(std::size_t index) const {
    return reinterpret_cast<kernels::RowCounts*>(pinned_.data()) + index;
  }

  DeviceWork& work_;
  Buffer device_, pinned_;
  std::vector<Asked> asked_;   // in the order in which they were asked; room for all that there may be
  std::uint64_t unasked_ = 0;  // keys
  std::size_t next_ = 0;
  kernels::RowCounts known_;
};

}  // namespace troupe::shards
