#include "host_rows.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <span>

#include <troupe/kernels/gather.hpp>
#include <troupe/shards/half.hpp>

namespace troupe::shards {
namespace {

/// Half rows that are wide at once while they are stepped: they stay in the first-level cache.
constexpr std::size_t kWideRows = 16;
constexpr std::size_t kRowsAhead = 16;

std::uint64_t floats_of(const RowLayout& layout) {
  return layout.bytes() / sizeof(float);
}

void prefetch(const void* record, std::size_t bytes) {
  for (std::size_t at = 0; at < bytes; at += 64) __builtin_prefetch(static_cast<const char*>(record) + at);
}

}  // namespace

HostRows::HostRows(const TableSpec& spec)
    : spec_(spec), layout_(spec.optimizer.layout(spec.weights, spec.dim)), slabs_(floats_of(layout_)) {}

void HostRows::reserve(std::uint64_t count) {
  slabs_.reserve(count);
  if (layout_.weights != DType::kFloat32 && wide_.size() < spec_.dim) wide_.resize(spec_.dim);
}

void HostRows::make(std::uint64_t number, std::uint64_t key) {
  std::byte* row = record(number);
  if (layout_.weights == DType::kFloat32) {
    initialize_row(spec_, key, reinterpret_cast<float*>(row));
  } else {
    std::memset(row, 0, layout_.state_offset());  // with the padding
    initialize_row(spec_, key, wide_.data());
    narrow(layout_.weights, wide_.data(), spec_.dim, row);
  }
  auto* state = reinterpret_cast<float*>(row + layout_.state_offset());
  for (std::size_t i = 0; i < layout_.state.size(); ++i)
    state = std::fill_n(state, layout_.extent(i), layout_.state[i].first_value);
}

void HostRows::show(std::uint64_t key, float* out) const {
  initialize_row(spec_, key, out);
  if (layout_.weights == DType::kFloat32) return;
  std::vector<std::uint16_t> half(spec_.dim);  // as it would be once it is made
  narrow(layout_.weights, out, spec_.dim, half.data());
  widen(layout_.weights, half.data(), spec_.dim, out);
}

void HostRows::reserve_read(std::size_t count) {
  if (rows_.size() < count) rows_.resize(count);
}

void HostRows::reserve_step(std::size_t count) {
  reserve_read(count);
  if (layout_.weights == DType::kFloat32) return;
  const std::size_t wide = kWideRows * (spec_.dim + layout_.state_floats());
  if (wide_.size() < wide) wide_.resize(wide);
}

void HostRows::read(std::size_t count, float* out) const {
  const std::uint64_t dim = spec_.dim;
  if (layout_.weights == DType::kFloat32) {
    kernels::gather_rows(rows_.data(), static_cast<std::int64_t>(count), static_cast<std::int64_t>(dim), out);
    return;
  }
  for (std::size_t i = 0; i < count; ++i) {
    if (i + kRowsAhead < count) prefetch(rows_[i + kRowsAhead], layout_.weight_bytes());
    if (rows_[i] != nullptr) widen(layout_.weights, rows_[i], dim, out + i * dim);
  }
}

void HostRows::step(std::size_t count, const float* gradients, float scale) {
  std::array<float, OptimizerDef::kMaxParameters> parameters{};
  const std::span<const float> numbers = spec_.optimizer.numbers();
  std::copy(numbers.begin(), numbers.end(), parameters.begin());
  parameters[0] *= scale;  // the learning rate
  const StepBatch batch{.rows = rows_.data(),
                        .gradients = gradients,
                        .count = static_cast<std::int64_t>(count),
                        .dim = static_cast<std::int64_t>(spec_.dim),
                        .parameters = std::span(parameters.data(), numbers.size())};
  if (layout_.weights == DType::kFloat32) {
    spec_.optimizer.def().step(batch);
  } else {
    step_half_rows(count, gradients, batch);
  }
}

/// Optimizers see float32 rows with their state behind: some rows at a time are made so, stepped, and put
/// back.
void HostRows::step_half_rows(std::size_t count, const float* gradients, const StepBatch& batch) {
  const std::uint64_t dim = spec_.dim;
  const std::uint64_t state = layout_.state_floats();
  std::array<float*, kWideRows> wide{};
  for (std::size_t i = 0; i < kWideRows; ++i) wide[i] = wide_.data() + i * (dim + state);
  for (std::size_t first = 0; first < count; first += kWideRows) {
    const std::size_t some = std::min(kWideRows, count - first);
    for (std::size_t i = 0; i < some; ++i) {
      if (first + i + kRowsAhead < count) prefetch(rows_[first + i + kRowsAhead], layout_.bytes());
      const std::byte* row = reinterpret_cast<const std::byte*>(rows_[first + i]);
      widen(layout_.weights, row, dim, wide[i]);
      std::memcpy(wide[i] + dim, row + layout_.state_offset(), state * sizeof(float));
    }
    StepBatch part = batch;
    part.rows = wide.data();
    part.gradients = gradients + first * dim;
    part.count = static_cast<std::int64_t>(some);
    spec_.optimizer.def().step(part);
    for (std::size_t i = 0; i < some; ++i) {
      std::byte* row = reinterpret_cast<std::byte*>(rows_[first + i]);
      narrow(layout_.weights, wide[i], dim, row);
      std::memcpy(row + layout_.state_offset(), wide[i] + dim, state * sizeof(float));
    }
  }
}

}  // namespace troupe::shards
