#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include <troupe/kernels/place.hpp>
#include <troupe/kernels/product.hpp>
#include <troupe/runtime/buffer.hpp>
#include <troupe/runtime/gpu.hpp>
#include <troupe/runtime/gpu_memory.hpp>
#include <troupe/runtime/result.hpp>

namespace troupe::gpt {

/// Where a model computes: the host, or a GPU with a stream of its own. One thread at a time.
class Machine {
 public:
  /// "cpu", "cuda" or "cuda:1". kInvalidArgument for other words; else why there is no such GPU.
  static Result<std::unique_ptr<Machine>> open(const std::string& device);
  ~Machine();
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  kernels::Place place() const { return place_; }
  bool on_gpu() const { return place_.on_gpu(); }
  const kernels::Products& products() const { return *products_; }
  void* product_workspace() const { return workspace_.data(); }

  /// Memory of the machine, 512-byte aligned on a GPU and 64-byte aligned on the host, filled with zeros.
  Result<Buffer> allocate(std::size_t bytes);
  /// Memory of the host from which upload() does not wait.
  Result<Buffer> allocate_staging(std::size_t bytes);
  /// In the order of the stream; `from` may change when `event()` of after this has passed, or at once on the
  /// host.
  void upload(void* to, const void* from, std::size_t bytes);
  /// Zeros, in the order of the stream.
  void clear(void* to, std::size_t bytes);
  /// Waits for what was given, and for the copy.
  Result<void> download(void* to, const void* from, std::size_t bytes);
  /// The point after all that was given so far; has passed on the host.
  Event event();

  /// Notes what became of a kernel. The first error is kept, and answered by status() and finish().
  void give(const kernels::Launch& launch, std::string_view what = {});
  /// From now on waits for each kernel, and adds up how long it took; that of waiting itself is part of it.
  void profile();
  bool profiles() const { return profile_.has_value(); }
  struct Spent {
    double seconds = 0;
    std::uint64_t times = 0;
  };
  /// By kernel, and by what was said with it.
  std::map<std::string, Spent> profiled() const {
    return profile_ ? profile_->spent : std::map<std::string, Spent>();
  }
  const Result<void>& status() const { return status_; }
  /// Waits until all that was given is done.
  Result<void> finish();
  /// The most memory that was in use on a GPU.
  std::size_t peak_bytes() const;

 private:
  Machine() = default;
  Result<void> open_gpu(int ordinal);
  void note(Result<void> outcome);

  struct OnGpu {
    explicit OnGpu(const Gpu& opened, Stream made)
        : gpu(opened), stream(std::move(made)), pool(gpu), pinned(gpu, {.kind = MemoryKind::kPinned}) {}
    Gpu gpu;
    Stream stream;
    GpuPool pool;
    GpuPool pinned;
  };
  struct Profile {
    std::chrono::steady_clock::time_point last;  // until when time is accounted for
    std::map<std::string, Spent> spent;
  };
  std::optional<OnGpu> gpu_;
  std::optional<Profile> profile_;
  kernels::Place place_ = kernels::Place::host();
  std::unique_ptr<kernels::Products> products_;
  Buffer workspace_;
  Result<void> status_;
};

}  // namespace troupe::gpt
