#pragma once

#include <doctest/doctest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <stdexcept>
#include <vector>

#include "simd_targets.hpp"
#include "troupe/kernels/cpu.hpp"

namespace troupe::kernels::testing {

/// Sizes around the edges of vectors (4, 8, 16 lanes) and of their unrolled blocks.
inline const std::vector<std::int64_t> kSizes = {0,  1,  2,  3,  4,  5,  7,   8,   9,   15,  16,  17,
                                                 31, 32, 33, 63, 64, 65, 100, 127, 128, 200, 1000};

/// Floats that end where an unreadable page begins: touching one past the end ends the test program.
class GuardedFloats {
 public:
  explicit GuardedFloats(std::int64_t size) : size_(size) {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t bytes = static_cast<std::size_t>(size) * sizeof(float);
    const std::size_t data_bytes = (bytes + page - 1) / page * page;
    mapped_bytes_ = data_bytes + page;
    memory_ = mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory_ == MAP_FAILED) throw std::runtime_error("mmap failed");
    char* end = static_cast<char*>(memory_) + data_bytes;
    if (mprotect(end, page, PROT_NONE) != 0) throw std::runtime_error("mprotect failed");
    data_ = reinterpret_cast<float*>(end - bytes);
  }
  GuardedFloats(std::int64_t size, float value) : GuardedFloats(size) { std::fill_n(data_, size, value); }
  GuardedFloats(const GuardedFloats&) = delete;
  GuardedFloats& operator=(const GuardedFloats&) = delete;
  ~GuardedFloats() { munmap(memory_, mapped_bytes_); }

  float* data() { return data_; }
  const float* data() const { return data_; }
  std::int64_t size() const { return size_; }
  float& operator[](std::int64_t i) { return data_[i]; }
  float operator[](std::int64_t i) const { return data_[i]; }
  void copy_from(const GuardedFloats& other) {
    if (size_ > 0) std::memcpy(data_, other.data_, static_cast<std::size_t>(size_) * sizeof(float));
  }

 private:
  std::int64_t size_;
  std::size_t mapped_bytes_ = 0;
  void* memory_ = nullptr;
  float* data_ = nullptr;
};

/// Values in [low, high), the same for each run.
inline void randomize(GuardedFloats& values, std::uint64_t seed, float low = -2.0F, float high = 2.0F) {
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<float> uniform(low, high);
  for (std::int64_t i = 0; i < values.size(); ++i) values[i] = uniform(random);
}

/// What a kernel must overwrite without reading: NaN.
inline void fill_with_garbage(GuardedFloats& values) {
  std::fill_n(values.data(), values.size(), std::numeric_limits<float>::quiet_NaN());
}

/// Runs `body` on every instruction set of this CPU, naming it in failures.
template <class Body>
void on_each_target(const Body& body) {
  for (const std::int64_t target : supported_simd_targets()) {
    force_simd_target(target);
    const std::string name = simd_target();
    CAPTURE(name);
    body();
  }
  force_simd_target(0);
}

/// |actual - expected| <= tolerance * (1 + |expected|), for infinities equality.
inline bool close(double actual, double expected, double tolerance = 2e-6) {
  if (actual == expected) return true;
  return std::abs(actual - expected) <= tolerance * (1.0 + std::abs(expected));
}

/// The first i where close() does not hold, or -1. `expected(i)` is a double.
template <class Expected>
std::int64_t first_difference(const GuardedFloats& actual, const Expected& expected,
                              double tolerance = 2e-6) {
  for (std::int64_t i = 0; i < actual.size(); ++i) {
    if (!close(actual[i], expected(i), tolerance)) {
      MESSAGE("at ", i, ": ", actual[i], " instead of ", expected(i));
      return i;
    }
  }
  return -1;
}

}  // namespace troupe::kernels::testing
