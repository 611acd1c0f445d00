#include <troupe/runtime/tensor.hpp>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include <doctest/doctest.h>
#include <troupe/runtime/fresh_memory.hpp>
#include <troupe/runtime/memory_pool.hpp>

using namespace troupe;

namespace {

Tensor counting(Shape shape) {
  Tensor tensor = Tensor::empty(DType::kInt32, shape);
  const auto values = tensor.as<std::int32_t>();
  std::iota(values.begin(), values.end(), 0);
  return tensor;
}

std::vector<std::int32_t> values_of(const Tensor& tensor) {
  const auto values = tensor.as<const std::int32_t>();
  return {values.begin(), values.end()};
}

}  // namespace

TEST_CASE("every dtype has a size and a name") {
  CHECK(size_of(DType::kBFloat16) == 2);
  CHECK(size_of(DType::kUInt64) == 8);
  CHECK(to_string(DType::kFloat16) == "float16");
  CHECK(dtype_of<bool>() == DType::kBool);
  CHECK(dtype_of<double>() == DType::kFloat64);
}

TEST_CASE("shapes count their elements, compare and print") {
  CHECK(Shape{}.elements() == 1);
  CHECK(Shape{3, 0, 2}.elements() == 0);
  CHECK(Shape{512, 200}.to_string() == "[512, 200]");
  CHECK(Shape{2, 3} == Shape{2, 3});
  CHECK_FALSE(Shape{2, 3} == Shape{2, 3, 1});
}

TEST_CASE("a tensor of values holds a copy of them") {
  const Tensor tensor = Tensor::of<float>({1.0F, 2.0F, 3.0F});
  CHECK(tensor.to_string() == "float32[3]");
  CHECK(tensor.as<float>()[2] == 3.0F);
  CHECK(tensor.bytes() == 12);
}

TEST_CASE("zeros are zero, from the heap and from a used pool") {
  MemoryPool pool;
  {
    const Tensor dirty = Tensor::empty(DType::kUInt8, Shape{100}, &pool);
    std::ranges::fill(dirty.as<std::uint8_t>(), std::uint8_t{9});
  }
  for (MemoryPool* from : {static_cast<MemoryPool*>(nullptr), &pool}) {
    const Tensor zeros = Tensor::zeros(DType::kUInt8, Shape{10, 10}, from);
    CHECK(std::ranges::all_of(zeros.as<std::uint8_t>(), [](std::uint8_t x) { return x == 0; }));
  }
  if (!kFreshMemory) CHECK(pool.stats().misses == 1);
}

TEST_CASE("rank 0 is one element, and zero extents are none") {
  const Tensor scalar = counting(Shape{});
  CHECK(scalar.elements() == 1);
  CHECK(scalar.is_contiguous());
  CHECK(values_of(scalar.clone()) == std::vector<std::int32_t>{0});
  const Tensor none = counting(Shape{4, 0, 3});
  CHECK(none.elements() == 0);
  CHECK(none.bytes() == 0);
  CHECK(none.is_contiguous());
  CHECK(none.clone().shape() == Shape{4, 0, 3});
  CHECK(none.rows(1, 3).shape() == Shape{2, 0, 3});
  CHECK(Tensor().elements() == 0);
}

TEST_CASE("rows share the bytes, reshape too") {
  const Tensor tensor = counting(Shape{4, 3});
  const Tensor middle = tensor.rows(1, 3);
  CHECK(middle.shape() == Shape{2, 3});
  CHECK(values_of(middle) == std::vector<std::int32_t>{3, 4, 5, 6, 7, 8});
  const Tensor flat = middle.reshape(Shape{6});
  flat.as<std::int32_t>()[0] = 77;
  CHECK(tensor.as<std::int32_t>()[3] == 77);
  CHECK(tensor.rows(4, 4).elements() == 0);
  CHECK(values_of(middle.rows(1, 2)) == std::vector<std::int32_t>{6, 7, 8});
}

TEST_CASE("strided tensors become contiguous copies in row-major order") {
  const Tensor tensor = counting(Shape{2, 3, 4});
  const Tensor transposed(DType::kInt32, Shape{3, 2, 4}, Shape{4, 12, 1}, tensor.buffer(), 0);
  CHECK_FALSE(transposed.is_contiguous());
  CHECK(values_of(transposed.contiguous()) == std::vector<std::int32_t>{0, 1, 2,  3,  12, 13, 14, 15,
                                                                        4, 5, 6,  7,  16, 17, 18, 19,
                                                                        8, 9, 10, 11, 20, 21, 22, 23});
  const Tensor column(DType::kInt32, Shape{2, 3}, Shape{12, 4}, tensor.buffer(), 1);
  CHECK(values_of(column.clone()) == std::vector<std::int32_t>{1, 5, 9, 13, 17, 21});
  const Tensor repeated(DType::kInt32, Shape{3, 2}, Shape{0, 1}, tensor.buffer(), 5);
  CHECK(values_of(repeated.clone()) == std::vector<std::int32_t>{5, 6, 5, 6, 5, 6});
  CHECK(tensor.contiguous().data() == tensor.data());
  CHECK(tensor.clone().data() != tensor.data());
}

TEST_CASE("axes of extent one do not count for contiguity") {
  const Tensor tensor = counting(Shape{6});
  const Tensor odd(DType::kInt32, Shape{1, 6, 1}, Shape{100, 1, 50}, tensor.buffer(), 0);
  CHECK(odd.is_contiguous());
  CHECK(values_of(odd) == values_of(tensor));
}
