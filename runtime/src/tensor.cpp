#include <troupe/runtime/tensor.hpp>

#include <algorithm>
#include <cstring>

#include <troupe/runtime/memory_pool.hpp>
#include <troupe/runtime/shared_pool.hpp>

namespace troupe {
namespace {

Shape row_major_strides(const Shape& shape) {
  std::array<std::int64_t, Shape::kMaxRank> strides{};
  std::int64_t stride = 1;
  for (std::size_t axis = shape.rank(); axis-- > 0;) {
    strides[axis] = stride;
    stride *= std::max<std::int64_t>(shape[axis], 1);
  }
  return Shape(std::span<const std::int64_t>(strides.data(), shape.rank()));
}

Buffer allocate(std::size_t bytes, MemoryPool* pool) {
  return pool ? pool->allocate(bytes) : Buffer::allocate(bytes);
}

/// Copies the axes from `axis` on of a strided source to contiguous `to`; returns the end of `to`.
/// The axes from `dense_axis` on are one run of `run_bytes` in the source too.
struct StridedCopy {
  std::span<const std::int64_t> extents;
  std::span<const std::int64_t> strides;
  std::size_t element_bytes;
  std::size_t dense_axis;
  std::size_t run_bytes;

  std::byte* copy(std::size_t axis, const std::byte* from, std::byte* to) const {
    if (axis == dense_axis) {
      std::memcpy(to, from, run_bytes);
      return to + run_bytes;
    }
    const std::int64_t step = strides[axis] * static_cast<std::int64_t>(element_bytes);
    for (std::int64_t i = 0; i < extents[axis]; ++i) to = copy(axis + 1, from + i * step, to);
    return to;
  }
};

}  // namespace

std::size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::kInt8:
    case DType::kUInt8:
    case DType::kBool:
      return 1;
    case DType::kFloat16:
    case DType::kBFloat16:
    case DType::kInt16:
    case DType::kUInt16:
      return 2;
    case DType::kFloat32:
    case DType::kInt32:
    case DType::kUInt32:
      return 4;
    case DType::kFloat64:
    case DType::kInt64:
    case DType::kUInt64:
      return 8;
  }
  assert(false && "not a DType");
  return 0;
}

std::string_view to_string(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "float32";
    case DType::kFloat64:
      return "float64";
    case DType::kFloat16:
      return "float16";
    case DType::kBFloat16:
      return "bfloat16";
    case DType::kInt8:
      return "int8";
    case DType::kInt16:
      return "int16";
    case DType::kInt32:
      return "int32";
    case DType::kInt64:
      return "int64";
    case DType::kUInt8:
      return "uint8";
    case DType::kUInt16:
      return "uint16";
    case DType::kUInt32:
      return "uint32";
    case DType::kUInt64:
      return "uint64";
    case DType::kBool:
      return "bool";
  }
  return "unknown";
}

Shape::Shape(std::span<const std::int64_t> extents) : rank_(static_cast<std::uint8_t>(extents.size())) {
  assert(extents.size() <= kMaxRank);
  assert(std::all_of(extents.begin(), extents.end(), [](std::int64_t extent) { return extent >= 0; }));
  std::copy_n(extents.begin(), std::min(extents.size(), kMaxRank), extents_.begin());
}

std::int64_t Shape::elements() const {
  std::int64_t product = 1;
  for (const std::int64_t extent : extents()) product *= extent;
  return product;
}

std::string Shape::to_string() const {
  std::string text = "[";
  for (std::size_t axis = 0; axis < rank_; ++axis) {
    if (axis > 0) text += ", ";
    text += std::to_string(extents_[axis]);
  }
  return text + "]";
}

bool operator==(const Shape& a, const Shape& b) {
  return std::ranges::equal(a.extents(), b.extents());
}

Tensor::Tensor(DType dtype, Shape shape, Buffer buffer)
    : dtype_(dtype), shape_(shape), strides_(row_major_strides(shape)), buffer_(std::move(buffer)) {
  assert(bytes() <= buffer_.size());
}

Tensor::Tensor(DType dtype, Shape shape, Shape strides, Buffer buffer, std::int64_t offset)
    : dtype_(dtype), shape_(shape), strides_(strides), buffer_(std::move(buffer)), offset_(offset) {
  assert(shape_.rank() == strides_.rank() && offset_ >= 0);
#ifndef NDEBUG
  std::int64_t last = offset_;
  for (std::size_t axis = 0; axis < rank(); ++axis) last += (shape_[axis] - 1) * strides_[axis];
  assert(elements() == 0 || static_cast<std::size_t>(last + 1) * size_of(dtype_) <= buffer_.size());
#endif
}

Tensor Tensor::empty(DType dtype, Shape shape, MemoryPool* pool) {
  const std::size_t bytes = static_cast<std::size_t>(shape.elements()) * size_of(dtype);
  return {dtype, shape, allocate(bytes, pool)};
}

Tensor Tensor::empty(DType dtype, Shape shape, SharedPool& pool) {
  return {dtype, shape, pool.allocate(static_cast<std::size_t>(shape.elements()) * size_of(dtype))};
}

Tensor Tensor::zeros(DType dtype, Shape shape, MemoryPool* pool) {
  Tensor tensor = empty(dtype, shape, pool);
  std::memset(tensor.data(), 0, tensor.bytes());
  return tensor;
}

bool Tensor::is_contiguous() const {
  std::int64_t expected = 1;
  for (std::size_t axis = rank(); axis-- > 0;) {
    if (shape_[axis] == 0) return true;
    if (shape_[axis] != 1 && strides_[axis] != expected) return false;
    expected *= shape_[axis];
  }
  return true;
}

Tensor Tensor::reshape(Shape shape) const {
  assert(is_contiguous() && shape.elements() == elements());
  return {dtype_, shape, row_major_strides(shape), buffer_, offset_};
}

Tensor Tensor::rows(std::int64_t begin, std::int64_t end) const {
  assert(rank() > 0 && 0 <= begin && begin <= end && end <= shape_[0]);
  std::array<std::int64_t, Shape::kMaxRank> extents{};
  std::copy_n(shape_.extents().begin(), rank(), extents.begin());
  extents[0] = end - begin;
  const Shape part(std::span<const std::int64_t>(extents.data(), rank()));
  return {dtype_, part, strides_, buffer_, offset_ + begin * strides_[0]};
}

Tensor Tensor::contiguous(MemoryPool* pool) const {
  return is_contiguous() ? *this : clone(pool);
}

Tensor Tensor::clone(MemoryPool* pool) const {
  assert(device().kind != MemoryKind::kDevice);
  Tensor copy = empty(dtype_, shape_, pool);
  if (elements() == 0) return copy;
  // The longest tail of axes that lies in one run.
  std::size_t dense_axis = rank();
  std::int64_t run = 1;
  while (dense_axis > 0 && (strides_[dense_axis - 1] == run || shape_[dense_axis - 1] == 1)) {
    run *= shape_[--dense_axis];
  }
  const std::size_t run_bytes = static_cast<std::size_t>(run) * size_of(dtype_);
  const StridedCopy strided{shape_.extents(), strides_.extents(), size_of(dtype_), dense_axis, run_bytes};
  strided.copy(0, data(), copy.data());
  return copy;
}

std::string Tensor::to_string() const {
  return std::string(troupe::to_string(dtype_)) + shape_.to_string();
}

}  // namespace troupe
