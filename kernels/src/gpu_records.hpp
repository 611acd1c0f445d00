#pragma once

#include "troupe/kernels/record_slabs.hpp"
#include "troupe/kernels/row_index.hpp"

/// The GPU's side of row_index.hpp and record_slabs.hpp.
namespace troupe::kernels::gpu {

Launch clear_index(Place place, const RowIndex& index);
Launch find_numbers(Place place, const RowIndex& index, const std::uint64_t* keys, std::int64_t count,
                    std::uint64_t* numbers);
Launch insert_numbers(Place place, const RowIndex& index, RowCounts* counts, const std::uint64_t* free_list,
                      bool use_free, const KeyBatch& batch);
Launch erase_numbers(Place place, const RowIndex& index, RowCounts* counts, std::uint64_t* free_list,
                     const std::uint64_t* keys, std::int64_t count, std::uint64_t* numbers);
Launch move_index(Place place, const RowIndex& from, const RowIndex& to, RowCounts* counts);

Launch make_records(Place place, const RecordSlabs& slabs, const RecordShape& shape, const Initial& initial,
                    const std::uint64_t* keys, const std::uint64_t* numbers, const std::uint8_t* is_new,
                    std::int64_t count);
Launch pull_rows(Place place, const RowIndex& index, const RecordSlabs& slabs, const RecordShape& shape,
                 const Initial& initial, const std::uint64_t* keys, std::int64_t count, float* out,
                 std::uint64_t* absent, std::uint64_t ticket);
Launch find_records(Place place, const RecordSlabs& slabs, const std::uint64_t* numbers, std::int64_t count,
                    std::uint64_t* rows);
Launch write_records(Place place, const RecordSlabs& slabs, std::int64_t bytes, const std::byte* records,
                     const std::uint64_t* numbers, std::int64_t count);
Launch read_records(Place place, const RecordSlabs& slabs, const KeptSlabs& kept, std::uint64_t first,
                    const std::uint64_t* numbers, std::int64_t count, std::int64_t bytes, std::uint64_t* keys,
                    std::uint8_t* flags, std::byte* records);
Launch keep_records(Place place, const RecordSlabs& slabs, const KeptSlabs& kept, std::int64_t bytes,
                    RowCounts* counts, std::uint64_t first, std::uint64_t end, const std::uint64_t* numbers,
                    std::int64_t count);
Launch forget_kept(Place place, const RecordSlabs& slabs, RowCounts* counts, std::int64_t count);
Launch mask_marks(Place place, const RecordSlabs& slabs, const std::uint64_t* numbers, std::int64_t count,
                  std::uint8_t mask);
Launch mask_all_marks(Place place, const RecordSlabs& slabs, std::int64_t count, std::uint8_t mask);

}  // namespace troupe::kernels::gpu
