#pragma once

#include <cstddef>
#include <cstdint>

#include <troupe/kernels/place.hpp>

/// Rows of a table in one piece of memory, on the host or on a GPU. Sizes and strides are in elements, not
/// negative; a row number is below the table's, or kNoRow where that is said. Fastest where dim is a multiple
/// of 4 and rows begin at multiples of 16 bytes.
namespace troupe::kernels {

inline constexpr std::uint64_t kNoRow = ~std::uint64_t{0};

/// out[i, :] = row indices[i] of base as float32, zeros for kNoRow; out[count, dim].
Launch gather_rows(Place place, Element element, const void* base, std::int64_t stride,
                   const std::uint64_t* indices, std::int64_t count, std::int64_t dim, float* out);

enum class Pooling : std::uint8_t { kSum, kMean };

/// out[b, :] = the sum, or the mean, of the rows indices[offsets[b]] .. indices[offsets[b + 1] - 1], for
/// `bags` bags; zeros for an empty one. offsets[bags + 1] does not fall. out[bags, dim].
Launch gather_pooled(Place place, Element element, const void* base, std::int64_t stride,
                     const std::uint64_t* indices, const std::int64_t* offsets, std::int64_t bags,
                     std::int64_t dim, Pooling pooling, float* out);

/// Bytes that sort_rows() needs on a GPU; 0 on the host.
std::size_t sort_rows_workspace(Place place, std::int64_t count, std::int64_t row_count);

/// sorted[k] = the row numbers of a batch, rising; positions[k] = where in `rows` it stands: of equal ones in
/// the batch's order. Rows are below row_count, which is below 2^32; `count` is below 2^31. `workspace` is
/// 512-byte aligned.
Launch sort_rows(Place place, const std::uint64_t* rows, std::int64_t count, std::int64_t row_count,
                 std::uint32_t* sorted, std::uint32_t* positions, void* workspace,
                 std::size_t workspace_bytes);

}  // namespace troupe::kernels
