// A round's step with the pushes that were kept for it, worked on in slices.
#include <algorithm>
#include <cassert>
#include <cstddef>
#include <iterator>
#include <utility>

#include "memory_errors.hpp"
#include "table_shard_state.hpp"

namespace troupe::shards {
namespace {

/// The rows that are in at least one of them, ascending, no two of which touch.
template <class Pushes>
std::vector<RowRange> union_of(const Pushes& pushes) {
  std::vector<RowRange> ranges;
  const auto before = [](const RowRange& a, const RowRange& b) { return a.begin < b.begin; };
  for (const auto& push : pushes) {
    const auto old = static_cast<std::ptrdiff_t>(ranges.size());
    push.keys.for_each_range([&](const RowRange& range) { ranges.push_back(range); });
    std::inplace_merge(ranges.begin(), ranges.begin() + old, ranges.end(), before);
  }
  std::vector<RowRange> all;
  for (const RowRange& range : ranges) {
    if (!all.empty() && range.begin <= all.back().end) {
      all.back().end = std::max(all.back().end, range.end);
    } else {
      all.push_back(range);
    }
  }
  return all;
}

}  // namespace

void TableShard::State::begin_order(OrderSlices& step) {
  bool in_ranges = true;
  step.pushes = kept.taken(step.order.take);
  for (const RoundPushes::Taken& taken : step.pushes) {
    groups.prepare(taken.push.worker);
    step.pushed_keys += taken.keys.size();
    in_ranges = in_ranges && (taken.keys.in_ranges() || taken.keys.empty());
  }
  step.scale = step.order.rate_scale * spec.schedule.at(stats.version);
  if (step.pushed_keys == 0) return carried_out(step);
  if (in_ranges) {
    std::erase_if(step.pushes, [](const auto& push) { return push.keys.empty(); });
    step.ranges = union_of(step.pushes);
    step.keys = RowKeys(std::span(std::as_const(step.ranges)));
    step.sums = std::make_unique_for_overwrite<float[]>(step.keys.size() * spec.dim);
    return step.next(OrderSlices::Stage::kSum);
  }
  dedup.begin(step.pushed_keys);
  step.next(OrderSlices::Stage::kDistinct);
}

/// The parts of [begin, end) of all pushes' keys, one push after the other.
template <class Visit>
void TableShard::State::for_each_piece(OrderSlices& step, std::size_t begin, std::size_t end, Visit visit) {
  std::size_t first = 0;  // of a push
  for (const auto& push : step.pushes) {
    const std::size_t from = std::max(begin, first), to = std::min(end, first + push.keys.size());
    if (from < to) visit(push, from - first, to - from);
    first += push.keys.size();
  }
}

/// Keys one by one, which may come more than once.
void TableShard::State::sum_slice(OrderSlices& step, std::size_t begin, std::size_t end) {
  const std::uint64_t* place = dedup.result().inverse.data() + begin;
  for_each_piece(step, begin, end, [&](const auto& push, std::size_t at, std::size_t count) {
    const float* from = push.gradients + at * spec.dim;
    for (std::size_t i = 0; i < count; ++i, ++place, from += spec.dim) {
      float* const to = step.sums.get() + *place * spec.dim;
      if (*place == step.seen) {  // numbered in the order in which they first come
        for (std::uint64_t j = 0; j < spec.dim; ++j) to[j] = push.weight * from[j];
        ++step.seen;
      } else {
        for (std::uint64_t j = 0; j < spec.dim; ++j) to[j] += push.weight * from[j];
      }
    }
  });
}

/// Neither a push's ranges nor the slice's touch each other; a push's last rows in a slice may go on in the
/// next one.
void TableShard::State::sum_ranges(OrderSlices& step, std::size_t begin, std::size_t end) const {
  float* sums_at = step.sums.get() + begin * spec.dim;
  step.keys.subspan(begin, end - begin).for_each_range([&](const RowRange& slice) {
    std::fill_n(sums_at, slice.size() * spec.dim, 0.0F);
    for (RoundPushes::Taken& push : step.pushes) {
      while (!push.keys.empty() && push.keys.front().begin < slice.end) {
        const RowRange own = push.keys.front();
        const std::size_t count = std::min(own.end, slice.end) - own.begin;
        float* const to = sums_at + (own.begin - slice.begin) * spec.dim;
        for (std::size_t i = 0; i < count * spec.dim; ++i) to[i] += push.weight * push.gradients[i];
        push.gradients += count * spec.dim;
        push.keys = push.keys.subspan(count, push.keys.size() - count);
      }
    }
    sums_at += slice.size() * spec.dim;
  });
}

Result<void> TableShard::State::do_slice(OrderSlices& step, std::size_t begin, std::size_t end) {
  using Stage = OrderSlices::Stage;
  switch (step.stage) {
    case Stage::kBegin:
    case Stage::kDrop:
      break;
    case Stage::kDistinct:
      for_each_piece(step, begin, end, [this](const auto& push, std::size_t at, std::size_t count) {
        dedup.add(list_of(push.keys.subspan(at, count)));
      });
      break;
    case Stage::kSum:
      if (step.ranges.empty()) {
        sum_slice(step, begin, end);
      } else {
        sum_ranges(step, begin, end);
      }
      break;
    case Stage::kMake:
      if (auto made = rows->make(step.keys.subspan(begin, end - begin)); !made) return made.error();
      break;
    case Stage::kNote:
      return note(step.keys.subspan(begin, end - begin));
    case Stage::kStep:
      return this->step({step.keys.subspan(begin, end - begin), step.sums.get() + begin * spec.dim},
                        step.scale, kNotPulled);
  }
  return {};
}

void TableShard::State::finish_stage(OrderSlices& step) {
  using Stage = OrderSlices::Stage;
  switch (step.stage) {
    case Stage::kBegin:
      return begin_order(step);
    case Stage::kDistinct: {
      const auto unique = dedup.result().unique;
      step.sums = std::make_unique_for_overwrite<float[]>(unique.size() * spec.dim);
      step.keys = unique;
      return step.next(Stage::kSum);
    }
    case Stage::kSum:
      return step.next(Stage::kMake);
    case Stage::kMake:
      return step.next(history ? Stage::kNote : Stage::kStep);
    case Stage::kNote:
      return step.next(Stage::kStep);
    case Stage::kStep:
      return carried_out(step);
    case Stage::kDrop:
      return;
  }
}

void TableShard::State::carried_out(OrderSlices& step) {
  for (const StepOrder::Part& part : step.order.take) {
    if (!kept.has(part.push)) continue;
    groups.mark(part.push.worker, part.push.sequence);
    ++stats.pushes;
  }
  stats.version += step.order.take.empty() ? 0 : 1;
  stats.pushed_keys += step.pushed_keys;
  step.dropped = kept.drop(step.order);
  order_number = step.order.number;
  step.next(OrderSlices::Stage::kDrop);
}

/// True: that was the last slice.
Result<bool> TableShard::State::go_on_with_order(std::size_t most) {
  using Stage = OrderSlices::Stage;
  OrderSlices& step = *order_slices;
  if (step.order.number <= order_number && step.stage == Stage::kBegin) return true;
  if (step.stage == Stage::kDrop) {
    if (!step.dropped.empty()) step.dropped.erase(step.dropped.begin());
    return step.dropped.empty();
  }
  const bool each = step.stage == Stage::kDistinct || (step.stage == Stage::kSum && step.ranges.empty());
  const std::size_t all = each ? step.pushed_keys : step.keys.size();
  const std::size_t end = std::min(all, step.at + std::min(most, all));
  if (auto done = do_slice(step, step.at, end); !done) return done.error();
  step.at = end;
  if (step.at == all) finish_stage(step);
  return false;
}

std::uint64_t TableShard::keys_of(const StepOrder& order) const {
  return state_->kept.keys_of(order.take);
}

void TableShard::begin_order(const StepOrder& order) {
  assert(!state_->slices && !state_->order_slices);
  state_->order_slices.emplace(order);
}

Result<bool> TableShard::go_on_with_order(std::size_t keys) {
  assert(state_->order_slices && keys > 0);
  auto over = with_memory_errors(state_->spec, [&] { return state_->go_on_with_order(keys); });
  if (!over || *over) {
    state_->order_slices.reset();
    if (keys != SIZE_MAX) state_->dedup.release();  // so much is not needed for others
  }
  return over;
}

Result<void> TableShard::carry_out(const StepOrder& order) {
  begin_order(order);
  for (;;) {
    const Result<bool> over = go_on_with_order(SIZE_MAX);
    if (!over) return over.error();
    if (*over) return {};
  }
}

}  // namespace troupe::shards
