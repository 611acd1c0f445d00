// A large push, worked on in slices.
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
    case Stage::kNote:
      return note(keys(push.combined));
    case Stage::kStep:
      return step({keys(push.combined), values}, push.scale, push.header.pulled_version);
  }
  return {};
}

void TableShard::State::finish_stage(Slices& push) {
  using Stage = Slices::Stage;
  switch (push.stage) {
    case Stage::kAdmit:
      push.combined = push.pushed;
      if (push.pushed.keys.in_ranges()) return push.next(Stage::kCheck);  // of rows that come once
      dedup.begin(push.pushed.keys.size());
      return push.next(Stage::kDistinct);
    case Stage::kDistinct: {
      const auto unique = dedup.result().unique;
      if (unique.size() == push.pushed.keys.size()) return push.next(Stage::kCheck);
      push.sums = std::make_unique_for_overwrite<float[]>(unique.size() * spec.dim);
      push.combined = {unique, push.sums.get()};
      return push.next(Stage::kSum);
    }
    case Stage::kSum:
      return push.next(Stage::kCheck);
    case Stage::kCheck:
      return push.next(Stage::kMake);
    case Stage::kMake:
      groups.prepare(push.header.worker);
      std::tie(push.scale, push.staleness) = scale_of(push.header);
      return push.next(history ? Stage::kNote : Stage::kStep);
    case Stage::kNote:
      return push.next(Stage::kStep);
    case Stage::kStep:
      return;
  }
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
  if (push.stage == Stage::kStep)
    return std::optional(applied(push.header, push.pushed.keys.size(), push.staleness));
  finish_stage(push);
  return std::optional<PushReceipt>();
}

Result<void> TableShard::make_rows(const RowKeys& keys) {
  if (auto made = state_->rows->make(keys); !made) return made.error();
  return {};
}

void TableShard::begin_push(const PushHeader& header, const RowKeys& keys, std::span<const float> gradients) {
  assert(!state_->slices);
  state_->slices.emplace(header, keys, gradients);
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
