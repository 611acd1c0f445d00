#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <troupe/kernels/place.hpp>
#include <troupe/runtime/gpu.hpp>
#include <troupe/runtime/gpu_memory.hpp>

namespace troupe::test {

/// The machine's first GPU, with a stream and memory; nothing, after saying why the test is skipped, where
/// there is none. Gives its memory back at the end.
class RealGpu {
 public:
  static std::unique_ptr<RealGpu> open() {
    auto gpu = Gpu::open(0);
    if (gpu) return std::make_unique<RealGpu>(*gpu);
    MESSAGE("skipped: ", gpu.error().message);
    return nullptr;
  }
  explicit RealGpu(const Gpu& opened)
      : gpu(opened), stream(gpu.make_stream().value()), pool(std::in_place, gpu) {}
  ~RealGpu() {
    CHECK(stream.finish(std::chrono::seconds(60)).ok());
    pool.reset();
    gpu.release_idle();
  }
  RealGpu(const RealGpu&) = delete;
  RealGpu& operator=(const RealGpu&) = delete;

  Gpu gpu;
  Stream stream;
  std::optional<GpuPool> pool;
};

/// A kernel's test for the host.
class OnHost {
 public:
  bool here() const { return true; }
  kernels::Place place() const { return kernels::Place::host(); }
  void finish(const kernels::Launch& launch) const { REQUIRE(launch.ok()); }

  /// `values` as many elements behind an aligned address as `shift` says, followed by bytes that nobody may
  /// touch.
  template <class T>
  T* put(const std::vector<T>& values, std::size_t shift = 0) {
    Buffer buffer = Buffer::allocate(values.size() * sizeof(T) + shift * sizeof(T) + kGuard);
    std::memset(buffer.data(), kGuardByte, buffer.size());
    T* const at = reinterpret_cast<T*>(buffer.data()) + shift;
    if (!values.empty()) std::memcpy(at, values.data(), values.size() * sizeof(T));
    buffers_.push_back(std::move(buffer));
    return at;
  }
  template <class T>
  std::vector<T> get(const T* from, std::size_t n) {
    check_guard(reinterpret_cast<const std::byte*>(from + n));
    return std::vector<T>(from, from + n);
  }

  static constexpr std::size_t kGuard = 64;
  static constexpr int kGuardByte = 0x5A;
  static void check_guard(const std::byte* guard) {
    for (std::size_t i = 0; i < kGuard; ++i) REQUIRE(guard[i] == std::byte{kGuardByte});
  }

 private:
  std::vector<Buffer> buffers_;
};

/// The same for a GPU.
class OnGpu {
 public:
  OnGpu() : machine_(RealGpu::open()) {}
  bool here() const { return machine_ != nullptr; }
  kernels::Place place() const {
    return kernels::Place::gpu(machine_->stream.native(), machine_->gpu.device().ordinal);
  }
  void finish(const kernels::Launch& launch) const {
    REQUIRE(machine_->stream.launched(launch.kernel, launch.error));
    const auto finished = machine_->stream.finish(std::chrono::seconds(60));
    REQUIRE_MESSAGE(finished.ok(), finished.error().message);
  }

  template <class T>
  T* put(const std::vector<T>& values, std::size_t shift = 0) {
    std::vector<std::byte> bytes((values.size() + shift) * sizeof(T) + OnHost::kGuard,
                                 std::byte{OnHost::kGuardByte});
    if (!values.empty())
      std::memcpy(bytes.data() + shift * sizeof(T), values.data(), values.size() * sizeof(T));
    const Buffer buffer = machine_->pool->allocate(bytes.size(), machine_->stream).value();
    REQUIRE(machine_->stream.copy(buffer.data(), bytes.data(), bytes.size()));
    REQUIRE(machine_->stream.finish(std::chrono::seconds(60)));
    buffers_.push_back(buffer);
    return reinterpret_cast<T*>(buffer.data()) + shift;
  }
  template <class T>
  std::vector<T> get(const T* from, std::size_t n) {
    std::vector<std::byte> bytes(n * sizeof(T) + OnHost::kGuard);
    REQUIRE(machine_->stream.copy(bytes.data(), from, bytes.size()));
    REQUIRE(machine_->stream.finish(std::chrono::seconds(60)));
    OnHost::check_guard(bytes.data() + n * sizeof(T));
    std::vector<T> values(n);
    if (n > 0) std::memcpy(values.data(), bytes.data(), n * sizeof(T));
    return values;
  }

 private:
  std::unique_ptr<RealGpu> machine_;
  std::vector<Buffer> buffers_;
};

inline std::vector<float> random_floats(std::size_t n, std::uint64_t seed, float low = -2.0F,
                                        float high = 2.0F) {
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<float> uniform(low, high);
  std::vector<float> values(n);
  for (float& value : values) value = uniform(random);
  return values;
}

/// |actual - expected| <= tolerance * (1 + |expected|), for each; the first that differs is told.
template <class Actual, class Expected>
bool all_close(const std::vector<Actual>& actual, const std::vector<Expected>& expected, double tolerance) {
  REQUIRE(actual.size() == expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const auto a = static_cast<double>(actual[i]);
    const auto e = static_cast<double>(expected[i]);
    if (a == e || std::abs(a - e) <= tolerance * (1 + std::abs(e))) continue;
    MESSAGE("at ", i, ": ", a, " instead of ", e);
    return false;
  }
  return true;
}

}  // namespace troupe::test
