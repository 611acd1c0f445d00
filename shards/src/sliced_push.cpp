// A large push, worked on in slices: one that is applied, or kept for its round.
#include <algorithm>
#include <cassert>
#include <cstring>
#include <tuple>
#include <utility>

#include <troupe/shards/gradient_merge.hpp>

#include "finite.hpp"
#include "memory_errors.hpp"
#include "table_shard_state.hpp"

namespace troupe::shards {

void TableShard::State::sum_slice(Slices& push, std::size_t begin, std::size_t end) {
  const auto inverse = dedup.result().inverse;
  for (std::size_t i = begin; i < end; ++i) {
    const float* from = push.pushed.values + i * spec.dim;
    float* to = push.sums.get() + inverse[i] * spec.dim;
    if (inverse[i] == push.seen) {  // numbered in the order in which they first come
      std::memcpy(to, from, spec.dim * sizeof(float));
      ++push.seen;
    } else {
      for (std::uint64_t j = 0; j < spec.dim; ++j) to[j] += from[j];
    }
  }
}

void TableShard::State::keep_slice(Slices& push, const RowKeys& keys, const float* values,
                                   std::uint64_t dim) {
  RowKeyList& own = push.kept.keys;
  if (keys.in_ranges()) {
    keys.for_each_range([&](const RowRange& range) {
      if (!own.ranges.empty() && own.ranges.back().end == range.begin) {
        own.ranges.back().end = range.end;
      } else {
        own.ranges.push_back(range);
      }
    });
  } else {
    own.keys.insert(own.keys.end(), keys.list().begin(), keys.list().end());
  }
  push.kept.gradients.insert(push.kept.gradients.end(), values, values + keys.size() * dim);
}

Result<void> TableShard::State::do_slice(Slices& push, std::size_t begin, std::size_t end) {
  using Stage = Slices::Stage;
  const auto keys = [&](const Gradients& of) { return of.keys.subspan(begin, end - begin); };
  const float* const values = push.combined.values + begin * spec.dim;
  switch (push.stage) {
    case Stage::kAdmit:
      break;
    case Stage::kDistinct:
      dedup.add(keys(push.pushed).list());
      break;
    case Stage::kSum:
      sum_slice(push, begin, end);
      break;
    case Stage::kCheck:
      if (!all_within(values, (end - begin) * spec.dim, kLargestGradient))
        return check_size(push.pushed, push.combined);
      break;
    case Stage::kMake:
      if (auto made = rows->make(keys(push.combined)); !made) return made.error();
      break;
    case Stage::kKeep:
      keep_slice(push, keys(push.combined), values, spec.dim);
      break;
    case Stage::kNote:
      return note(keys(push.combined));
    case Stage::kStep:
      return step({keys(push.combined), values}, push.scale, push.header.pulled_version);
  }
  return {};
}

/// What has become of the push, if that was the last one.
Result<std::optional<PushReceipt>> TableShard::State::finish_stage(Slices& push) {
  using Stage = Slices::Stage;
  const auto next = [&](Stage stage) {
    push.next(stage);
    return std::optional<PushReceipt>();
  };
  const PushName name{push.header.worker, push.header.sequence};
  switch (push.stage) {
    case Stage::kAdmit:
      push.combined = push.pushed;
      if (push.pushed.keys.in_ranges()) return next(Stage::kCheck);  // of rows that come once
      dedup.begin(push.pushed.keys.size());
      return next(Stage::kDistinct);
    case Stage::kDistinct: {
      const auto unique = dedup.result().unique;
      if (unique.size() == push.pushed.keys.size()) return next(Stage::kCheck);
      push.sums = std::make_unique_for_overwrite<float[]>(unique.size() * spec.dim);
      push.combined = {unique, push.sums.get()};
      return next(Stage::kSum);
    }
    case Stage::kSum:
      return next(Stage::kCheck);
    case Stage::kCheck:
      return next(Stage::kMake);
    case Stage::kMake: {
      const std::size_t rows_there = push.combined.keys.size();
      if (push.keeps) {
        const bool ranges = push.combined.keys.in_ranges();
        const std::uint64_t row_bytes = spec.dim * sizeof(float) + (ranges ? 0 : sizeof(std::uint64_t));
        const Result<bool> wanted = kept.admit(name, rows_there * row_bytes);
        if (!wanted) return error(wanted.error().code, wanted.error().message);
        if (!*wanted) return std::optional(unstepped(true));
        push.kept.gradients.reserve(rows_there * spec.dim);
        if (!ranges) push.kept.keys.keys.reserve(rows_there);
        return next(Stage::kKeep);
      }
      groups.prepare(push.header.worker);
      std::tie(push.scale, push.staleness) = scale_of(push.header);
      return next(history ? Stage::kNote : Stage::kStep);
    }
    case Stage::kKeep:
      kept.add(name, std::move(push.kept));
      return std::optional(unstepped(true));
    case Stage::kNote:
      return next(Stage::kStep);
    case Stage::kStep:
      break;
  }
  return std::optional(applied(push.header, push.pushed.keys.size(), push.staleness));
}

Result<std::optional<PushReceipt>> TableShard::State::go_on(std::size_t most) {
  using Stage = Slices::Stage;
  Slices& push = *slices;
  std::size_t all = 0;
  if (push.stage == Stage::kAdmit) {
    Result<Admitted> admitted = admit(push.header, push.keys, push.gradients);
    if (!admitted) return admitted.error();
    if (admitted->receipt) return admitted->receipt;
    push.pushed = admitted->pushed;
  } else {
    const bool all_keys = push.stage == Stage::kDistinct || push.stage == Stage::kSum;
    all = (all_keys ? push.pushed : push.combined).keys.size();
    const std::size_t end = std::min(all, push.at + most);
    if (auto done = do_slice(push, push.at, end); !done) return done.error();
    push.at = end;
  }
  if (push.at < all) return std::optional<PushReceipt>();
  return finish_stage(push);
}

Result<void> TableShard::make_rows(const RowKeys& keys) {
  if (auto made = state_->rows->make(keys); !made) return made.error();
  return {};
}

void TableShard::begin_push(const PushHeader& header, const RowKeys& keys, std::span<const float> gradients) {
  assert(!state_->slices && !state_->order_slices);
  state_->slices.emplace(header, keys, gradients, false);
}

void TableShard::begin_keep(const PushHeader& header, const RowKeys& keys, std::span<const float> gradients) {
  assert(!state_->slices && !state_->order_slices);
  state_->slices.emplace(header, keys, gradients, true);
}

Result<std::optional<PushReceipt>> TableShard::go_on_with_push(std::size_t keys) {
  assert(state_->slices && keys > 0);
  auto receipt = with_memory_errors(state_->spec, [&] { return state_->go_on(keys); });
  if (!receipt) ++state_->stats.rejected_pushes;
  if (!receipt || *receipt) {
    state_->slices.reset();
    state_->dedup.release();  // so much is not needed for others
  }
  return receipt;
}

}  // namespace troupe::shards
