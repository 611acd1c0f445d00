// First values of rows, and rows that are read or would be made. Compiled without fused multiply-adds (see
// initial_value.hpp).
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

constexpr int kRowsAtOnce = 4;

/// A row's record and its mark as used; null: it has none.
__device__ __forceinline__ const std::byte* find_record(const RowIndex& index, const RecordSlabs& slabs,
                                                        std::uint64_t key) {
  const std::uint64_t number = number_of(index, key);
  if (number == kNoRow) return nullptr;
  std::uint8_t& mark = mark_at(slabs, number);
  if ((mark & kRowUsed) == 0) mark |= kRowUsed;  // whoever has the same row writes the same
  return record_at(slabs, number);
}

/// As gather_rows(): a group of lanes takes four rows. Each of its first lanes looks for one of them, so that
/// the reads of one search wait for no other's.
template <int width>
__global__ void __launch_bounds__(kBlock)
    pull_kernel(RowIndex index, RecordSlabs slabs, RecordShape shape, Initial initial,
                const std::uint64_t* __restrict__ keys, std::int64_t count, int lanes,
                float* __restrict__ out, std::uint64_t* absent, std::uint64_t ticket) {
  const std::int64_t thread = std::int64_t{blockIdx.x} * kBlock + threadIdx.x;
  const std::int64_t first = thread / lanes * kRowsAtOnce;
  const int lane = static_cast<int>(thread % lanes);
  if (first >= count) return;  // a whole group
  const int rows = static_cast<int>(min(static_cast<std::int64_t>(kRowsAtOnce), count - first));
  const std::byte* record[kRowsAtOnce];
  if (lanes >= kRowsAtOnce) {
    const std::byte* mine = nullptr;
    if (lane < rows) mine = find_record(index, slabs, keys[first + lane]);
    if (lane < rows && !mine && absent) *absent = ticket;
    const unsigned mask = group_mask(lanes);
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r)
      record[r] = reinterpret_cast<const std::byte*>(
          __shfl_sync(mask, reinterpret_cast<unsigned long long>(mine), r, lanes));
  } else {
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r) {
      record[r] = r < rows ? find_record(index, slabs, keys[first + r]) : nullptr;
      if (r < rows && !record[r] && absent) *absent = ticket;
    }
  }
  for (std::int64_t at = std::int64_t{lane} * width; at < shape.dim; at += std::int64_t{lanes} * width) {
    Floats<width> row[kRowsAtOnce];
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r)
      row[r] = record[r] ? load<width>(shape.element, record[r], at) : Floats<width>{};
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r) {
      if (r >= rows) continue;
      if (!record[r] && index.slots != 0) {
        const std::uint64_t start = random_start(initial.seed, keys[first + r]);
        for (int k = 0; k < width; ++k) {
          const float value = initial_value(initial, start, static_cast<std::uint64_t>(at + k));
          row[r].v[k] = shape.element == Element::kFloat32
                            ? value
                            : half_to_float(shape.element, float_to_half(shape.element, value));
        }
      }
      store_floats<width>(out, (first + r) * shape.dim + at, row[r]);
    }
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

Launch pull_rows(Place place, const RowIndex& index, const RecordSlabs& slabs, const RecordShape& shape,
                 const Initial& initial, const std::uint64_t* keys, std::int64_t count, float* out,
                 std::uint64_t* absent, std::uint64_t ticket) {
  if (count == 0 || shape.dim == 0) return {};
  const OnDevice here(place);
  const int width = shape.dim % 4 == 0 && aligned(out, 16) ? 4 : 1;  // records are aligned
  const int lanes = lanes_for(shape.dim, width);
  const auto blocks = static_cast<unsigned>(ceil_div(ceil_div(count, kRowsAtOnce) * lanes, kBlock));
  const auto kernel = width == 4 ? &pull_kernel<4> : &pull_kernel<1>;
  kernel<<<blocks, kBlock, 0, stream_of(place)>>>(index, slabs, shape, initial, keys, count, lanes, out,
                                                  absent, ticket);
  return launched("pull_rows");
}

}  // namespace troupe::kernels::gpu
