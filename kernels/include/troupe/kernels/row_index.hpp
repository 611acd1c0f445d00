#pragma once

#include <cstddef>
#include <cstdint>

#include <troupe/kernels/place.hpp>
#include <troupe/kernels/row_table.hpp>

/// Which row a key has, on the host or on a GPU. Rows have numbers, given out in the order in which their
/// keys first come, so that what a table is does not depend on how threads run; those of erased rows are used
/// again. A key may come more than once in a batch. Keys stand in one array, found by linear probing, so that
/// none is ever without room while the array is not full; every 64-bit number is a key.
///
/// Functions on one index go one after the other, in one stream. None waits for the host or allocates.
namespace troupe::kernels {

/// The arrays of an index.
struct RowIndex {
  std::uint64_t* keys = nullptr;     ///< [slots + 1]
  std::uint64_t* numbers = nullptr;  ///< [slots + 1]: the row of the key beside it; kNoRow: it has none now
  std::int64_t slots = 0;            ///< a power of two; never all of them filled
  std::uint64_t seed = 0;            ///< against who chooses keys to collide
};

/// What there is. Lies where the index lies; the host may have copies.
struct RowCounts {
  std::uint64_t numbered = 0;  ///< numbers given out, those of erased rows included
  std::uint64_t free = 0;      ///< of those, how many are on the list of free ones
  std::uint64_t rows = 0;      ///< keys that have a row
  std::uint64_t filled = 0;    ///< slots of the index that have a key, with a row or not
  std::uint64_t kept = 0;      ///< records that have been kept: see keep_records()
};

/// Keys, and what is found out about them.
struct KeyBatch {
  const std::uint64_t* keys = nullptr;    ///< [count]
  std::int64_t count = 0;                 ///< below 2^31
  std::uint64_t* numbers = nullptr;       ///< [count]: each key's row
  std::uint8_t* is_new = nullptr;         ///< [count]: 1 where the row has just been made
  std::uint64_t* slots = nullptr;         ///< [count], scratch
  std::uint64_t* block_counts = nullptr;  ///< [insert_blocks(count)], scratch
};
constexpr std::int64_t insert_blocks(std::int64_t count) {
  return (count + 255) / 256;
}

/// Forgets all keys.
Launch clear_index(Place place, const RowIndex& index);

/// numbers[i] = the row of keys[i], kNoRow if it has none.
Launch find_numbers(Place place, const RowIndex& index, const std::uint64_t* keys, std::int64_t count,
                    std::uint64_t* numbers);

/// The same for keys that get a row if they have none: of equal ones the first is new. Numbers come from the
/// end of `free_list` first if `use_free`. Precondition: slots are left for all that may be new.
Launch insert_numbers(Place place, const RowIndex& index, RowCounts* counts, const std::uint64_t* free_list,
                      bool use_free, const KeyBatch& batch);

/// The keys have no rows any more. numbers[i] = the one that keys[i] had; kNoRow if it had none, or if the
/// key came before. They go to the end of `free_list`, which has room for them.
Launch erase_numbers(Place place, const RowIndex& index, RowCounts* counts, std::uint64_t* free_list,
                     const std::uint64_t* keys, std::int64_t count, std::uint64_t* numbers);

/// Puts the keys that have rows into `to`, which is clear and has slots for them.
Launch move_index(Place place, const RowIndex& from, const RowIndex& to, RowCounts* counts);

}  // namespace troupe::kernels
