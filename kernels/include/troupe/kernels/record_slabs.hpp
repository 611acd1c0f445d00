#pragma once

#include <cstddef>
#include <cstdint>

#include <troupe/kernels/initial.hpp>
#include <troupe/kernels/place.hpp>
#include <troupe/kernels/row_index.hpp>
#include <troupe/kernels/step.hpp>

/// Rows with their state, as records that lie in slabs, by number; on the host or on a GPU. A slab has its
/// records first, then of each of its rows the key, what is kept of it, and a mark.
namespace troupe::kernels {

/// What a record is: weights, padded to four bytes, then state. The fields of state come in order.
struct RecordShape {
  static constexpr int kMostFields = 8;
  Element element = Element::kFloat32;
  std::int64_t dim = 0;
  std::int64_t state_at = 0;  ///< bytes
  std::int64_t bytes = 0;     ///< of all
  int fields = 0;
  std::int64_t field_floats[kMostFields] = {};
  float first_values[kMostFields] = {};  ///< of each number of the field, in a new row
};

struct RecordSlabs {
  std::byte* const* slabs = nullptr;  ///< in memory of the place; each aligned to 16 bytes
  unsigned shift = 0;                 ///< log2 of a slab's rows
  std::int64_t stride = 0;            ///< from one record to the next: bytes, a multiple of 16
  std::int64_t keys_at = 0;           ///< where a slab's keys begin: 8 bytes each
  std::int64_t kept_at = 0;           ///< 8 bytes each: 0, or 1 + the place where keep_records() has put it
  std::int64_t marks_at = 0;          ///< a byte each
};

/// Marks.
inline constexpr std::uint8_t kRowLives = 1;
inline constexpr std::uint8_t kRowUsed = 2;
/// Of flags that read_records() gives: there is a kept record.
inline constexpr std::uint8_t kRowKept = 4;

/// Records put aside, in slabs without keys and marks.
struct KeptSlabs {
  std::byte* const* slabs = nullptr;
  unsigned shift = 0;
  std::int64_t stride = 0;
};

/// Makes the rows of keys[i] where is_new[i], or of all if that is null: weights, state, key; they live and
/// have been used.
Launch make_records(Place place, const RecordSlabs& slabs, const RecordShape& shape, const Initial& initial,
                    const std::uint64_t* keys, const std::uint64_t* numbers, const std::uint8_t* is_new,
                    std::int64_t count);

/// out[i, :] = the weights of keys[i]'s row, which has been used, or, where it has none, those that it would
/// be made with; a key is a row's number itself if the index has no slots, and kNoRow then reads as zeros.
/// One launch. If a row is missing, `absent` becomes `ticket`: it lies where the place and the host reach it;
/// null: nobody asks.
Launch pull_rows(Place place, const RowIndex& index, const RecordSlabs& slabs, const RecordShape& shape,
                 const Initial& initial, const std::uint64_t* keys, std::int64_t count, float* out,
                 std::uint64_t* absent, std::uint64_t ticket);

/// rows[i] = where row numbers[i] lies, for a table_of() all slabs; kNoRow for kNoRow. They have been used.
Launch find_records(Place place, const RecordSlabs& slabs, const std::uint64_t* numbers, std::int64_t count,
                    std::uint64_t* rows);
/// The rows of all slabs there can be, for gather_rows() and update_rows() with what find_records() gave.
RowTable table_of(const RecordShape& shape);

/// Writes whole records, records[count, shape bytes], over rows that are there; nothing for kNoRow. No row
/// comes twice.
Launch write_records(Place place, const RecordSlabs& slabs, std::int64_t bytes, const std::byte* records,
                     const std::uint64_t* numbers, std::int64_t count);

/// Of these rows, or if `numbers` is null of first .. first + count - 1, whatever they are: keys, marks with
/// kRowKept, and the first `bytes` of their records, or of what is kept of them if `kept` has slabs:
/// records[count, bytes]. Flags of kNoRow are 0.
Launch read_records(Place place, const RecordSlabs& slabs, const KeptSlabs& kept, std::uint64_t first,
                    const std::uint64_t* numbers, std::int64_t count, std::int64_t bytes, std::uint64_t* keys,
                    std::uint8_t* flags, std::byte* records);

/// Copies the records of those of the rows that live, are numbered in [first, end) and of which nothing is
/// kept yet. A row may come twice.
Launch keep_records(Place place, const RecordSlabs& slabs, const KeptSlabs& kept, std::int64_t bytes,
                    RowCounts* counts, std::uint64_t first, std::uint64_t end, const std::uint64_t* numbers,
                    std::int64_t count);
/// Forgets what is kept of the rows 0 .. count - 1.
Launch forget_kept(Place place, const RecordSlabs& slabs, RowCounts* counts, std::int64_t count);

/// Leaves of the marks of these rows those of `mask`.
Launch mask_marks(Place place, const RecordSlabs& slabs, const std::uint64_t* numbers, std::int64_t count,
                  std::uint8_t mask);
/// The same for the rows 0 .. count - 1.
Launch mask_all_marks(Place place, const RecordSlabs& slabs, std::int64_t count, std::uint8_t mask);

}  // namespace troupe::kernels
