// Built where there is no CUDA toolkit: a place on a GPU does not exist.
#include "gpu_records.hpp"

namespace troupe::kernels::gpu {

Launch clear_index(Place, const RowIndex&) {
  return {"clear_index", kBuiltWithoutCuda};
}
Launch find_numbers(Place, const RowIndex&, const std::uint64_t*, std::int64_t, std::uint64_t*) {
  return {"find_numbers", kBuiltWithoutCuda};
}
Launch insert_numbers(Place, const RowIndex&, RowCounts*, const std::uint64_t*, bool, const KeyBatch&) {
  return {"insert_numbers", kBuiltWithoutCuda};
}
Launch erase_numbers(Place, const RowIndex&, RowCounts*, std::uint64_t*, const std::uint64_t*, std::int64_t,
                     std::uint64_t*) {
  return {"erase_numbers", kBuiltWithoutCuda};
}
Launch move_index(Place, const RowIndex&, const RowIndex&, RowCounts*) {
  return {"move_index", kBuiltWithoutCuda};
}

Launch make_records(Place, const RecordSlabs&, const RecordShape&, const Initial&, const std::uint64_t*,
                    const std::uint64_t*, const std::uint8_t*, std::int64_t) {
  return {"make_records", kBuiltWithoutCuda};
}
Launch pull_rows(Place, const RowIndex&, const RecordSlabs&, const RecordShape&, const Initial&,
                 const std::uint64_t*, std::int64_t, float*, std::uint64_t*, std::uint64_t) {
  return {"pull_rows", kBuiltWithoutCuda};
}
Launch find_records(Place, const RecordSlabs&, const std::uint64_t*, std::int64_t, std::uint64_t*) {
  return {"find_records", kBuiltWithoutCuda};
}
Launch write_records(Place, const RecordSlabs&, std::int64_t, const std::byte*, const std::uint64_t*,
                     std::int64_t) {
  return {"write_records", kBuiltWithoutCuda};
}
Launch read_records(Place, const RecordSlabs&, const KeptSlabs&, std::uint64_t, const std::uint64_t*,
                    std::int64_t, std::int64_t, std::uint64_t*, std::uint8_t*, std::byte*) {
  return {"read_records", kBuiltWithoutCuda};
}
Launch keep_records(Place, const RecordSlabs&, const KeptSlabs&, std::int64_t, RowCounts*, std::uint64_t,
                    std::uint64_t, const std::uint64_t*, std::int64_t) {
  return {"keep_records", kBuiltWithoutCuda};
}
Launch forget_kept(Place, const RecordSlabs&, RowCounts*, std::int64_t) {
  return {"forget_kept", kBuiltWithoutCuda};
}
Launch mask_marks(Place, const RecordSlabs&, const std::uint64_t*, std::int64_t, std::uint8_t) {
  return {"mask_marks", kBuiltWithoutCuda};
}
Launch mask_all_marks(Place, const RecordSlabs&, std::int64_t, std::uint8_t) {
  return {"mask_all_marks", kBuiltWithoutCuda};
}

}  // namespace troupe::kernels::gpu
