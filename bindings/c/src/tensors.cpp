#include <algorithm>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include <troupe/runtime/dlpack.hpp>
#include <troupe/runtime/tensor.hpp>

#include "handles.hpp"

using namespace troupe;
using namespace troupe::c;

namespace {

Result<Shape> shape_of(const std::int64_t* shape, std::size_t rank, const char* name) {
  if (rank > Shape::kMaxRank)
    return Error{Code::kInvalidArgument,
                 std::to_string(rank) + " axes; a tensor has at most " + std::to_string(Shape::kMaxRank)};
  if (!shape && rank > 0) return null_argument(name);
  return Shape(std::span(shape, rank));  // BadTensor becomes the error
}

Result<DType> dtype_of(troupe_dtype dtype) {
  if (dtype < TROUPE_FLOAT32 || dtype > TROUPE_BOOL8)
    return Error{Code::kInvalidArgument, "there is no dtype " + std::to_string(static_cast<int>(dtype))};
  return static_cast<DType>(dtype);
}

/// Bytes from the first element to the end of the last.
std::size_t span_bytes(DType dtype, const Shape& shape, const Shape& strides) {
  const std::size_t element = size_of(dtype);
  if (shape.elements() == 0) return 0;
  std::int64_t last = 0;
  for (std::size_t axis = 0; axis < shape.rank(); ++axis) {
    std::int64_t reach = 0;
    if (__builtin_mul_overflow(shape[axis] - 1, strides[axis], &reach) ||
        __builtin_add_overflow(last, reach, &last) || last > INT64_MAX / 16)
      throw BadTensor("a tensor whose strides are too large");
  }
  return static_cast<std::size_t>(last + 1) * element;
}

/// Row-major, without gaps. Of a tensor without elements, whose strides say nothing, they may be too large.
Shape dense_strides(const Shape& shape) {
  std::int64_t strides[Shape::kMaxRank] = {};
  std::int64_t stride = 1;
  for (std::size_t axis = shape.rank(); axis-- > 0;) {
    strides[axis] = stride;
    if (__builtin_mul_overflow(stride, std::max<std::int64_t>(shape[axis], 1), &stride)) stride = INT64_MAX;
  }
  return Shape(std::span<const std::int64_t>(strides, shape.rank()));
}

/// What import_tensor() does not look at before it follows these pointers.
Result<void> check_pointers(const dlpack::DLTensor& tensor) {
  const std::int32_t rank = tensor.ndim;
  if (rank < 0 || rank > static_cast<std::int32_t>(Shape::kMaxRank)) return {};  // is refused there
  if (!tensor.shape && rank > 0) return null_argument("the DLPack tensor's shape");
  const std::span<const std::int64_t> extents(tensor.shape, static_cast<std::size_t>(rank));
  if (!tensor.data && std::ranges::find(extents, 0) == extents.end())
    return null_argument("the DLPack tensor's data");
  return {};
}

template <class Make>
troupe_status make_tensor(troupe_tensor** tensor, Make&& make) {
  if (tensor) *tensor = nullptr;
  return guard([&]() -> Result<void> {
    if (!tensor) return null_argument("tensor");
    auto handle = std::make_unique<troupe_tensor>();  // nothing fails after make()
    Result<Tensor> made = make();
    if (!made) return made.error();
    handle->tensor = std::move(*made);
    *tensor = handle.release();
    return {};
  });
}

}  // namespace

troupe_status troupe_tensor_new(troupe_dtype dtype, const int64_t* shape, size_t rank,
                                troupe_tensor** tensor) {
  return make_tensor(tensor, [&]() -> Result<Tensor> {
    const auto type = dtype_of(dtype);
    if (!type) return type.error();
    const auto extents = shape_of(shape, rank, "shape");
    if (!extents) return extents.error();
    return Tensor::empty(*type, *extents);
  });
}

troupe_status troupe_tensor_wrap(troupe_dtype dtype, const int64_t* shape, const int64_t* strides,
                                 size_t rank, void* data, void (*release)(void* user), void* user,
                                 troupe_tensor** tensor) {
  return make_tensor(tensor, [&]() -> Result<Tensor> {
    const auto type = dtype_of(dtype);
    if (!type) return type.error();
    const auto extents = shape_of(shape, rank, "shape");
    if (!extents) return extents.error();
    (void)extents->elements();  // too many of them is a BadTensor
    Shape steps = dense_strides(*extents);
    if (strides) {
      auto given = shape_of(strides, rank, "strides");  // none is negative
      if (!given) return given.error();
      steps = *given;
    }
    const std::size_t bytes = span_bytes(*type, *extents, steps);
    if (!data && bytes > 0) return null_argument("data");
    auto* const first = static_cast<std::byte*>(data);
    if (!release) {
      const Tensor lent(*type, *extents, steps, Buffer::adopt(first, bytes, Device{}, [] {}), 0);
      return bytes == 0 ? lent : lent.clone();  // without elements there is nothing of the caller's in it
    }
    // The memory is the caller's until nothing can go wrong any more.
    auto armed = std::make_shared<bool>(false);
    Tensor whole(*type, *extents, steps,
                 Buffer::adopt(first, bytes, Device{},
                               [release, user, armed] {
                                 if (*armed) release(user);
                               }),
                 0);
    *armed = true;
    return whole;
  });
}

troupe_status troupe_tensor_new_shared(troupe_node* node, troupe_dtype dtype, const int64_t* shape,
                                       size_t rank, troupe_tensor** tensor) {
  return make_tensor(tensor, [&]() -> Result<Tensor> {
    if (!node) return null_argument("node");
    const auto type = dtype_of(dtype);
    if (!type) return type.error();
    const auto extents = shape_of(shape, rank, "shape");
    if (!extents) return extents.error();
    return Tensor::empty(*type, *extents, (**node).endpoint().shared_pool());
  });
}

int troupe_tensor_is_shared(const troupe_tensor* tensor) {
  return guard_value(0, [&] { return tensor && SharedPool::is_leased(tensor->tensor.buffer()) ? 1 : 0; });
}

troupe_status troupe_tensor_share(const troupe_tensor* tensor, troupe_tensor** copy) {
  return make_tensor(copy, [&]() -> Result<Tensor> {
    if (!tensor) return null_argument("tensor");
    return tensor->tensor;
  });
}

troupe_status troupe_tensor_clone(const troupe_tensor* tensor, troupe_tensor** copy) {
  return make_tensor(copy, [&]() -> Result<Tensor> {
    if (!tensor) return null_argument("tensor");
    return tensor->tensor.clone();
  });
}

void troupe_tensor_free(troupe_tensor* tensor) {
  delete tensor;
}

troupe_status troupe_tensor_describe(const troupe_tensor* tensor, troupe_tensor_info* info) {
  return guard([&]() -> Result<void> {
    if (!tensor) return null_argument("tensor");
    if (!info) return null_argument("info");
    if (auto good = check_struct(info, "troupe_tensor_info"); !good) return good;
    const Tensor& from = tensor->tensor;
    troupe_tensor_info filled = TROUPE_TENSOR_INFO_INIT;
    filled.dtype = static_cast<troupe_dtype>(from.dtype());
    filled.read_only = from.read_only() ? 1 : 0;
    filled.contiguous = from.is_contiguous() ? 1 : 0;
    filled.gpu = from.device().kind == MemoryKind::kDevice ? from.device().ordinal : -1;
    filled.rank = from.rank();
    std::ranges::copy(from.shape().extents(), filled.shape);
    std::ranges::copy(from.strides().extents(), filled.strides);
    filled.data = from.data();
    filled.bytes = from.bytes();
    write_struct(filled, info);
    return {};
  });
}

troupe_status troupe_tensor_to_dlpack(const troupe_tensor* tensor, struct DLManagedTensor** managed) {
  if (managed) *managed = nullptr;
  return guard([&]() -> Result<void> {
    if (!tensor) return null_argument("tensor");
    if (!managed) return null_argument("managed");
    if (tensor->tensor.read_only())
      return Error{Code::kFailedPrecondition,
                   "the tensor lies in another process's memory, and DLPack cannot say that it must not be "
                   "written: clone it first"};
    *managed = reinterpret_cast<DLManagedTensor*>(dlpack::export_tensor(tensor->tensor));
    return {};
  });
}

troupe_status troupe_tensor_from_dlpack(struct DLManagedTensor* managed, troupe_tensor** tensor) {
  if (tensor) *tensor = nullptr;
  return guard([&]() -> Result<void> {
    if (!managed) return null_argument("managed");
    if (!tensor) return null_argument("tensor");
    auto* const given = reinterpret_cast<dlpack::DLManagedTensor*>(managed);
    if (auto good = check_pointers(given->dl_tensor); !good) return good;
    auto handle = std::make_unique<troupe_tensor>();
    auto borrowed = dlpack::import_tensor(given);
    if (!borrowed) return borrowed.error();
    handle->tensor = std::move(*borrowed);
    *tensor = handle.release();
    return {};
  });
}
