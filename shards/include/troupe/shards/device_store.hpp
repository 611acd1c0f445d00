#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include <troupe/runtime/gpu.hpp>
#include <troupe/runtime/gpu_memory.hpp>
#include <troupe/runtime/stream.hpp>
#include <troupe/shards/row_store.hpp>

namespace troupe::shards {

/// Where the tables of a GPU lie, and what they share. A value that is handed on.
struct DeviceHome {
  Gpu gpu;
  std::shared_ptr<GpuPool> memory;  ///< of the device
  std::shared_ptr<GpuPool> pinned;  ///< of the host
  /// Tells the loop that has the tables when the device has got there, and goes with the last of those who
  /// have this, on the loop. Null: who wants to be told waits.
  std::shared_ptr<EventWatch> watch = nullptr;
  std::size_t slab_bytes = std::size_t{16} << 20;  ///< rows are had by so much memory at a time
  /// Large requests go to the device in pieces of so many bytes of rows.
  std::size_t piece_bytes = std::size_t{4} << 20;
  /// Tests: runs what is no copy on the host, when `stream` gets there. Null: kernels run on the GPU.
  std::function<void(const Stream& stream, std::function<void()> work)> on_host = nullptr;

  /// With pools of its own.
  static DeviceHome of(const Gpu& gpu, std::shared_ptr<EventWatch> watch = nullptr);
};

/// Makes stores of rows in a GPU's memory, each with a stream of its own. What they do is done in the order
/// in which it was asked for; reads end when the device has got there, all else can be taken for done at
/// once. What is asked at once is what cannot be known otherwise: extract, erase, evict and open_cut wait
/// for the device, read_cut for a copy that was begun before. kInvalidArgument for a table whose optimizer
/// has no step for devices; kResourceExhausted; kInternal once the device has failed.
MakeRowStore make_device_stores(DeviceHome home);

/// The same for tables larger than that memory: of an embedding table the rows that were used lately, up to
/// so many bytes a table, lie there, the others in the host's. Dense tables lie there whole.
MakeRowStore make_tiered_stores(DeviceHome home, std::uint64_t device_bytes);

}  // namespace troupe::shards
