#pragma once

#include <cstdint>

/// Moving rows of float32 between scattered places and contiguous batches.
///
/// A scattered row is given by its own pointer, or as row indices[i] of a base address: base +
/// indices[i] * stride, with stride >= dim in floats. A batch is [count, dim], contiguous. Batches must not
/// overlap rows; an index may occur more than once. Every function may be called from any thread at once
/// as long as nobody writes what another reads or writes.
namespace troupe::kernels {

/// out[i, :] = rows[i][0..dim); a null pointer gives zeros.
void gather_rows(const float* const* rows, std::int64_t count, std::int64_t dim, float* out);

/// out[i, :] = row indices[i] of base.
void gather_rows(const float* base, std::int64_t stride, const std::uint64_t* indices, std::int64_t count,
                 std::int64_t dim, float* out);

/// rows[i][0..dim) += alpha * values[i, :], in the order of i.
void scatter_add_rows(const float* values, float* const* rows, std::int64_t count, std::int64_t dim,
                      float alpha = 1.0F);

/// Row indices[i] of base += alpha * values[i, :], in the order of i.
void scatter_add_rows(const float* values, float* base, std::int64_t stride, const std::uint64_t* indices,
                      std::int64_t count, std::int64_t dim, float alpha = 1.0F);

/// out[s, :] = the sum of values[i, :] over all i with segments[i] == s, for s < segment_count; added in the
/// order of i. A segment without values is zeros. With `segments` the inverse index of a Dedup, this makes
/// one gradient for each unique key. Fastest when segments first occur in rising order, as Dedup's do.
void segment_sum(const float* values, const std::uint64_t* segments, std::int64_t count, std::int64_t dim,
                 float* out, std::int64_t segment_count);

}  // namespace troupe::kernels
