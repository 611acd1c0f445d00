#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "troupe/kernels/key_map.hpp"
#include "troupe/kernels/row_table.hpp"
#include "troupe/kernels/step.hpp"
#include "troupe/kernels/vector.hpp"

/// The GPU's side of the functions that take a Place: src/cuda/*.cu, or src/no_cuda/ where there is no CUDA.
namespace troupe::kernels::gpu {

Launch gather_rows(Place place, Element element, const void* base, std::int64_t stride,
                   const std::uint64_t* indices, std::int64_t count, std::int64_t dim, float* out);
Launch gather_pooled(Place place, Element element, const void* base, std::int64_t stride,
                     const std::uint64_t* indices, const std::int64_t* offsets, std::int64_t bags,
                     std::int64_t dim, Pooling pooling, float* out);
Launch cast(Place place, Element from_element, const void* from, Element to_element, void* to,
            std::int64_t n);
Launch squared_norm(Place place, const float* x, std::int64_t n, double* out, void* workspace);
Launch clip_to_norm(Place place, float* x, std::int64_t n, const double* squared, float max_norm);
Launch update_rows(Place place, const Step& step, const RowTable& table, const std::uint64_t* rows,
                   const float* gradients, std::int64_t count);
std::size_t sort_rows_workspace(Place place, std::int64_t count, std::int64_t row_count);
Launch sort_rows(Place place, const std::uint64_t* rows, std::int64_t count, std::int64_t row_count,
                 std::uint32_t* sorted, std::uint32_t* positions, void* workspace,
                 std::size_t workspace_bytes);
std::size_t update_rows_summed_workspace(Place place, const Step& step, const RowTable& table,
                                         std::int64_t row_count, const float* gradients, std::int64_t count);
Launch update_rows_summed(Place place, const Step& step, const RowTable& table, std::int64_t row_count,
                          const std::uint64_t* rows, const float* gradients, std::int64_t count,
                          void* workspace, std::size_t workspace_bytes);
Launch dense_step(Place place, const Step& step, std::span<const DenseTensor> tensors, std::int64_t number,
                  void* workspace);

Launch clear_map(Place place, const KeyMap& map);
Launch find_rows(Place place, const KeyMap& map, const SlotRows& rows, const std::uint64_t* keys,
                 std::int64_t count, std::uint32_t now, std::uint64_t* slots, float* out);
Launch insert_or_assign(Place place, const KeyMap& map, const SlotRows& rows, const std::uint64_t* keys,
                        const float* values, std::int64_t count, std::uint32_t now, Full full,
                        std::uint64_t* slots, std::uint8_t* is_new, std::uint64_t* evicted);
Launch erase_keys(Place place, const KeyMap& map, const std::uint64_t* keys, std::int64_t count,
                  std::uint64_t* slots);
Launch export_keys(Place place, const KeyMap& map, std::int64_t first, std::int64_t buckets,
                   std::uint64_t* keys, std::uint64_t* slots, std::uint64_t* count);

}  // namespace troupe::kernels::gpu
