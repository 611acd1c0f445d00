#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "harness.hpp"
#include "troupe/kernels/place.hpp"
#include "troupe/runtime/gpu.hpp"
#include "troupe/runtime/gpu_memory.hpp"

/// What the parts of gpu_bench share.
namespace troupe::bench {

using kernels::Launch;
using kernels::Place;

inline constexpr std::int64_t kMi = std::int64_t{1} << 20;
inline constexpr double kLeastRun_s = 0.03;
inline constexpr auto kPatience = std::chrono::seconds(60);

/// The GPU with a stream, memory, and the rate of its copies.
class Machine {
 public:
  explicit Machine(const Gpu& gpu) : gpu_(gpu), stream_(gpu_.make_stream().value()), pool_(gpu_) {}

  Place place() const { return Place::gpu(stream_.native(), gpu_.device().ordinal); }
  const Stream& stream() const { return stream_; }
  const Gpu& gpu() const { return gpu_; }

  /// Memory of so many elements, of any contents.
  template <class T>
  T* make(std::int64_t n) {
    buffers_.push_back(pool_.allocate(static_cast<std::size_t>(n) * sizeof(T), stream_).value());
    return reinterpret_cast<T*>(buffers_.back().data());
  }
  template <class T>
  T* put(const std::vector<T>& values) {
    T* const at = make<T>(static_cast<std::int64_t>(values.size()));
    stream_.copy(at, values.data(), values.size() * sizeof(T)).value();
    finish();
    return at;
  }
  /// Random values, the same kibibytes again and again.
  float* floats(std::int64_t n) {
    std::mt19937_64 random(1);
    std::uniform_real_distribution<float> uniform(-1, 1);
    std::vector<float> some(static_cast<std::size_t>(std::min(n, kMi)));
    for (float& value : some) value = uniform(random);
    float* const at = make<float>(n);
    for (std::int64_t i = 0; i < n; i += kMi)
      stream_.copy(at + i, some.data(), static_cast<std::size_t>(std::min(n - i, kMi)) * sizeof(float))
          .value();
    finish();
    return at;
  }
  void clear() {
    finish();
    buffers_.clear();
  }
  void give(const Launch& launch) const { stream_.launched(launch.kernel, launch.error).value(); }
  void finish() const { stream_.finish(kPatience).value(); }

  /// Seconds that one `work` takes, given again and again: the median of some runs.
  double seconds_of(const std::function<void()>& work) const {
    const auto run = [&](std::int64_t count) {
      finish();
      const auto begin = SteadyClock::now();
      for (std::int64_t i = 0; i < count; ++i) work();
      finish();
      return seconds_since(begin);
    };
    run(3);
    std::int64_t count = 4;
    while (run(count) < kLeastRun_s) count *= 2;
    std::vector<double> each;
    each.reserve(kRepetitions);
    for (int i = 0; i < kRepetitions; ++i) each.push_back(run(count) / static_cast<double>(count));
    return median(each);
  }

 private:
  Gpu gpu_;
  Stream stream_;
  GpuPool pool_;
  std::vector<Buffer> buffers_;
};

struct Bench {
  Machine& machine;
  double copy_gb_per_s;
  std::vector<std::string> parts;

  bool wants(const std::string& name) const { return wanted(name, parts); }
  /// A figure in bytes a second, beside the copy's.
  void report(const std::string& name, double bytes, const std::function<void()>& work) const {
    print_json(name, bytes / machine.seconds_of(work) / 1e9, "GB/s", "device copy, read and written",
               copy_gb_per_s);
    machine.clear();
  }
};

/// Tables in device memory.
void bench_stores(const Bench& bench);
/// Maps from keys to rows.
void bench_maps(const Bench& bench);
/// Products, attention, vectors made smaller.
void bench_models(const Bench& bench);

}  // namespace troupe::bench
