#include <troupe/runtime/dlpack.hpp>

#include <array>
#include <cstdint>
#include <limits>

#include <doctest/doctest.h>

using namespace troupe;
using namespace troupe::dlpack;

namespace {

/// A borrowed tensor as another library would make it.
struct Foreign {
  std::array<float, 12> data{};
  std::array<std::int64_t, 2> shape{3, 4};
  std::array<std::int64_t, 2> strides{4, 1};
  int deleted = 0;
  DLManagedTensor managed{{data.data(), {kDLCPU, 0}, 2, {kDLFloat, 32, 1}, shape.data(), strides.data(), 0},
                          this,
                          [](DLManagedTensor* self) { ++static_cast<Foreign*>(self->manager_ctx)->deleted; }};
};

}  // namespace

TEST_CASE("an exported tensor is the same memory and lives until it is deleted") {
  int released = 0;
  std::array<std::byte, 64> memory{};
  DLManagedTensor* managed = nullptr;
  {
    Buffer buffer = Buffer::adopt(memory.data(), 64, {MemoryKind::kDevice, 3}, [&] { ++released; });
    const Tensor tensor(DType::kBFloat16, Shape{4, 8}, buffer);
    managed = export_tensor(tensor.rows(1, 3));
  }
  CHECK(released == 0);
  const DLTensor& view = managed->dl_tensor;
  CHECK(view.data == memory.data() + 16);
  CHECK(view.device.device_type == kDLCUDA);
  CHECK(view.device.device_id == 3);
  CHECK(view.ndim == 2);
  CHECK(view.shape[0] == 2);
  CHECK(view.strides[0] == 8);
  CHECK(view.dtype.code == kDLBfloat);
  CHECK(view.dtype.bits == 16);
  managed->deleter(managed);
  CHECK(released == 1);
}

TEST_CASE("an imported tensor is the same memory and calls the deleter once") {
  Foreign foreign;
  foreign.managed.dl_tensor.byte_offset = 4;
  foreign.shape = {2, 2};
  {
    const Result<Tensor> tensor = import_tensor(&foreign.managed);
    REQUIRE(tensor.ok());
    CHECK(tensor->data() == reinterpret_cast<std::byte*>(&foreign.data[1]));
    CHECK(tensor->shape() == Shape{2, 2});
    CHECK(tensor->strides() == Shape{4, 1});
    CHECK(tensor->dtype() == DType::kFloat32);
    const Tensor row = tensor->rows(1, 2);
    row.as<float>()[1] = 5.0F;
    CHECK(foreign.data[6] == 5.0F);
    CHECK(foreign.deleted == 0);
  }
  CHECK(foreign.deleted == 1);
}

TEST_CASE("without strides a tensor is row-major; without elements it may have no memory") {
  Foreign foreign;
  foreign.managed.dl_tensor.strides = nullptr;
  CHECK(import_tensor(&foreign.managed)->strides() == Shape{4, 1});
  foreign.shape = {0, 4};
  foreign.managed.dl_tensor.data = nullptr;
  CHECK(import_tensor(&foreign.managed)->elements() == 0);
}

TEST_CASE("every dtype and memory kind survives the way there and back") {
  for (int i = 0; i <= static_cast<int>(DType::kBool); ++i) {
    const Tensor tensor = Tensor::zeros(static_cast<DType>(i), Shape{2, 3});
    CHECK(import_tensor(export_tensor(tensor))->dtype() == tensor.dtype());
  }
  std::array<std::byte, 4> memory{};
  for (const MemoryKind kind : {MemoryKind::kPinned, MemoryKind::kDevice}) {
    const Tensor tensor(DType::kUInt8, Shape{4}, Buffer::adopt(memory.data(), 4, {kind, 2}, nullptr));
    CHECK(import_tensor(export_tensor(tensor))->device() == Device{kind, 2});
  }
}

TEST_CASE("what a tensor cannot be is refused and stays the lender's") {
  Foreign foreign;
  DLTensor& source = foreign.managed.dl_tensor;
  const auto refused = [&] {
    const Result<Tensor> tensor = import_tensor(&foreign.managed);
    return !tensor && tensor.error().code == Code::kInvalidArgument;
  };
  source.dtype.lanes = 4;
  CHECK(refused());
  source.dtype = {kDLComplex, 64, 1};
  CHECK(refused());
  source.dtype = {kDLFloat, 32, 1};
  source.device.device_type = static_cast<DLDeviceType>(10);
  CHECK(refused());
  source.device.device_type = kDLCPU;
  foreign.strides[0] = -4;
  CHECK(refused());
  foreign.strides[0] = std::numeric_limits<std::int64_t>::max();
  CHECK(refused());
  foreign.strides[0] = 4;
  foreign.shape[1] = -1;
  CHECK(refused());
  foreign.shape = {std::int64_t{1} << 40, std::int64_t{1} << 40};
  source.strides = nullptr;
  CHECK(refused());
  source.ndim = 9;
  CHECK(refused());
  CHECK(foreign.deleted == 0);
}
