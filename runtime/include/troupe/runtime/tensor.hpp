#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include <troupe/runtime/buffer.hpp>
#include <troupe/runtime/result.hpp>

namespace troupe {

class MemoryPool;
class SharedPool;

/// Thrown where a tensor or a shape is not what its user takes it for. What came from another node may be
/// anything, so this is looked at in every build. A method that lets it pass answers its caller with it:
/// INVALID_ARGUMENT and what is wrong.
class BadTensor final : public BadResult {
 public:
  explicit BadTensor(std::string what) : BadResult(Error{Code::kInvalidArgument, std::move(what)}) {}
};

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
  /// BadTensor: more than kMaxRank extents, or a negative one.
  Shape(std::initializer_list<std::int64_t> extents) : Shape(std::span(extents.begin(), extents.size())) {}
  explicit Shape(std::span<const std::int64_t> extents);

  std::size_t rank() const { return rank_; }
  /// BadTensor: it has no such axis.
  std::int64_t operator[](std::size_t axis) const {
    if (axis >= rank_) [[unlikely]]
      no_axis(axis);
    return extents_[axis];
  }
  std::span<const std::int64_t> extents() const { return {extents_.data(), rank_}; }
  /// The product of the extents; 1 for rank 0. BadTensor: it is not a number of 64 bits.
  std::int64_t elements() const;
  std::string to_string() const;  ///< "[512, 200]"
  friend bool operator==(const Shape& a, const Shape& b);

 private:
  [[noreturn]] void no_axis(std::size_t axis) const;

  std::array<std::int64_t, kMaxRank> extents_{};
  std::uint8_t rank_ = 0;
};

/// A dense array: dtype, shape, strides (in elements) and a Buffer. Copies share the bytes, like
/// those of every array library; clone() makes another array. As a type it can describe memory of any
/// kind (host, pinned, device); functions that touch elements need host or pinned memory.
///
/// Every function that could reach outside of the buffer, or take elements for others than they are, throws
/// BadTensor instead. data() alone looks at nothing. Where dtype and rank are known when a method is written
/// TensorOf (tensor_of.hpp) says so in its signature, and what is not so does not reach it.
class Tensor {
 public:
  Tensor() : Tensor(DType::kFloat32, Shape{0}, Buffer{}) {}
  /// A contiguous (row-major) tensor on `buffer`. BadTensor: the buffer is too short.
  Tensor(DType dtype, Shape shape, Buffer buffer);
  /// Any strides, in elements, not negative; `offset` is the first element's, in elements. BadTensor: an
  /// element lies outside of the buffer.
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

  /// The elements, to be read if T is const, else also to be written. BadTensor: T is another type than the
  /// dtype's; it is not contiguous, or not in host memory; it is to be written and read_only().
  template <class T>
  std::span<T> as() const {
    check_access(dtype_of<std::remove_const_t<T>>(), !std::is_const_v<T>);
    return {reinterpret_cast<T*>(data()), static_cast<std::size_t>(elements())};
  }

  /// The same bytes seen with another shape. BadTensor: of another number of elements, or not contiguous.
  Tensor reshape(Shape shape) const;
  /// Rows [begin, end) of the first axis, sharing the bytes. BadTensor: it has no such rows.
  Tensor rows(std::int64_t begin, std::int64_t end) const;
  /// Itself if contiguous, else a contiguous copy. Errors as for clone().
  Tensor contiguous(MemoryPool* pool = nullptr) const;
  /// A contiguous copy that can be written. BadTensor: it is not in host memory.
  Tensor clone(MemoryPool* pool = nullptr) const;
  std::string to_string() const;  ///< "float32[512, 200]"

 private:
  /// Throws BadTensor unless elements of `wanted` can be read, and written if `to_write`.
  void check_access(DType wanted, bool to_write) const;

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

/// BadTensor: their shapes differ, for work that goes through both element by element.
void require_same_shape(const Tensor& a, const Tensor& b);

template <class T>
Tensor Tensor::of(std::span<const T> values) {
  return Tensor(dtype_of<T>(), Shape{static_cast<std::int64_t>(values.size())},
                Buffer::copy_of(std::as_bytes(values)));
}

}  // namespace troupe
