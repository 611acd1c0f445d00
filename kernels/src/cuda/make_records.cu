// First values of rows. Compiled without fused multiply-adds (see initial_value.hpp). A warp takes a row.
#include "cuda/device.cuh"
#include "gpu_records.hpp"
#include "initial_value.hpp"
#include "record_places.hpp"

namespace troupe::kernels::gpu {
namespace {

__device__ __forceinline__ std::int64_t index_of_warp() {
  return (std::int64_t{blockIdx.x} * kBlock + threadIdx.x) / kWarp;
}

__global__ void __launch_bounds__(kBlock)
    make_kernel(RecordSlabs slabs, RecordShape shape, Initial initial, const std::uint64_t* __restrict__ keys,
                const std::uint64_t* __restrict__ numbers, const std::uint8_t* __restrict__ is_new,
                std::int64_t count) {
  const std::int64_t i = index_of_warp();
  if (i >= count || (is_new && is_new[i] == 0)) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::uint64_t number = numbers[i];
  const std::uint64_t key = keys[i];
  std::byte* const record = record_at(slabs, number);
  const std::uint64_t start = random_start(initial.seed, key);
  for (std::int64_t j = lane; j < shape.dim; j += kWarp) {
    const Floats<1> value{{initial_value(initial, start, static_cast<std::uint64_t>(j))}};
    store<1>(shape.element, record, j, value);
  }
  // Padding is two bytes at most.
  const std::int64_t weight_bytes = shape.dim * static_cast<std::int64_t>(size_of(shape.element));
  if (lane == 0 && weight_bytes < shape.state_at)
    *reinterpret_cast<std::uint16_t*>(record + weight_bytes) = 0;
  auto* state = reinterpret_cast<float*>(record + shape.state_at);
  for (int f = 0; f < shape.fields; ++f) {
    for (std::int64_t j = lane; j < shape.field_floats[f]; j += kWarp) state[j] = shape.first_values[f];
    state += shape.field_floats[f];
  }
  if (lane != 0) return;
  key_at(slabs, number) = key;
  kept_at(slabs, number) = 0;
  mark_at(slabs, number) = kRowLives | kRowUsed;
}

__global__ void __launch_bounds__(kBlock)
    show_kernel(RecordShape shape, Initial initial, const std::uint64_t* __restrict__ keys,
                const std::uint64_t* __restrict__ numbers, std::int64_t count, float* __restrict__ out) {
  const std::int64_t i = index_of_warp();
  if (i >= count || numbers[i] != kNoRow) return;
  const std::uint64_t start = random_start(initial.seed, keys[i]);
  for (std::int64_t j = static_cast<int>(threadIdx.x) % kWarp; j < shape.dim; j += kWarp) {
    float value = initial_value(initial, start, static_cast<std::uint64_t>(j));
    if (shape.element != Element::kFloat32)
      value = half_to_float(shape.element, float_to_half(shape.element, value));
    out[i * shape.dim + j] = value;
  }
}

unsigned blocks_for(std::int64_t warps) {
  return static_cast<unsigned>(ceil_div(warps * kWarp, kBlock));
}

}  // namespace

Launch make_records(Place place, const RecordSlabs& slabs, const RecordShape& shape, const Initial& initial,
                    const std::uint64_t* keys, const std::uint64_t* numbers, const std::uint8_t* is_new,
                    std::int64_t count) {
  if (count == 0) return {};
  const OnDevice here(place);
  make_kernel<<<blocks_for(count), kBlock, 0, stream_of(place)>>>(slabs, shape, initial, keys, numbers,
                                                                  is_new, count);
  return launched("make_records");
}

Launch show_rows(Place place, const RecordShape& shape, const Initial& initial, const std::uint64_t* keys,
                 const std::uint64_t* numbers, std::int64_t count, float* out) {
  if (count == 0) return {};
  const OnDevice here(place);
  show_kernel<<<blocks_for(count), kBlock, 0, stream_of(place)>>>(shape, initial, keys, numbers, count, out);
  return launched("show_rows");
}

}  // namespace troupe::kernels::gpu
