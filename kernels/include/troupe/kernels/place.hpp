#pragma once

#include <cstddef>
#include <cstdint>

namespace troupe::kernels {

/// Where a kernel runs that has versions for both: on the calling thread, done when the call returns, with
/// pointers to the host's memory; or on a GPU's stream, in its order, with pointers to that device's memory,
/// or to pinned memory. Then the call returns when the kernel has been given to the stream. It allocates
/// nothing: what it needs for itself is handed in.
class Place {
 public:
  static Place host() { return {}; }
  /// `stream` is a cudaStream_t of the device of that number, not null.
  static Place gpu(void* stream, int device) { return {stream, device}; }

  bool on_gpu() const { return stream_ != nullptr; }
  void* stream() const { return stream_; }
  int device() const { return device_; }

 private:
  Place() = default;
  Place(void* stream, int device) : stream_(stream), device_(device) {}
  void* stream_ = nullptr;
  int device_ = 0;
};

/// What became of giving a kernel to a place: the name of the first that was not taken, and CUDA's number of
/// the error. What fails later on the device is told by whoever waits for it. On the host nothing fails.
struct [[nodiscard]] Launch {
  const char* kernel = "";
  int error = 0;
  bool ok() const { return error == 0; }
};

/// The error of a GPU's place where Troupe was built without CUDA.
inline constexpr int kBuiltWithoutCuda = 801;

/// Types of elements that are stored; arithmetic is in float32.
enum class Element : std::uint8_t { kFloat32, kFloat16, kBFloat16 };

constexpr std::size_t size_of(Element element) {
  return element == Element::kFloat32 ? 4 : 2;
}

}  // namespace troupe::kernels
