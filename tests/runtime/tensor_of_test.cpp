#include <troupe/runtime/tensor_of.hpp>

#include <cstdint>
#include <limits>
#include <vector>

#include <doctest/doctest.h>

using namespace troupe;

namespace {

Tensor on_device() {
  static std::byte memory[64];
  return Tensor(DType::kFloat32, Shape{4},
                Buffer::adopt(memory, sizeof memory, {MemoryKind::kDevice, 0}, [] {}));
}

Tensor strided() {
  return Tensor(DType::kFloat32, Shape{2, 2}, Shape{1, 2}, Buffer::allocate(16), 0);
}

}  // namespace

TEST_CASE("elements are given out as what they are only, in every build") {
  const Tensor bytes = Tensor::of<std::int8_t>({1, 2, 3});
  CHECK_THROWS_AS((void)bytes.as<float>(), BadTensor);
  CHECK_THROWS_AS((void)bytes.as<const std::uint8_t>(), BadTensor);
  CHECK(bytes.as<std::int8_t>().size() == 3);
  CHECK_THROWS_AS((void)strided().as<const float>(), BadTensor);
  CHECK_THROWS_AS((void)on_device().as<const float>(), BadTensor);
  CHECK_THROWS_AS((void)on_device().clone(), BadTensor);
  const Tensor odd(DType::kFloat32, Shape{1}, Buffer::allocate(8).slice(1, 7));
  CHECK_THROWS_AS((void)odd.as<float>(), BadTensor);
  try {
    (void)bytes.as<float>();
  } catch (const BadTensor& bad) {
    CHECK(bad.error().code == Code::kInvalidArgument);
    CHECK(bad.error().message == "a tensor int8[3] is not of float32");
  }
}

TEST_CASE("no tensor reaches outside of its buffer") {
  const Buffer memory = Buffer::allocate(64);
  constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
  CHECK_THROWS_AS(Tensor(DType::kFloat32, Shape{17}, memory), BadTensor);
  CHECK_NOTHROW(Tensor(DType::kFloat32, Shape{16}, memory));
  CHECK_THROWS_AS(Tensor(DType::kFloat32, Shape{2, 3}, Shape{13, 1}, memory, 2), BadTensor);
  CHECK_NOTHROW(Tensor(DType::kFloat32, Shape{2, 3}, Shape{13, 1}, memory, 0));
  CHECK_THROWS_AS(Tensor(DType::kFloat32, Shape{1}, Shape{1}, memory, -1), BadTensor);
  CHECK_THROWS_AS(Tensor(DType::kFloat32, Shape{1}, Shape{1, 1}, memory, 0), BadTensor);
  CHECK_THROWS_AS(Tensor(DType::kFloat32, Shape{kMost, kMost}, memory), BadTensor);
  CHECK_THROWS_AS(Tensor(DType::kFloat32, Shape{3, 3}, Shape{kMost, 1}, memory, 0), BadTensor);
  CHECK_THROWS_AS(Tensor(DType::kUInt8, Shape{1}, Shape{1}, memory, kMost), BadTensor);
  CHECK_THROWS_AS((void)Tensor::empty(DType::kFloat64, Shape{kMost}), BadTensor);
  CHECK_THROWS_AS((void)Shape({kMost, 2}).elements(), BadTensor);
  CHECK(Shape({kMost, kMost, 0}).elements() == 0);
  CHECK_THROWS_AS(Shape(std::span<const std::int64_t>(std::vector<std::int64_t>(9, 1))), BadTensor);
  CHECK_THROWS_AS(Shape({2, -1}), BadTensor);
  const Tensor rows(DType::kFloat32, Shape{4, 4}, memory);
  CHECK_THROWS_AS((void)rows.shape()[2], BadTensor);
  CHECK_THROWS_AS((void)rows.rows(2, 5), BadTensor);
  CHECK_THROWS_AS((void)rows.rows(-1, 2), BadTensor);
  CHECK_THROWS_AS((void)rows.rows(3, 2), BadTensor);
  CHECK_THROWS_AS((void)Tensor(DType::kFloat32, Shape{}, memory).rows(0, 0), BadTensor);
  CHECK_THROWS_AS((void)rows.reshape(Shape{15}), BadTensor);
  CHECK_THROWS_AS((void)strided().reshape(Shape{4}), BadTensor);
  CHECK_THROWS_AS(require_same_shape(rows, rows.reshape(Shape{16})), BadTensor);
  CHECK_NOTHROW(require_same_shape(rows, Tensor::zeros(DType::kInt8, Shape{4, 4})));
}

TEST_CASE("a TensorOf is of its dtype and rank, contiguous, and in host memory") {
  const Tensor two = Tensor::zeros(DType::kFloat32, Shape{2, 3});
  CHECK_THROWS_AS((TensorOf<float, 1>(two)), BadTensor);
  CHECK_THROWS_AS((TensorOf<double, 2>(two)), BadTensor);
  CHECK_THROWS_AS((TensorOf<float, 2>(strided())), BadTensor);
  CHECK_THROWS_AS((TensorOf<float>(on_device())), BadTensor);
  CHECK(TensorOf<float, 2>(two).tensor().data() == two.data());
  CHECK(TensorOf<float>(two).size() == 6);
  CHECK(TensorOf<float, 2>::type_name() == "tensor<float32, 2>");
  CHECK(TensorOf<std::uint64_t>::type_name() == "tensor<uint64>");
  CHECK(TensorOf<float, 3>().extent(2) == 0);
  CHECK(TensorOf<float>().empty());
  CHECK(TensorOf<float, 0>().at() == 0.0F);
  CHECK_THROWS_AS((void)(TensorOf<float, 1>::empty(Shape{2, 2})), BadTensor);
}

TEST_CASE("elements of a TensorOf are read with bounds, and written through a span") {
  const TensorOf<float, 1> line{1, 2, 3};
  CHECK(line[2] == 3);
  CHECK_THROWS_AS((void)line[3], BadTensor);
  CHECK_THROWS_AS((void)line.at(-1), BadTensor);
  CHECK(std::vector<float>(line.values().begin(), line.values().end()) == std::vector<float>{1, 2, 3});

  const auto table = TensorOf<std::int32_t, 2>::zeros(Shape{2, 3});
  table.writable()[5] = 7;
  CHECK(table.at(1, 2) == 7);
  CHECK_THROWS_AS((void)table.at(1, 3), BadTensor);
  CHECK_THROWS_AS((void)table.at(2, 0), BadTensor);
  const TensorOf<std::int32_t> flat = table.tensor();
  CHECK(flat[5] == 7);
  CHECK_THROWS_AS((void)flat[6], BadTensor);
  const auto copy = table.clone();
  copy.writable()[5] = 8;
  CHECK(table.at(1, 2) == 7);
}
