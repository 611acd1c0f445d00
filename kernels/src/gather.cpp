#include "troupe/kernels/gather.hpp"

#include <cassert>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "gather.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace troupe::kernels::HWY_NAMESPACE {

HWY_INLINE void copy_row(const float* from, std::int64_t dim, float* to) {
  for_blocks<4>(dim, [=](auto block, std::int64_t i, int)
                         TROUPE_SIMD_LAMBDA { block.store(block.load(from + i), to + i); });
}

HWY_INLINE void zero_floats(std::int64_t n, float* to) {
  for_blocks<4>(n, [=](auto block, std::int64_t i, int)
                       TROUPE_SIMD_LAMBDA { block.store(hn::Zero(FloatTag()), to + i); });
}

HWY_INLINE void add_scaled(const float* from, std::int64_t dim, Floats alpha, float* to) {
  for_blocks<4>(dim, [=](auto block, std::int64_t i, int) TROUPE_SIMD_LAMBDA {
    block.store(hn::MulAdd(alpha, block.load(from + i), block.load(to + i)), to + i);
  });
}

// Calls visit(i, row_of(i)) for each i < count while the next rows are on their way.
template <class RowOf, class Visit>
HWY_INLINE void for_scattered(std::int64_t count, std::int64_t dim, const RowOf& row_of, const Visit& visit) {
  const std::int64_t row_bytes = dim * static_cast<std::int64_t>(sizeof(float));
  const std::int64_t distance = prefetch_distance(row_bytes);
  for (std::int64_t i = 0; i < HWY_MIN(distance, count); ++i) prefetch_bytes(row_of(i), row_bytes);
  for (std::int64_t i = 0; i < count; ++i) {
    if (i + distance < count) prefetch_bytes(row_of(i + distance), row_bytes);
    visit(i, row_of(i));
  }
}

void gather_pointers(const float* const* rows, std::int64_t count, std::int64_t dim, float* out) {
  for_scattered(
      count, dim, [=](std::int64_t i) TROUPE_SIMD_LAMBDA { return rows[i]; },
      [=](std::int64_t i, const float* row) TROUPE_SIMD_LAMBDA {
        if (row == nullptr) {
          zero_floats(dim, out + i * dim);
        } else {
          copy_row(row, dim, out + i * dim);
        }
      });
}

void gather_indices(const float* base, std::int64_t stride, const std::uint64_t* indices, std::int64_t count,
                    std::int64_t dim, float* out) {
  for_scattered(
      count, dim,
      [=](std::int64_t i)
          TROUPE_SIMD_LAMBDA { return base + static_cast<std::int64_t>(indices[i]) * stride; },
      [=](std::int64_t i, const float* row) TROUPE_SIMD_LAMBDA { copy_row(row, dim, out + i * dim); });
}

void scatter_add_pointers(const float* values, float* const* rows, std::int64_t count, std::int64_t dim,
                          float alpha) {
  const Floats factor = hn::Set(FloatTag(), alpha);
  for_scattered(
      count, dim, [=](std::int64_t i) TROUPE_SIMD_LAMBDA { return rows[i]; },
      [=](std::int64_t i, float* row) TROUPE_SIMD_LAMBDA { add_scaled(values + i * dim, dim, factor, row); });
}

void scatter_add_indices(const float* values, float* base, std::int64_t stride, const std::uint64_t* indices,
                         std::int64_t count, std::int64_t dim, float alpha) {
  const Floats factor = hn::Set(FloatTag(), alpha);
  for_scattered(
      count, dim,
      [=](std::int64_t i)
          TROUPE_SIMD_LAMBDA { return base + static_cast<std::int64_t>(indices[i]) * stride; },
      [=](std::int64_t i, float* row) TROUPE_SIMD_LAMBDA { add_scaled(values + i * dim, dim, factor, row); });
}

void segment_sum(const float* values, const std::uint64_t* segments, std::int64_t count, std::int64_t dim,
                 float* out, std::int64_t segment_count) {
  const Floats one = hn::Set(FloatTag(), 1.0F);
  // Segments below `known` hold sums or zeros, the others nothing yet. A first value is copied, so that an
  // output in order of first occurrence is never zeroed before.
  std::int64_t known = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto segment = static_cast<std::int64_t>(segments[i]);
    const float* value = values + i * dim;
    float* sum = out + segment * dim;
    if (segment < known) {
      add_scaled(value, dim, one, sum);
      continue;
    }
    zero_floats((segment - known) * dim, out + known * dim);
    copy_row(value, dim, sum);
    known = segment + 1;
  }
  zero_floats((segment_count - known) * dim, out + known * dim);
}

}  // namespace troupe::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace troupe::kernels {

HWY_EXPORT(gather_pointers);
HWY_EXPORT(gather_indices);
HWY_EXPORT(scatter_add_pointers);
HWY_EXPORT(scatter_add_indices);
HWY_EXPORT(segment_sum);

void gather_rows(const float* const* rows, std::int64_t count, std::int64_t dim, float* out) {
  HWY_DYNAMIC_DISPATCH(gather_pointers)(rows, count, dim, out);
}

void gather_rows(const float* base, std::int64_t stride, const std::uint64_t* indices, std::int64_t count,
                 std::int64_t dim, float* out) {
  assert(stride >= dim);
  HWY_DYNAMIC_DISPATCH(gather_indices)(base, stride, indices, count, dim, out);
}

void scatter_add_rows(const float* values, float* const* rows, std::int64_t count, std::int64_t dim,
                      float alpha) {
  HWY_DYNAMIC_DISPATCH(scatter_add_pointers)(values, rows, count, dim, alpha);
}

void scatter_add_rows(const float* values, float* base, std::int64_t stride, const std::uint64_t* indices,
                      std::int64_t count, std::int64_t dim, float alpha) {
  assert(stride >= dim);
  HWY_DYNAMIC_DISPATCH(scatter_add_indices)(values, base, stride, indices, count, dim, alpha);
}

void segment_sum(const float* values, const std::uint64_t* segments, std::int64_t count, std::int64_t dim,
                 float* out, std::int64_t segment_count) {
#ifndef NDEBUG
  for (std::int64_t i = 0; i < count; ++i) assert(segments[i] < static_cast<std::uint64_t>(segment_count));
#endif
  HWY_DYNAMIC_DISPATCH(segment_sum)(values, segments, count, dim, out, segment_count);
}

}  // namespace troupe::kernels
#endif
