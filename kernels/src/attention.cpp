// Attention: to the GPU's versions, or on the host over products, some rows of a head at a time.
#include "troupe/kernels/attention.hpp"

#include <algorithm>
#include <cassert>
#include <vector>

#include "dropped.hpp"
#include "gpu_attention.hpp"
#include "host_dense.hpp"
#include "host_row.hpp"
#include "troupe/kernels/blas.hpp"
#include "troupe/kernels/elementwise.hpp"

namespace troupe::kernels {
namespace {

// Rows of a head whose weights are made together: products of a useful size, and weights that stay in the
// cache.
constexpr std::int64_t kRows = 64;

/// A head's rows as float32, where they lie if that is what they are.
struct HeadRows {
  float* at = nullptr;
  std::int64_t stride = 0;
  float* row(std::int64_t t) const { return at + t * stride; }
};

/// One head of one sequence.
class Head {
 public:
  Head(const Attention& shape, std::int64_t sequence, std::int64_t head)
      : shape_(shape), sequence_(sequence), head_(head) {}

  std::int64_t number() const { return (sequence_ * shape_.heads + head_) * shape_.length; }
  /// `kept` is for rows of 16 bits.
  HeadRows read(const void* base, std::int64_t stride, std::vector<float>& kept) const {
    const HeadRows rows = write(const_cast<void*>(base), stride, kept);
    if (shape_.element != Element::kFloat32)
      for (std::int64_t t = 0; t < shape_.length; ++t)
        HostRow(shape_.element, const_cast<void*>(base), first(t, stride)).read(shape_.width, rows.row(t));
    return rows;
  }
  /// Rows to be written; then comes end_write().
  HeadRows write(void* base, std::int64_t stride, std::vector<float>& kept) const {
    if (shape_.element == Element::kFloat32) return {static_cast<float*>(base) + first(0, stride), stride};
    kept.resize(static_cast<std::size_t>(shape_.length * shape_.width));
    return {kept.data(), shape_.width};
  }
  void end_write(void* base, std::int64_t stride, const HeadRows& rows) const {
    if (shape_.element == Element::kFloat32) return;
    for (std::int64_t t = 0; t < shape_.length; ++t)
      HostRow(shape_.element, base, first(t, stride)).write(rows.row(t), shape_.width);
  }

 private:
  std::int64_t first(std::int64_t t, std::int64_t stride) const {
    return (sequence_ * shape_.length + t) * stride + head_ * shape_.width;
  }
  const Attention& shape_;
  std::int64_t sequence_;
  std::int64_t head_;
};

template <class Each>
void for_heads(const Attention& shape, const Each& each) {
  for (std::int64_t s = 0; s < shape.sequences; ++s)
    for (std::int64_t h = 0; h < shape.heads; ++h) each(Head(shape, s, h));
}

/// Some rows of a head, from `begin` on, and how many positions they attend to at most.
struct Block {
  std::int64_t begin;
  std::int64_t rows;
  std::int64_t seen;
};

template <class Each>
void for_blocks(const Attention& shape, const Each& each) {
  for (std::int64_t begin = 0; begin < shape.length; begin += kRows) {
    const std::int64_t rows = std::min(kRows, shape.length - begin);
    each(Block{begin, rows, shape.causal ? begin + rows : shape.length});
  }
}

std::int64_t seen_by(const Attention& shape, std::int64_t t) {
  return shape.causal ? t + 1 : shape.length;
}

/// weights[row, u] of a block times what dropout makes of them.
void drop_weights(const Attention& shape, const Head& head, const Block& block, float* weights) {
  const Dropper dropper(shape.dropout);
  if (!dropper.any()) return;
  for (std::int64_t r = 0; r < block.rows; ++r)
    for (std::int64_t u = 0; u < block.seen; ++u)
      weights[r * shape.length + u] *=
          dropper.of(static_cast<std::uint64_t>((head.number() + block.begin + r) * shape.length + u));
}

std::vector<float> block_of_weights(const Attention& shape) {
  return std::vector<float>(static_cast<std::size_t>(std::min(kRows, shape.length) * shape.length));
}

}  // namespace

Launch attention(Place place, const Attention& shape, const void* queries, const void* keys,
                 const void* values, void* out, float* log_sums) {
  assert(shape.stride >= shape.heads * shape.width && shape.out_stride >= shape.heads * shape.width);
  if (place.on_gpu()) {
    gpu::AttentionParts parts;
    parts.queries = queries;
    parts.keys = keys;
    parts.values = values;
    return gpu::attention(place, shape, parts, out, log_sums);
  }
  const std::int64_t width = shape.width;
  const std::int64_t length = shape.length;
  std::vector<float> weights = block_of_weights(shape);
  std::vector<float> kept[4];
  for_heads(shape, [&](const Head& head) {
    const HeadRows q = head.read(queries, shape.stride, kept[0]);
    const HeadRows k = head.read(keys, shape.stride, kept[1]);
    const HeadRows v = head.read(values, shape.stride, kept[2]);
    const HeadRows o = head.write(out, shape.out_stride, kept[3]);
    for_blocks(shape, [&](const Block& block) {
      gemm(false, true, block.rows, block.seen, width, shape.scale, q.row(block.begin), q.stride, k.at,
           k.stride, 0, weights.data(), length);
      for (std::int64_t r = 0; r < block.rows; ++r) {
        const std::int64_t seen = seen_by(shape, block.begin + r);
        float* const row = weights.data() + r * length;
        softmax_rows(row, 1, seen, row, log_sums + head.number() + block.begin + r);
        std::fill(row + seen, row + block.seen, 0.0F);
      }
      drop_weights(shape, head, block, weights.data());
      gemm(false, false, block.rows, width, block.seen, 1, weights.data(), length, v.at, v.stride, 0,
           o.row(block.begin), o.stride);
    });
    head.end_write(out, shape.out_stride, o);
  });
  return {};
}

std::size_t attention_workspace(const Attention& shape) {
  return sizeof(float) * static_cast<std::size_t>(shape.sequences * shape.heads * shape.length);
}

Launch attention_backward(Place place, const Attention& shape, const void* queries, const void* keys,
                          const void* values, const void* out, const void* out_gradients,
                          const float* log_sums, void* query_gradients, void* key_gradients,
                          void* value_gradients, void* workspace) {
  if (place.on_gpu()) {
    return gpu::attention_backward(place, shape,
                                   {queries, keys, values, out, out_gradients, log_sums, query_gradients,
                                    key_gradients, value_gradients, static_cast<float*>(workspace)});
  }
  const std::int64_t width = shape.width;
  const std::int64_t length = shape.length;
  std::vector<float> weights = block_of_weights(shape);
  std::vector<float> slopes = weights;
  std::vector<float> kept[8];
  for_heads(shape, [&](const Head& head) {
    const HeadRows q = head.read(queries, shape.stride, kept[0]);
    const HeadRows k = head.read(keys, shape.stride, kept[1]);
    const HeadRows v = head.read(values, shape.stride, kept[2]);
    const HeadRows o = head.read(out, shape.out_stride, kept[3]);
    const HeadRows given = head.read(out_gradients, shape.out_stride, kept[4]);
    const HeadRows dq = head.write(query_gradients, shape.stride, kept[5]);
    const HeadRows dk = head.write(key_gradients, shape.stride, kept[6]);
    const HeadRows dv = head.write(value_gradients, shape.stride, kept[7]);
    for (std::int64_t t = 0; t < length; ++t) {
      std::fill_n(dk.row(t), width, 0.0F);
      std::fill_n(dv.row(t), width, 0.0F);
    }
    for_blocks(shape, [&](const Block& block) {
      const std::int64_t begin = block.begin;
      gemm(false, true, block.rows, block.seen, width, shape.scale, q.row(begin), q.stride, k.at, k.stride, 0,
           weights.data(), length);
      gemm(false, true, block.rows, block.seen, width, 1, given.row(begin), given.stride, v.at, v.stride, 0,
           slopes.data(), length);
      drop_weights(shape, head, block, slopes.data());
      for (std::int64_t r = 0; r < block.rows; ++r) {
        const std::int64_t t = begin + r;
        const std::int64_t seen = seen_by(shape, t);
        float* const row = weights.data() + r * length;
        float* const slope = slopes.data() + r * length;
        host::shifted_exponentials(row, seen, block.seen, log_sums[head.number() + t], row);
        host::attention_slopes(row, slope, block.seen, dot(width, o.row(t), given.row(t)), shape.scale,
                               slope);
      }
      gemm(false, false, block.rows, width, block.seen, 1, slopes.data(), length, k.at, k.stride, 0,
           dq.row(begin), dq.stride);
      gemm(true, false, block.seen, width, block.rows, 1, slopes.data(), length, q.row(begin), q.stride, 1,
           dk.at, dk.stride);
      drop_weights(shape, head, block, weights.data());
      gemm(true, false, block.seen, width, block.rows, 1, weights.data(), length, given.row(begin),
           given.stride, 1, dv.at, dv.stride);
    });
    head.end_write(query_gradients, shape.stride, dq);
    head.end_write(key_gradients, shape.stride, dk);
    head.end_write(value_gradients, shape.stride, dv);
  });
  return {};
}

}  // namespace troupe::kernels
