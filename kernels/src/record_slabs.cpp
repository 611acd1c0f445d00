// Records in slabs: to the GPU's version, or the same on the host, a row after the other.
#include "troupe/kernels/record_slabs.hpp"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <vector>

#include "gpu_records.hpp"
#include "host_row.hpp"
#include "record_places.hpp"

namespace troupe::kernels {

Launch make_records(Place place, const RecordSlabs& slabs, const RecordShape& shape, const Initial& initial,
                    const std::uint64_t* keys, const std::uint64_t* numbers, const std::uint8_t* is_new,
                    std::int64_t count) {
  if (place.on_gpu()) return gpu::make_records(place, slabs, shape, initial, keys, numbers, is_new, count);
  std::vector<float> weights(static_cast<std::size_t>(shape.dim));
  for (std::int64_t i = 0; i < count; ++i) {
    if (is_new && is_new[i] == 0) continue;
    std::byte* const record = record_at(slabs, numbers[i]);
    initial_row(initial, keys[i], shape.dim, weights.data());
    std::memset(record, 0, static_cast<std::size_t>(shape.state_at));  // with the padding
    HostRow(shape.element, record, 0).write(weights.data(), shape.dim);
    auto* state = reinterpret_cast<float*>(record + shape.state_at);
    for (int f = 0; f < shape.fields; ++f)
      state = std::fill_n(state, shape.field_floats[f], shape.first_values[f]);
    key_at(slabs, numbers[i]) = keys[i];
    kept_at(slabs, numbers[i]) = 0;
    mark_at(slabs, numbers[i]) = kRowLives | kRowUsed;
  }
  return {};
}

Launch pull_rows(Place place, const RowIndex& index, const RecordSlabs& slabs, const RecordShape& shape,
                 const Initial& initial, const std::uint64_t* keys, std::int64_t count, float* out,
                 std::uint64_t* absent, std::uint64_t ticket) {
  if (place.on_gpu())
    return gpu::pull_rows(place, index, slabs, shape, initial, keys, count, out, absent, ticket);
  std::vector<std::byte> as_kept(static_cast<std::size_t>(shape.dim) * size_of(shape.element));
  const HostRow made(shape.element, as_kept.data(), 0);
  for (std::int64_t i = 0; i < count; ++i, out += shape.dim) {
    const std::uint64_t number = number_of(index, keys[i]);
    if (number != kNoRow) {
      HostRow(shape.element, record_at(slabs, number), 0).read(shape.dim, out);
      mark_at(slabs, number) |= kRowUsed;
      continue;
    }
    if (absent) *absent = ticket;
    if (index.slots == 0) {
      std::fill_n(out, shape.dim, 0.0F);
      continue;
    }
    initial_row(initial, keys[i], shape.dim, out);
    made.write(out, shape.dim);
    made.read(shape.dim, out);
  }
  return {};
}

Launch find_records(Place place, const RecordSlabs& slabs, const std::uint64_t* numbers, std::int64_t count,
                    std::uint64_t* rows) {
  if (place.on_gpu()) return gpu::find_records(place, slabs, numbers, count, rows);
  for (std::int64_t i = 0; i < count; ++i) {
    rows[i] = kNoRow;
    if (numbers[i] == kNoRow) continue;
    rows[i] = unit_of(record_at(slabs, numbers[i]));
    mark_at(slabs, numbers[i]) |= kRowUsed;
  }
  return {};
}

// Any address will do for the first, as long as all slabs lie behind it; none is null, with which arithmetic
// is not defined.
RowTable table_of(const RecordShape& shape) {
  auto* const base = reinterpret_cast<std::byte*>(kRecordUnit);
  return {.element = shape.element,
          .weights = base,
          .weight_stride = kRecordUnit / static_cast<std::int64_t>(size_of(shape.element)),
          .state = reinterpret_cast<float*>(base + shape.state_at),
          .state_stride = kRecordUnit / static_cast<std::int64_t>(sizeof(float)),
          .dim = shape.dim};
}

Launch write_records(Place place, const RecordSlabs& slabs, std::int64_t bytes, const std::byte* records,
                     const std::uint64_t* numbers, std::int64_t count) {
  if (place.on_gpu()) return gpu::write_records(place, slabs, bytes, records, numbers, count);
  for (std::int64_t i = 0; i < count; ++i)
    if (numbers[i] != kNoRow)
      std::memcpy(record_at(slabs, numbers[i]), records + i * bytes, static_cast<std::size_t>(bytes));
  return {};
}

Launch read_records(Place place, const RecordSlabs& slabs, const KeptSlabs& kept, std::uint64_t first,
                    const std::uint64_t* numbers, std::int64_t count, std::int64_t bytes, std::uint64_t* keys,
                    std::uint8_t* flags, std::byte* records) {
  if (place.on_gpu())
    return gpu::read_records(place, slabs, kept, first, numbers, count, bytes, keys, flags, records);
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint64_t number = numbers ? numbers[i] : first + static_cast<std::uint64_t>(i);
    flags[i] = 0;
    if (number == kNoRow) continue;
    const std::uint64_t put_aside = kept.slabs ? kept_at(slabs, number) : 0;
    keys[i] = key_at(slabs, number);
    flags[i] = static_cast<std::uint8_t>(mark_at(slabs, number) | (put_aside != 0 ? kRowKept : 0));
    const std::byte* const from = put_aside != 0 ? record_at(kept, put_aside - 1) : record_at(slabs, number);
    std::memcpy(records + i * bytes, from, static_cast<std::size_t>(bytes));
  }
  return {};
}

Launch keep_records(Place place, const RecordSlabs& slabs, const KeptSlabs& kept, std::int64_t bytes,
                    RowCounts* counts, std::uint64_t first, std::uint64_t end, const std::uint64_t* numbers,
                    std::int64_t count) {
  if (place.on_gpu()) return gpu::keep_records(place, slabs, kept, bytes, counts, first, end, numbers, count);
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint64_t number = numbers[i];
    if (number == kNoRow || number < first || number >= end) continue;
    if ((mark_at(slabs, number) & kRowLives) == 0 || kept_at(slabs, number) != 0) continue;
    std::memcpy(record_at(kept, counts->kept), record_at(slabs, number), static_cast<std::size_t>(bytes));
    kept_at(slabs, number) = ++counts->kept;
  }
  return {};
}

Launch forget_kept(Place place, const RecordSlabs& slabs, RowCounts* counts, std::int64_t count) {
  if (place.on_gpu()) return gpu::forget_kept(place, slabs, counts, count);
  for (std::int64_t i = 0; i < count; ++i) kept_at(slabs, static_cast<std::uint64_t>(i)) = 0;
  counts->kept = 0;
  return {};
}

Launch mask_marks(Place place, const RecordSlabs& slabs, const std::uint64_t* numbers, std::int64_t count,
                  std::uint8_t mask) {
  if (place.on_gpu()) return gpu::mask_marks(place, slabs, numbers, count, mask);
  for (std::int64_t i = 0; i < count; ++i)
    if (numbers[i] != kNoRow) mark_at(slabs, numbers[i]) &= mask;
  return {};
}

Launch mask_all_marks(Place place, const RecordSlabs& slabs, std::int64_t count, std::uint8_t mask) {
  if (place.on_gpu()) return gpu::mask_all_marks(place, slabs, count, mask);
  for (std::int64_t i = 0; i < count; ++i) mark_at(slabs, static_cast<std::uint64_t>(i)) &= mask;
  return {};
}

}  // namespace troupe::kernels
