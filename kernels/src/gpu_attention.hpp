#pragma once

#include "troupe/kernels/attention.hpp"

/// The GPU's side of attention.hpp.
namespace troupe::kernels::gpu {

/// Where the parts of a layer lie; those that are not needed are null.
struct AttentionParts {
  const void* queries = nullptr;
  const void* keys = nullptr;
  const void* values = nullptr;
  const void* out = nullptr;
  const void* out_gradients = nullptr;
  const float* log_sums = nullptr;
  void* query_gradients = nullptr;
  void* key_gradients = nullptr;
  void* value_gradients = nullptr;
  float* along = nullptr;  ///< for each position and head, out . out_gradients
};

Launch attention(Place place, const Attention& shape, const AttentionParts& parts, void* out,
                 float* log_sums);
Launch attention_backward(Place place, const Attention& shape, const AttentionParts& parts);

/// Those on tensor cores, if `shape` and where things lie allow it.
bool fit_for_tensor_cores(const Attention& shape, const AttentionParts& parts, const void* out);
Launch attention_on_tensor_cores(Place place, const Attention& shape, const AttentionParts& parts, void* out,
                                 float* log_sums);
Launch attention_backward_on_tensor_cores(Place place, const Attention& shape, const AttentionParts& parts);

}  // namespace troupe::kernels::gpu
