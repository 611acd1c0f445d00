// Built where there is no CUDA toolkit: a place on a GPU does not exist.
#include "gpu_kernels.hpp"

namespace troupe::kernels::gpu {

Launch gather_rows(Place, Element, const void*, std::int64_t, const std::uint64_t*, std::int64_t,
                   std::int64_t, float*) {
  return {"gather_rows", kBuiltWithoutCuda};
}
Launch gather_pooled(Place, Element, const void*, std::int64_t, const std::uint64_t*, const std::int64_t*,
                     std::int64_t, std::int64_t, Pooling, float*) {
  return {"gather_pooled", kBuiltWithoutCuda};
}
Launch cast(Place, Element, const void*, Element, void*, std::int64_t) {
  return {"cast", kBuiltWithoutCuda};
}
Launch squared_norm(Place, const float*, std::int64_t, double*, void*) {
  return {"squared_norm", kBuiltWithoutCuda};
}
Launch clip_to_norm(Place, float*, std::int64_t, const double*, float) {
  return {"clip_to_norm", kBuiltWithoutCuda};
}
Launch update_rows(Place, const Step&, const RowTable&, const std::uint64_t*, const float*, std::int64_t) {
  return {"update_rows", kBuiltWithoutCuda};
}
std::size_t sort_rows_workspace(Place, std::int64_t, std::int64_t) {
  return 0;
}
Launch sort_rows(Place, const std::uint64_t*, std::int64_t, std::int64_t, std::uint32_t*, std::uint32_t*,
                 void*, std::size_t) {
  return {"sort_rows", kBuiltWithoutCuda};
}
std::size_t update_rows_summed_workspace(Place, const Step&, const RowTable&, std::int64_t, const float*,
                                         std::int64_t) {
  return 0;
}
Launch update_rows_summed(Place, const Step&, const RowTable&, std::int64_t, const std::uint64_t*,
                          const float*, std::int64_t, void*, std::size_t) {
  return {"update_rows_summed", kBuiltWithoutCuda};
}
Launch dense_step(Place, const Step&, std::span<const DenseTensor>, std::int64_t, void*) {
  return {"dense_step", kBuiltWithoutCuda};
}

Launch clear_map(Place, const KeyMap&) {
  return {"clear_map", kBuiltWithoutCuda};
}
Launch find_rows(Place, const KeyMap&, const SlotRows&, const std::uint64_t*, std::int64_t, std::uint32_t,
                 std::uint64_t*, float*) {
  return {"find_rows", kBuiltWithoutCuda};
}
Launch insert_or_assign(Place, const KeyMap&, const SlotRows&, const std::uint64_t*, const float*,
                        std::int64_t, std::uint32_t, Full, std::uint64_t*, std::uint8_t*, std::uint64_t*) {
  return {"insert_or_assign", kBuiltWithoutCuda};
}
Launch erase_keys(Place, const KeyMap&, const std::uint64_t*, std::int64_t, std::uint64_t*) {
  return {"erase_keys", kBuiltWithoutCuda};
}
Launch export_keys(Place, const KeyMap&, std::int64_t, std::int64_t, std::uint64_t*, std::uint64_t*,
                   std::uint64_t*) {
  return {"export_keys", kBuiltWithoutCuda};
}

}  // namespace troupe::kernels::gpu
