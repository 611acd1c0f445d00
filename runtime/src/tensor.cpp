#include <troupe/runtime/tensor.hpp>

#include <algorithm>
#include <cassert>
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

/// The bytes that a tensor of this shape takes. BadTensor: more than there can be.
std::size_t bytes_of(DType dtype, const Shape& shape) {
  std::int64_t bytes = 0;
  if (__builtin_mul_overflow(shape.elements(), static_cast<std::int64_t>(size_of(dtype)), &bytes))
    throw BadTensor("a tensor " + shape.to_string() + " of " + std::string(to_string(dtype)) +
                    " is longer than any memory");
  return static_cast<std::size_t>(bytes);
}

void require_fits(const Tensor& tensor, std::size_t bytes) {
  if (bytes > tensor.buffer().size())
    throw BadTensor("a tensor " + tensor.to_string() + " of " + std::to_string(bytes) +
                    " bytes does not fit in a buffer of " + std::to_string(tensor.buffer().size()));
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
  if (extents.size() > kMaxRank)
    throw BadTensor("a tensor has at most " + std::to_string(kMaxRank) + " axes, not " +
                    std::to_string(extents.size()));
  for (std::size_t axis = 0; axis < extents.size(); ++axis) {
    if (extents[axis] < 0) throw BadTensor("an extent cannot be " + std::to_string(extents[axis]));
    extents_[axis] = extents[axis];
  }
}

void Shape::no_axis(std::size_t axis) const {
  throw BadTensor("a tensor " + to_string() + " has no axis " + std::to_string(axis));
}

std::int64_t Shape::elements() const {
  std::int64_t product = 1;
  bool is_empty = false, overflows = false;
  for (const std::int64_t extent : extents()) {
    is_empty |= extent == 0;
    overflows |= __builtin_mul_overflow(product, extent, &product);
  }
  if (is_empty) return 0;
  if (overflows) [[unlikely]]
    throw BadTensor("a tensor " + to_string() + " has more elements than can be counted");
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
    : dtype_(dtype), shape_(shape), buffer_(std::move(buffer)) {
  require_fits(*this, bytes_of(dtype, shape));
  strides_ = row_major_strides(shape);
}

Tensor::Tensor(DType dtype, Shape shape, Shape strides, Buffer buffer, std::int64_t offset)
    : dtype_(dtype), shape_(shape), strides_(strides), buffer_(std::move(buffer)), offset_(offset) {
  if (shape_.rank() != strides_.rank() || offset_ < 0)
    throw BadTensor("a tensor " + shape_.to_string() + " cannot have the strides " + strides_.to_string() +
                    " and begin at " + std::to_string(offset_));
  // The end of the last element.
  std::int64_t end = offset_;
  bool overflows = elements() > 0 && __builtin_add_overflow(end, 1, &end);
  for (std::size_t axis = 0; axis < rank() && elements() > 0; ++axis) {
    std::int64_t step = 0;
    overflows |= __builtin_mul_overflow(shape_[axis] - 1, strides_[axis], &step);
    overflows |= __builtin_add_overflow(end, step, &end);
  }
  overflows |= __builtin_mul_overflow(end, static_cast<std::int64_t>(size_of(dtype_)), &end);
  require_fits(*this, overflows ? SIZE_MAX : static_cast<std::size_t>(end));
}

Tensor Tensor::empty(DType dtype, Shape shape, MemoryPool* pool) {
  return {dtype, shape, allocate(bytes_of(dtype, shape), pool)};
}

Tensor Tensor::empty(DType dtype, Shape shape, SharedPool& pool) {
  return {dtype, shape, pool.allocate(bytes_of(dtype, shape))};
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

void Tensor::check_access(DType wanted, bool to_write) const {
  const auto fail = [&](const std::string& why) { throw BadTensor("a tensor " + to_string() + " " + why); };
  if (dtype_ != wanted) fail("is not of " + std::string(troupe::to_string(wanted)));
  if (!is_contiguous()) fail("is strided; contiguous() makes one that is not");
  if (device().kind == MemoryKind::kDevice) fail("lies in device memory");
  if (to_write && read_only() && elements() > 0)
    fail(
        "lies in another process's memory and cannot be written; clone() makes one that can, and as<const "
        "T>() "
        "reads it");
  if (reinterpret_cast<std::uintptr_t>(data()) % size_of(dtype_) != 0)
    fail("is not aligned; clone() aligns it");
}

Tensor Tensor::reshape(Shape shape) const {
  if (!is_contiguous() || shape.elements() != elements())
    throw BadTensor("a tensor " + to_string() + (is_contiguous() ? "" : ", strided,") + " cannot become " +
                    shape.to_string());
  return {dtype_, shape, row_major_strides(shape), buffer_, offset_};
}

Tensor Tensor::rows(std::int64_t begin, std::int64_t end) const {
  if (rank() == 0 || begin < 0 || begin > end || end > shape_[0])
    throw BadTensor("a tensor " + to_string() + " has no rows " + std::to_string(begin) + " to " +
                    std::to_string(end));
  std::array<std::int64_t, Shape::kMaxRank> extents{};
  std::copy_n(shape_.extents().begin(), rank(), extents.begin());
  extents[0] = end - begin;
  const Shape part(std::span<const std::int64_t>(extents.data(), rank()));
  const std::int64_t offset = part.elements() == 0 ? offset_ : offset_ + begin * strides_[0];
  return {dtype_, part, strides_, buffer_, offset};
}

Tensor Tensor::contiguous(MemoryPool* pool) const {
  return is_contiguous() ? *this : clone(pool);
}

Tensor Tensor::clone(MemoryPool* pool) const {
  if (device().kind == MemoryKind::kDevice)
    throw BadTensor("a tensor " + to_string() +
                    " lies in device memory and cannot be copied by the processor");
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

void require_same_shape(const Tensor& a, const Tensor& b) {
  if (a.shape() != b.shape())
    throw BadTensor("the tensors " + a.to_string() + " and " + b.to_string() + " are not of one shape");
}

std::string Tensor::to_string() const {
  return std::string(troupe::to_string(dtype_)) + shape_.to_string();
}

}  // namespace troupe
