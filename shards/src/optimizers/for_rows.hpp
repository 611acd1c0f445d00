#pragma once

#include <troupe/shards/optimizer.hpp>

namespace troupe::shards::optimizers {

/// Calls step(row, gradient) for each row, while the rows that follow are on their way from memory.
template <class Step>
void for_rows(const StepBatch& batch, std::int64_t row_floats, const Step& step) {
  constexpr std::int64_t kAhead_bytes = 8192;
  constexpr std::int64_t kLine_floats = 16;
  const std::int64_t row_bytes = row_floats * static_cast<std::int64_t>(sizeof(float));
  const std::int64_t ahead = row_bytes >= kAhead_bytes       ? 1
                             : kAhead_bytes / row_bytes < 32 ? kAhead_bytes / row_bytes
                                                             : 32;
  for (std::int64_t i = 0; i < batch.count; ++i) {
    if (i + ahead < batch.count) {
      const float* next = batch.rows[i + ahead];
      for (std::int64_t at = 0; at < row_floats; at += kLine_floats) __builtin_prefetch(next + at, 1);
    }
    step(batch.rows[i], batch.gradients + i * batch.dim);
  }
}

}  // namespace troupe::shards::optimizers
