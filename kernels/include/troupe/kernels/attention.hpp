#pragma once

#include <cstddef>
#include <cstdint>

#include <troupe/kernels/dropout.hpp>
#include <troupe/kernels/place.hpp>

/// Attention of each position to those before it, on the host or on a GPU, there and back, without the matrix
/// of all weights in memory (Dao 2023). Nothing is added up in an order that may change: the same bits each
/// time.
namespace troupe::kernels {

/// Element j of head h at position t of sequence s lies at ((s * length + t) * stride + h * width + j): with
/// a stride of 3 * heads * width queries, keys and values may lie together as one product makes them.
struct Attention {
  /// The widest head that a GPU takes.
  static constexpr std::int64_t kMostWidth = 256;

  Element element = Element::kFloat32;
  std::int64_t sequences = 0;
  std::int64_t heads = 0;
  std::int64_t length = 0;
  std::int64_t width = 0;       ///< of a head
  std::int64_t stride = 0;      ///< of queries, keys, values and their gradients
  std::int64_t out_stride = 0;  ///< of out and its gradients
  float scale = 1;              ///< 1 / sqrt(width), usually
  bool causal = true;           ///< else each position attends to all
  Dropout dropout = {};         ///< of the weights, after their softmax
};

/// out = sum over u of softmax_u(scale * queries . keys[u]) * values[u] (Vaswani et al. 2017);
/// log_sums[(s * heads + h) * length + t] = the logarithm of the sum of its exponentials, for the way back.
/// On a GPU with tensor cores for 16 bits, widths of 64 and 128, and what begins at multiples of 16 bytes
/// with strides that are multiples of 8; else slowly.
Launch attention(Place place, const Attention& shape, const void* queries, const void* keys,
                 const void* values, void* out, float* log_sums);

/// Bytes that attention_backward() needs, on the host, too.
std::size_t attention_workspace(const Attention& shape);

/// From the gradients of attention()'s `out`: those of queries, keys and values, which overlap nothing else.
Launch attention_backward(Place place, const Attention& shape, const void* queries, const void* keys,
                          const void* values, const void* out, const void* out_gradients,
                          const float* log_sums, void* query_gradients, void* key_gradients,
                          void* value_gradients, void* workspace);

}  // namespace troupe::kernels
