#pragma once

#include <array>
#include <cassert>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <troupe/runtime/buffer.hpp>
#include <troupe/runtime/result.hpp>

namespace troupe {

class MemoryPool;
class SharedPool;

/// Element types. The numbers go over the wire and into checkpoints.
enum class DType : std::uint8_t {
  kFloat32 = 0,
  kFloat64 = 1,
  kFloat16 = 2,
  kBFloat16 = 3,
  kInt8 = 4,
  kInt16 = 5,
  kInt32 = 6,
  kInt64 = 7,
  kUInt8 = 8,
  kUInt16 = 9,
  kUInt32 = 10,
  kUInt64 = 11,
  kBool = 12,
};

/// Bytes an element of `dtype` takes.
std::size_t size_of(DType dtype);
/// "float32", "int64" ...
std::string_view to_string(DType dtype);

/// The DType of a C++ element type (float, double, std::int8_t ... std::uint64_t, bool).
template <class T>
constexpr DType dtype_of();

/// A small vector of extents or strides; at most kMaxRank of them.
class Shape {
 public:
  static constexpr std::size_t kMaxRank = 8;

  Shape() = default;
  /// Precondition: at most kMaxRank extents, none negative.
  Shape(std::initializer_list<std::int64_t> extents) : Shape(std::span(extents.begin(), extents.size())) {}
  explicit Shape(std::span<const std::int64_t> extents);

  std::size_t rank() const { return rank_; }
  std::int64_t operator[](std::size_t axis) const { return assert(axis < rank_), extents_[axis]; }
  std::span<const std::int64_t> extents() const { return {extents_.data(), rank_}; }
  /// The product of the extents; 1 for rank 0.
  std::int64_t elements() const;
  std::string to_string() const;  ///< "[512, 200]"
  friend bool operator==(const Shape& a, const Shape& b);

 private:
  std::array<std::int64_t, kMaxRank> extents_{};
  std::uint8_t rank_ = 0;
};

/// A dense array: dtype, shape, strides (in elements) and a Buffer. Copies share the bytes, like
/// those of every array library; clone() makes another array. As a type it can describe memory of any
/// kind (host, pinned, device); functions that touch elements need host or pinned memory.
class Tensor {
 public:
  Tensor() : Tensor(DType::kFloat32, Shape{0}, Buffer{}) {}
  /// A contiguous (row-major) tensor on `buffer`. Precondition: the buffer holds that many bytes.
  Tensor(DType dtype, Shape shape, Buffer buffer);
  /// Any strides, in elements, not negative; `offset` is the first element's, in elements.
  Tensor(DType dtype, Shape shape, Shape strides, Buffer buffer, std::int64_t offset);

  /// Contents undefined. From `pool` if one is given.
  static Tensor empty(DType dtype, Shape shape, MemoryPool* pool = nullptr);
  /// In memory that peers on this machine can map: see SharedPool.
  static Tensor empty(DType dtype, Shape shape, SharedPool& pool);
  static Tensor zeros(DType dtype, Shape shape, MemoryPool* pool = nullptr);
  /// A one-dimensional tensor holding a copy of `values`.
  template <class T>
  static Tensor of(std::span<const T> values);
  template <class T>
  static Tensor of(std::initializer_list<T> values) {
    return of<T>(std::span<const T>(values.begin(), values.size()));
  }

  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  const Shape& strides() const { return strides_; }  ///< in elements
  std::size_t rank() const { return shape_.rank(); }
  std::int64_t elements() const { return shape_.elements(); }
  std::size_t bytes() const { return static_cast<std::size_t>(elements()) * size_of(dtype_); }
  Device device() const { return buffer_.device(); }
  /// Whether it lies in another process's memory: who wants to write clones it.
  bool read_only() const { return buffer_.read_only(); }
  const Buffer& buffer() const { return buffer_; }
  std::byte* data() const { return buffer_.data() + offset_ * static_cast<std::int64_t>(size_of(dtype_)); }
  bool is_contiguous() const;

  /// The elements of a contiguous host tensor. Precondition: T matches dtype; contiguous; host memory.
  template <class T>
  std::span<T> as() const {
    assert(dtype_ == dtype_of<std::remove_const_t<T>>() && is_contiguous() &&
           device().kind != MemoryKind::kDevice);
    return {reinterpret_cast<T*>(data()), static_cast<std::size_t>(elements())};
  }

  /// The same bytes seen with another shape of as many elements. Precondition: contiguous.
  Tensor reshape(Shape shape) const;
  /// Rows [begin, end) of the first axis, sharing the bytes.
  Tensor rows(std::int64_t begin, std::int64_t end) const;
  /// Itself if contiguous, else a contiguous copy.
  Tensor contiguous(MemoryPool* pool = nullptr) const;
  Tensor clone(MemoryPool* pool = nullptr) const;
  std::string to_string() const;  ///< "float32[512, 200]"

 private:
  DType dtype_;
  Shape shape_;
  Shape strides_;
  Buffer buffer_;
  std::int64_t offset_ = 0;  // in elements
};

template <class T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, float>)
    return DType::kFloat32;
  else if constexpr (std::is_same_v<T, double>)
    return DType::kFloat64;
  else if constexpr (std::is_same_v<T, std::int8_t>)
    return DType::kInt8;
  else if constexpr (std::is_same_v<T, std::int16_t>)
    return DType::kInt16;
  else if constexpr (std::is_same_v<T, std::int32_t>)
    return DType::kInt32;
  else if constexpr (std::is_same_v<T, std::int64_t>)
    return DType::kInt64;
  else if constexpr (std::is_same_v<T, std::uint8_t>)
    return DType::kUInt8;
  else if constexpr (std::is_same_v<T, std::uint16_t>)
    return DType::kUInt16;
  else if constexpr (std::is_same_v<T, std::uint32_t>)
    return DType::kUInt32;
  else if constexpr (std::is_same_v<T, std::uint64_t>)
    return DType::kUInt64;
  else {
    static_assert(std::is_same_v<T, bool>, "no DType for this element type");
    return DType::kBool;
  }
}

template <class T>
Tensor Tensor::of(std::span<const T> values) {
  return Tensor(dtype_of<T>(), Shape{static_cast<std::int64_t>(values.size())},
                Buffer::copy_of(std::as_bytes(values)));
}

}  // namespace troupe
