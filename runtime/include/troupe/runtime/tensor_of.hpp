#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <utility>

#include <troupe/runtime/tensor.hpp>

namespace troupe {

/// For TensorOf: any number of axes.
inline constexpr std::size_t kAnyRank = SIZE_MAX;

/// A tensor whose element type, and number of axes unless that is kAnyRank, are part of its C++ type: dense,
/// contiguous, in host memory. Nothing else is ever one, so its elements can be used without asking. It is a
/// Tensor with a promise: copies share the bytes.
///
/// As a parameter of a method it is a part of the method's signature: a caller that passes anything else gets
/// kInvalidArgument, and the method does not begin. Extents are not part of the type: whoever goes through
/// two tensors at once compares them first (require_same_shape).
///
/// What came from a process of this machine may lie in that one's memory, so elements are read unless
/// writable() is asked for.
template <class T, std::size_t Rank = kAnyRank>
class TensorOf {
 public:
  static_assert(Rank == kAnyRank || Rank <= Shape::kMaxRank);
  static constexpr DType kDType = dtype_of<T>();

  /// Without elements; of rank 0: one that is zero.
  TensorOf()
      : tensor_(Rank == 0 ? Tensor::zeros(kDType, Shape{})
                          : Tensor(kDType, Shape(std::span<const std::int64_t>(kNoElements)), Buffer{})) {}
  /// BadTensor: it is none of these.
  TensorOf(Tensor tensor) : tensor_(std::move(tensor)) {
    if (auto is = check(tensor_); !is) throw BadTensor(std::move(is).error().message);
  }
  /// A copy of the values.
  explicit TensorOf(std::span<const T> values) requires(Rank == 1 || Rank == kAnyRank)
      : tensor_(Tensor::of<T>(values)) {}
  TensorOf(std::initializer_list<T> values) requires(Rank == 1 || Rank == kAnyRank)
      : TensorOf(std::span<const T>(values.begin(), values.size())) {}

  /// Contents undefined. From `pool` if one is given. BadTensor: the shape has another number of axes.
  static TensorOf empty(Shape shape, MemoryPool* pool = nullptr) {
    return Tensor::empty(kDType, shape, pool);
  }
  static TensorOf zeros(Shape shape, MemoryPool* pool = nullptr) {
    return Tensor::zeros(kDType, shape, pool);
  }
  /// kInvalidArgument: why `tensor` is not one.
  static Result<void> check(const Tensor& tensor) {
    if (tensor.dtype() == kDType && (Rank == kAnyRank || tensor.rank() == Rank) && tensor.is_contiguous() &&
        tensor.device().kind != MemoryKind::kDevice)
      return {};
    return Error{Code::kInvalidArgument, "a tensor " + tensor.to_string() +
                                             (tensor.is_contiguous() ? "" : ", strided,") + " is not a " +
                                             type_name()};
  }
  /// "tensor<float32, 1>"; "tensor<float32>" if any number of axes will do.
  static std::string type_name() {
    const std::string element(troupe::to_string(kDType));
    return "tensor<" + element + (Rank == kAnyRank ? "" : ", " + std::to_string(Rank)) + ">";
  }

  const Tensor& tensor() const { return tensor_; }
  operator const Tensor&() const { return tensor_; }
  const Shape& shape() const { return tensor_.shape(); }
  /// BadTensor: there is no such axis.
  std::int64_t extent(std::size_t axis) const { return tensor_.shape()[axis]; }
  std::size_t size() const { return static_cast<std::size_t>(tensor_.elements()); }  ///< elements
  bool empty() const { return size() == 0; }
  std::string to_string() const { return tensor_.to_string(); }

  /// All elements, in row-major order.
  std::span<const T> values() const { return {data(), size()}; }
  const T* data() const { return reinterpret_cast<const T*>(tensor_.data()); }
  /// The same, to be written. BadTensor: they are another process's; clone() first.
  std::span<T> writable() const { return tensor_.as<T>(); }
  TensorOf clone(MemoryPool* pool = nullptr) const { return tensor_.clone(pool); }

  /// One element; with one index and kAnyRank in row-major order. BadTensor: there is none. For loops over
  /// many use values().
  template <std::convertible_to<std::int64_t>... Index>
  requires(sizeof...(Index) == Rank ||
           (Rank == kAnyRank && sizeof...(Index) == 1)) const T& at(Index... index) const {
    std::int64_t place = 0;
    if constexpr (Rank == kAnyRank) {
      place = (static_cast<std::int64_t>(index), ...);
      if (place < 0 || static_cast<std::size_t>(place) >= size()) no_element(std::span(&place, 1));
    } else {
      const std::array<std::int64_t, Rank> of_axis{static_cast<std::int64_t>(index)...};
      for (std::size_t axis = 0; axis < Rank; ++axis) {
        if (of_axis[axis] < 0 || of_axis[axis] >= shape()[axis]) no_element(of_axis);
        place = place * shape()[axis] + of_axis[axis];
      }
    }
    return data()[place];
  }
  const T& operator[](std::size_t index) const requires(Rank == 1 || Rank == kAnyRank) { return at(index); }

 private:
  static constexpr std::array<std::int64_t, Rank == kAnyRank ? 1 : Rank> kNoElements{};
  [[noreturn]] void no_element(std::span<const std::int64_t> index) const {
    std::string text;
    for (const std::int64_t each : index) text += (text.empty() ? "" : ", ") + std::to_string(each);
    throw BadTensor("a tensor " + to_string() + " has no element [" + text + "]");
  }

  Tensor tensor_;
};

}  // namespace troupe
