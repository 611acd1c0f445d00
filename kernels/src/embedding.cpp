// An embedding is a gather, and its way back a step of gradient ascent of length one.
#include "troupe/kernels/embedding.hpp"

#include "troupe/kernels/row_table.hpp"
#include "troupe/kernels/step.hpp"

namespace troupe::kernels {
namespace {

constexpr Step kAdds{Rule::kSgd, {-1.0F}};

RowTable table_of(float* gradients, std::int64_t dim) {
  RowTable table;
  table.weights = gradients;
  table.weight_stride = dim;
  table.dim = dim;
  return table;
}

const std::uint64_t* as_rows(const std::int64_t* ids) {
  return reinterpret_cast<const std::uint64_t*>(ids);
}

}  // namespace

Launch embedding(Place place, Element element, const void* table, const std::int64_t* ids, std::int64_t count,
                 std::int64_t dim, float* out) {
  return gather_rows(place, element, table, dim, as_rows(ids), count, dim, out);
}

std::size_t embedding_workspace(Place place, const float* out_gradients, std::int64_t count,
                                std::int64_t rows, std::int64_t dim, const float* table_gradients) {
  const RowTable table = table_of(const_cast<float*>(table_gradients), dim);
  return update_rows_summed_workspace(place, kAdds, table, rows, out_gradients, count);
}

Launch embedding_backward(Place place, const std::int64_t* ids, const float* out_gradients,
                          std::int64_t count, std::int64_t rows, std::int64_t dim, float* table_gradients,
                          void* workspace, std::size_t workspace_bytes) {
  return update_rows_summed(place, kAdds, table_of(table_gradients, dim), rows, as_rows(ids), out_gradients,
                            count, workspace, workspace_bytes);
}

}  // namespace troupe::kernels
