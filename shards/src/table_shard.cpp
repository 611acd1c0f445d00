#include <troupe/shards/table_shard.hpp>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <troupe/kernels/dedup.hpp>
#include <troupe/kernels/gather.hpp>
#include <troupe/kernels/optimizer.hpp>

#include "finite.hpp"
#include "row_store.hpp"

namespace troupe::shards {

struct TableShard::State {
  State(TableSpec table_spec, SlotSet owned)
      : spec(std::move(table_spec)), slots(std::move(owned)), rows(spec, slots) {}

  /// The gradients of a push, one for each distinct key.
  struct Combined {
    std::span<const std::uint64_t> keys;
    const float* gradients = nullptr;  // [keys, dim]
  };

  std::int64_t dim() const { return static_cast<std::int64_t>(spec.dim); }
  Error error(Code code, const std::string& message) const {
    return {code, "table '" + spec.name + "': " + message};
  }
  Result<SequenceWindow::Seen> look(const PushHeader& header) const;
  Combined combine(std::span<const std::uint64_t> keys, std::span<const float> gradients);
  Result<void> check_finite(std::span<const std::uint64_t> keys, std::span<const float> gradients,
                            const Combined& combined) const;
  Result<PushReceipt> push(const PushHeader& header, std::span<const std::uint64_t> keys,
                           std::span<const float> gradients);
  Result<PushReceipt> apply(const PushHeader& header, std::span<const std::uint64_t> keys,
                            std::span<const float> gradients);
  void step(const Combined& combined, float scale);
  PullReceipt answer_pull(std::size_t keys, float* out);

  TableSpec spec;
  SlotSet slots;
  RowStore rows;
  float learning_rate_scale = 1;
  WorkerWindows windows;
  ShardStats stats;

  // Scratch that keeps its size between calls.
  kernels::Dedup dedup;
  std::vector<float> sums;  // [distinct keys, dim]
  std::vector<float*> pushed_rows;
  std::vector<float*> pulled_rows;
};

namespace {

/// Runs `body`, which returns a Result, and makes an error of memory that could not be had.
template <class Body>
auto with_memory_errors(const TableSpec& spec, Body&& body) -> decltype(body()) {
  const auto exhausted = [&] {
    return Error{Code::kResourceExhausted, "table '" + spec.name + "': no memory for more rows"};
  };
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return exhausted();
  } catch (const std::length_error&) {
    return exhausted();
  }
}

}  // namespace

Result<SequenceWindow::Seen> TableShard::State::look(const PushHeader& header) const {
  const auto window = windows.find(header.worker);
  if (window == windows.end()) {
    if (windows.size() < kMaxWorkers) return SequenceWindow::Seen::kNew;
    return error(Code::kResourceExhausted, "the sequences of " + std::to_string(kMaxWorkers) +
                                               " workers are kept already: forget those that have left");
  }
  const SequenceWindow::Seen seen = window->second.look(header.sequence);
  if (seen != SequenceWindow::Seen::kTooOld) return seen;
  return error(Code::kFailedPrecondition,
               "sequence " + std::to_string(header.sequence) + " of worker " + std::to_string(header.worker) +
                   " is " + std::to_string(window->second.highest() - header.sequence) +
                   " behind its highest; whether it was applied is known for the last " +
                   std::to_string(SequenceWindow::kSize) + " only");
}

TableShard::State::Combined TableShard::State::combine(std::span<const std::uint64_t> keys,
                                                       std::span<const float> gradients) {
  const auto distinct = dedup.run(keys);
  if (distinct.unique.size() == keys.size()) return {keys, gradients.data()};
  const std::size_t needed = distinct.unique.size() * spec.dim;
  if (sums.size() < needed) sums.resize(needed);
  kernels::segment_sum(gradients.data(), distinct.inverse.data(), static_cast<std::int64_t>(keys.size()),
                       dim(), sums.data(), static_cast<std::int64_t>(distinct.unique.size()));
  return {distinct.unique, sums.data()};
}

// The sums alone need looking at: what is not finite stays so when something is added to it.
Result<void> TableShard::State::check_finite(std::span<const std::uint64_t> keys,
                                             std::span<const float> gradients,
                                             const Combined& combined) const {
  if (all_finite(combined.gradients, combined.keys.size() * spec.dim)) return {};
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    if (std::isfinite(gradients[i])) continue;
    return error(Code::kInvalidArgument, std::string("the gradient of key ") +
                                             std::to_string(keys[i / spec.dim]) + " is " +
                                             (std::isnan(gradients[i]) ? "NaN" : "infinite") + " in column " +
                                             std::to_string(i % spec.dim) + ", expected finite numbers");
  }
  std::size_t at = 0;
  while (std::isfinite(combined.gradients[at])) ++at;
  return error(Code::kInvalidArgument,
               "the gradients of key " + std::to_string(combined.keys[at / spec.dim]) +
                   " add up to more than a float holds in column " + std::to_string(at % spec.dim));
}

void TableShard::State::step(const Combined& combined, float scale) {
  float* const* to = pushed_rows.data();
  const auto count = static_cast<std::int64_t>(combined.keys.size());
  if (const auto* sgd = std::get_if<Sgd>(&spec.optimizer)) {
    kernels::sgd_rows(to, combined.gradients, count, dim(),
                      {.learning_rate = sgd->learning_rate * scale, .weight_decay = sgd->weight_decay});
  } else if (const auto* adagrad = std::get_if<Adagrad>(&spec.optimizer)) {
    kernels::adagrad_rows(to, combined.gradients, count, dim(),
                          {.learning_rate = adagrad->learning_rate * scale, .epsilon = adagrad->epsilon});
  } else {
    const Adam& adam = std::get<Adam>(spec.optimizer);
    kernels::adam_rows(to, combined.gradients, count, dim(),
                       {.learning_rate = adam.learning_rate * scale,
                        .beta1 = adam.beta1,
                        .beta2 = adam.beta2,
                        .epsilon = adam.epsilon});
  }
}

Result<PushReceipt> TableShard::State::push(const PushHeader& header, std::span<const std::uint64_t> keys,
                                            std::span<const float> gradients) {
  Result<PushReceipt> receipt =
      with_memory_errors(spec, [&]() -> Result<PushReceipt> { return apply(header, keys, gradients); });
  if (!receipt) ++stats.rejected_pushes;
  return receipt;
}

Result<PushReceipt> TableShard::State::apply(const PushHeader& header, std::span<const std::uint64_t> keys,
                                             std::span<const float> gradients) {
  if (gradients.size() / spec.dim != keys.size() || gradients.size() % spec.dim != 0) {
    return error(Code::kInvalidArgument,
                 "a push of " + std::to_string(keys.size()) + " keys of dimension " +
                     std::to_string(spec.dim) + " came with " + std::to_string(gradients.size()) +
                     " gradient numbers, expected " + std::to_string(keys.size() * spec.dim));
  }
  const Result<SequenceWindow::Seen> seen = look(header);
  if (!seen) return seen.error();
  if (*seen == SequenceWindow::Seen::kApplied) {
    ++stats.repeated_pushes;
    return PushReceipt{.version = stats.version, .staleness = 0, .applied = false};
  }
  const Combined combined = combine(keys, gradients);
  if (Result<void> finite = check_finite(keys, gradients, combined); !finite) return finite.error();
  if (Result<void> located = rows.locate(combined.keys, pushed_rows); !located) return located.error();
  SequenceWindow& window = windows[header.worker];

  // Nothing can fail from here on.
  const bool pulled = header.pulled_version != kNotPulled;
  const std::uint64_t staleness =
      pulled && header.pulled_version < stats.version ? stats.version - header.pulled_version : 0;
  float scale = learning_rate_scale;
  if (spec.step_scaling == StepScaling::kInverseStaleness) scale /= 1.0F + static_cast<float>(staleness);
  step(combined, scale);
  window.mark(header.sequence);
  ++stats.version;
  ++stats.pushes;
  stats.pushed_keys += keys.size();
  if (pulled) stats.staleness.add(staleness);
  return PushReceipt{.version = stats.version, .staleness = staleness, .applied = true};
}

PullReceipt TableShard::State::answer_pull(std::size_t keys, float* out) {
  kernels::gather_rows(pulled_rows.data(), static_cast<std::int64_t>(keys), dim(), out);
  ++stats.pulls;
  stats.pulled_keys += keys;
  return {.version = stats.version};
}

TableShard::TableShard(std::unique_ptr<State> state) : state_(std::move(state)) {}
TableShard::TableShard(TableShard&&) noexcept = default;
TableShard& TableShard::operator=(TableShard&&) noexcept = default;
TableShard::~TableShard() = default;

Result<TableShard> TableShard::create(TableSpec spec, SlotSet slots) {
  if (Result<void> valid = spec.validate(); !valid) return valid.error();
  if (slots.slots() != spec.slots) {
    return Error{Code::kInvalidArgument, "table '" + spec.name + "': a shard for a set of " +
                                             std::to_string(slots.slots()) + " slots, the table has " +
                                             std::to_string(spec.slots)};
  }
  return with_memory_errors(spec, [&]() -> Result<TableShard> {
    return TableShard(std::make_unique<State>(spec, std::move(slots)));
  });
}

Result<TableShard> TableShard::create(TableSpec spec) {
  if (Result<void> valid = spec.validate(); !valid) return valid.error();
  SlotSet all = SlotSet::all(spec.slots);
  return create(std::move(spec), std::move(all));
}

const TableSpec& TableShard::spec() const {
  return state_->spec;
}
const SlotSet& TableShard::slots() const {
  return state_->slots;
}
std::uint64_t TableShard::version() const {
  return state_->stats.version;
}

Result<PullReceipt> TableShard::pull(std::span<const std::uint64_t> keys, float* out) {
  return with_memory_errors(spec(), [&]() -> Result<PullReceipt> {
    if (Result<void> located = state_->rows.locate(keys, state_->pulled_rows); !located)
      return located.error();
    return state_->answer_pull(keys.size(), out);
  });
}

Result<PullReceipt> TableShard::peek(std::span<const std::uint64_t> keys, float* out) const {
  return with_memory_errors(spec(), [&]() -> Result<PullReceipt> {
    std::vector<float*>& found = state_->pulled_rows;
    if (Result<void> done = state_->rows.find(keys, found); !done) return done.error();
    kernels::gather_rows(found.data(), static_cast<std::int64_t>(keys.size()), state_->dim(), out);
    for (std::size_t i = 0; i < keys.size(); ++i) {
      if (found[i] == nullptr) initialize_row(spec(), keys[i], out + i * spec().dim);
    }
    return PullReceipt{.version = version()};
  });
}

Result<PushReceipt> TableShard::push(const PushHeader& header, std::span<const std::uint64_t> keys,
                                     std::span<const float> gradients) {
  return state_->push(header, keys, gradients);
}

// The rows to pull are found first, so that all that can fail comes before the push.
Result<PushPullReceipt> TableShard::push_pull(const PushHeader& header, std::span<const std::uint64_t> keys,
                                              std::span<const float> gradients,
                                              std::span<const std::uint64_t> pull_keys, float* out) {
  return with_memory_errors(spec(), [&]() -> Result<PushPullReceipt> {
    if (Result<void> done = state_->rows.locate(pull_keys, state_->pulled_rows); !done) return done.error();
    Result<PushReceipt> pushed = state_->push(header, keys, gradients);
    if (!pushed) return pushed.error();
    return PushPullReceipt{.push = *pushed, .pull = state_->answer_pull(pull_keys.size(), out)};
  });
}

void TableShard::set_learning_rate_scale(float scale) {
  assert(std::isfinite(scale) && scale >= 0);
  state_->learning_rate_scale = scale;
}

float TableShard::learning_rate_scale() const {
  return state_->learning_rate_scale;
}

ShardStats TableShard::stats() const {
  ShardStats stats = state_->stats;
  stats.rows = state_->rows.size();
  stats.bytes = state_->rows.bytes();
  stats.workers = state_->windows.size();
  return stats;
}

void TableShard::forget_worker(std::uint64_t worker) {
  state_->windows.erase(worker);
}

std::uint64_t TableShard::row_count() const {
  return state_->rows.size();
}

RowView TableShard::row(std::uint64_t index) const {
  const float* weights = state_->rows.row(index);
  const float* state = weights + spec().dim;
  const bool counted = std::holds_alternative<Adam>(spec().optimizer);
  return {.key = state_->rows.key(index),
          .weights = weights,
          .state = state,
          .steps = counted ? static_cast<std::uint32_t>(state[2 * spec().dim]) : 0};
}

DumpPage TableShard::dump(std::uint64_t cursor, std::span<std::uint64_t> keys, float* weights) const {
  DumpPage page{.rows = 0, .next_cursor = cursor, .done = false};
  for (; page.rows < keys.size() && page.next_cursor < row_count(); ++page.rows, ++page.next_cursor) {
    const RowView view = row(page.next_cursor);
    keys[page.rows] = view.key;
    std::copy_n(view.weights, spec().dim, weights + page.rows * spec().dim);
  }
  page.done = page.next_cursor >= row_count();
  return page;
}

const WorkerWindows& TableShard::worker_windows() const {
  return state_->windows;
}

void TableShard::merge_progress(const WorkerWindows& windows, std::uint64_t version) {
  for (const auto& [worker, window] : windows) state_->windows[worker].merge(window);
  state_->stats.version = std::max(state_->stats.version, version);
}

Result<void> TableShard::restore_row(std::uint64_t key, const float* weights, const float* state,
                                     std::uint32_t steps) {
  return with_memory_errors(spec(), [&]() -> Result<void> {
    std::vector<float*>& rows = state_->pulled_rows;
    if (Result<void> located = state_->rows.locate(std::span(&key, 1), rows); !located) return located;
    const std::uint64_t state_floats = state_tensors(spec().optimizer) * spec().dim;
    float* row = rows[0];
    std::copy_n(weights, spec().dim, row);
    std::copy_n(state, state_floats, row + spec().dim);
    if (std::holds_alternative<Adam>(spec().optimizer)) {
      row[spec().dim + state_floats] = static_cast<float>(steps);
    }
    return {};
  });
}

}  // namespace troupe::shards
