#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <troupe/runtime/buffer.hpp>
#include <troupe/runtime/result.hpp>
#include <troupe/runtime/stream.hpp>

namespace troupe {

struct GpuInfo {
  std::int32_t ordinal = 0;
  std::string name;
  std::size_t memory_bytes = 0;
  int multiprocessors = 0;
  int compute_major = 0;  ///< 9 and 0: compute capability 9.0
  int compute_minor = 0;
};

/// The GPUs that this process may use. kUnimplemented: this Troupe was built without CUDA. kUnavailable:
/// there is no driver, or none that would do, or no GPU; the message says which. Any thread.
Result<std::vector<GpuInfo>> list_gpus();

/// A GPU, with what is shared by all who use it: events to be used again, slabs that pools have left, memory
/// lent by others that may not go back yet. A handle: copies mean the same GPU. Opened once, by main or a
/// test, and handed on. Any thread.
///
/// Work on a GPU fails later than it is asked for. What the driver tells then is a fault of the whole GPU in
/// this process: every later call answers kInternal, naming the kernels that were under way.
class Gpu {
 public:
  /// kOutOfRange: there is no such GPU; else as list_gpus().
  static Result<Gpu> open(std::int32_t ordinal);
  /// On a driver of one's own: tests.
  explicit Gpu(std::unique_ptr<gpu::Driver> driver);

  Device device() const;
  Result<Stream> make_stream() const;
  /// A stream that another library made; it must outlive ours. kInvalidArgument: null, the default stream of
  /// who knows whom.
  Result<Stream> adopt_stream(void* native) const;
  /// kInternal: something that was given to this GPU has failed.
  Result<void> check() const;
  /// Frees slabs that no pool has any more, and lets go of what was lent if its users have passed. The
  /// driver's own freeing waits for all work on the device: not for a path that must be fast. Nothing else
  /// frees slabs: a process that ends without it leaves that to the driver. Returns how many bytes it freed.
  std::size_t release_idle() const;

  const std::shared_ptr<gpu::State>& state() const { return state_; }

 private:
  std::shared_ptr<gpu::State> state_;
};

/// Makes a GPU the calling thread's current device while it lives, for libraries that ask for that one. Ours
/// does not.
class CurrentGpu {
 public:
  explicit CurrentGpu(Gpu gpu);
  ~CurrentGpu();
  CurrentGpu(const CurrentGpu&) = delete;
  CurrentGpu& operator=(const CurrentGpu&) = delete;

 private:
  const Gpu gpu_;
  const int before_;
};

}  // namespace troupe
