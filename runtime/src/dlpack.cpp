#include <troupe/runtime/dlpack.hpp>

#include <algorithm>
#include <array>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>

#include <troupe/runtime/gpu_memory.hpp>

namespace troupe::dlpack {
namespace {

static_assert(sizeof(DLDevice) == 8 && sizeof(DLDataType) == 4 && sizeof(DLTensor) == 48);
static_assert(sizeof(DLManagedTensor) == 64 && std::is_standard_layout_v<DLManagedTensor>);

/// What export_tensor() hands out: the structure, the arrays it points to and the memory's owner.
struct Exported {
  DLManagedTensor managed;
  Tensor tensor;
  std::array<std::int64_t, Shape::kMaxRank> shape;
  std::array<std::int64_t, Shape::kMaxRank> strides;
};

DLDataType type_of(DType dtype) {
  const auto bits = static_cast<std::uint8_t>(8 * size_of(dtype));
  switch (dtype) {
    case DType::kFloat16:
    case DType::kFloat32:
    case DType::kFloat64:
      return {kDLFloat, bits, 1};
    case DType::kBFloat16:
      return {kDLBfloat, bits, 1};
    case DType::kInt8:
    case DType::kInt16:
    case DType::kInt32:
    case DType::kInt64:
      return {kDLInt, bits, 1};
    case DType::kUInt8:
    case DType::kUInt16:
    case DType::kUInt32:
    case DType::kUInt64:
      return {kDLUInt, bits, 1};
    case DType::kBool:
      return {kDLBool, bits, 1};
  }
  return {kDLOpaqueHandle, bits, 1};
}

std::optional<DType> dtype_of(DLDataType type) {
  for (int i = 0; i <= static_cast<int>(DType::kBool); ++i) {
    const auto dtype = static_cast<DType>(i);
    const DLDataType ours = type_of(dtype);
    if (ours.code == type.code && ours.bits == type.bits && ours.lanes == type.lanes) return dtype;
  }
  return std::nullopt;
}

DLDevice device_of(Device device) {
  switch (device.kind) {
    case MemoryKind::kHost:
      return {kDLCPU, 0};
    case MemoryKind::kPinned:
      return {kDLCUDAHost, device.ordinal};
    case MemoryKind::kDevice:
      return {kDLCUDA, device.ordinal};
  }
  return {kDLCPU, 0};
}

std::optional<Device> device_of(DLDevice device) {
  switch (device.device_type) {
    case kDLCPU:
      return Device{MemoryKind::kHost, 0};
    case kDLCUDAHost:
      return Device{MemoryKind::kPinned, device.device_id};
    // Managed memory may be in use on its device, so the CPU keeps off it.
    case kDLCUDA:
    case kDLCUDAManaged:
      return Device{MemoryKind::kDevice, device.device_id};
  }
  return std::nullopt;
}

Error refused(const std::string& why) {
  return {Code::kInvalidArgument, "cannot borrow the DLPack tensor: " + why};
}

/// Bytes from the first element to the end of the last, or nothing if that overflows.
std::optional<std::size_t> span_bytes(const Shape& shape, const Shape& strides, std::size_t element_bytes) {
  std::int64_t last = 0;
  std::int64_t elements = 1;
  for (std::size_t axis = 0; axis < shape.rank(); ++axis) {
    if (shape[axis] == 0) return 0;
    std::int64_t reach = 0;
    if (__builtin_mul_overflow(shape[axis] - 1, strides[axis], &reach) ||
        __builtin_add_overflow(last, reach, &last) ||
        __builtin_mul_overflow(elements, shape[axis], &elements)) {
      return std::nullopt;
    }
  }
  const auto limit = std::numeric_limits<std::int64_t>::max() / static_cast<std::int64_t>(element_bytes);
  if (last >= limit || elements >= limit) return std::nullopt;
  return static_cast<std::size_t>(last + 1) * element_bytes;
}

/// Row-major strides; extents so large that they overflow are refused by span_bytes().
Shape compact_strides(const Shape& shape) {
  std::array<std::int64_t, Shape::kMaxRank> strides{};
  std::int64_t stride = 1;
  for (std::size_t axis = shape.rank(); axis-- > 0;) {
    strides[axis] = stride;
    if (__builtin_mul_overflow(stride, std::max<std::int64_t>(shape[axis], 1), &stride)) {
      stride = std::numeric_limits<std::int64_t>::max();
    }
  }
  return Shape(std::span<const std::int64_t>(strides.data(), shape.rank()));
}

/// What a DLPack tensor says, as ours.
struct View {
  DType dtype;
  Device device;
  Shape shape;
  Shape strides;
  std::byte* data;
  std::size_t bytes;
};

Result<View> view_of(const DLTensor& source) {
  const std::optional<DType> dtype = dtype_of(source.dtype);
  if (!dtype) {
    return refused("element type code " + std::to_string(source.dtype.code) + " of " +
                   std::to_string(source.dtype.bits) + " bits and " + std::to_string(source.dtype.lanes) +
                   " lanes is not supported");
  }
  const std::optional<Device> device = device_of(source.device);
  if (!device)
    return refused("device type " + std::to_string(source.device.device_type) + " is not supported");
  if (source.ndim < 0 || static_cast<std::size_t>(source.ndim) > Shape::kMaxRank) {
    return refused(std::to_string(source.ndim) + " axes; at most " + std::to_string(Shape::kMaxRank) +
                   " are supported");
  }
  const auto rank = static_cast<std::size_t>(source.ndim);
  const auto negative = [](std::int64_t value) { return value < 0; };
  if (std::any_of(source.shape, source.shape + rank, negative)) return refused("a negative extent");
  if (source.strides && std::any_of(source.strides, source.strides + rank, negative)) {
    return refused("negative strides are not supported; copy it first");
  }
  const Shape shape(std::span<const std::int64_t>(source.shape, rank));
  const Shape strides =
      source.strides ? Shape(std::span<const std::int64_t>(source.strides, rank)) : compact_strides(shape);
  const std::optional<std::size_t> bytes = span_bytes(shape, strides, size_of(*dtype));
  if (!bytes) return refused("its extents overflow");
  auto* const data = static_cast<std::byte*>(source.data);
  return View{*dtype, *device, shape, strides, data ? data + source.byte_offset : nullptr, *bytes};
}

void give_back(DLManagedTensor* managed) {
  if (managed->deleter) managed->deleter(managed);
}

}  // namespace

DLManagedTensor* export_tensor(const Tensor& tensor) {
  auto exported = std::make_unique<Exported>(Exported{{}, tensor, {}, {}});
  std::ranges::copy(tensor.shape().extents(), exported->shape.begin());
  std::ranges::copy(tensor.strides().extents(), exported->strides.begin());
  exported->managed = {
      .dl_tensor = {.data = tensor.data(),
                    .device = device_of(tensor.device()),
                    .ndim = static_cast<std::int32_t>(tensor.rank()),
                    .dtype = type_of(tensor.dtype()),
                    .shape = exported->shape.data(),
                    .strides = exported->strides.data(),
                    .byte_offset = 0},
      .manager_ctx = exported.get(),
      .deleter = [](DLManagedTensor* self) { delete static_cast<Exported*>(self->manager_ctx); }};
  return &exported.release()->managed;
}

Result<Tensor> import_tensor(DLManagedTensor* managed) {
  const Result<View> view = view_of(managed->dl_tensor);
  if (!view) return view.error();
  Buffer buffer = Buffer::adopt(view->data, view->bytes, view->device, [managed] { give_back(managed); });
  return Tensor(view->dtype, view->shape, view->strides, std::move(buffer), 0);
}

Result<DLManagedTensor*> export_tensor(const Tensor& tensor, const Stream& consumer) {
  if (auto begun = begin_read(tensor.buffer(), consumer); !begun) return begun.error();
  return export_tensor(tensor);
}

Result<Tensor> import_tensor(DLManagedTensor* managed, const Gpu& gpu, const Stream& consumer) {
  const Result<View> view = view_of(managed->dl_tensor);
  if (!view) return view.error();
  if (view->device != gpu.device()) {
    return refused("it lies on device type " + std::to_string(managed->dl_tensor.device.device_type) +
                   ", number " + std::to_string(view->device.ordinal) + ", not on GPU " +
                   std::to_string(gpu.device().ordinal));
  }
  Result<Buffer> buffer = adopt_gpu_memory(gpu, view->data, view->bytes, view->device, consumer,
                                           [managed] { give_back(managed); });
  if (!buffer) return buffer.error();
  return Tensor(view->dtype, view->shape, view->strides, *std::move(buffer), 0);
}

}  // namespace troupe::dlpack
