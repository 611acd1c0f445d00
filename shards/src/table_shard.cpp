#include <troupe/shards/table_shard.hpp>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <troupe/kernels/dedup.hpp>
#include <troupe/kernels/gather.hpp>
#include <troupe/shards/gradient_merge.hpp>
#include <troupe/shards/half.hpp>

#include "finite.hpp"
#include "hashing.hpp"
#include "memory_errors.hpp"
#include "table_shard_state.hpp"

namespace troupe::shards {

Result<SlotGroups::Seen> TableShard::State::look(const PushHeader& header) const {
  const SlotGroups::Seen seen = groups.look(header.worker, header.sequence);
  if (!seen.too_old) return seen;
  return error(Code::kFailedPrecondition,
               "sequence " + std::to_string(header.sequence) + " of worker " + std::to_string(header.worker) +
                   " is " + std::to_string(seen.highest - header.sequence) +
                   " behind its highest; whether it was applied is known for the last " +
                   std::to_string(SequenceWindow::kSize) + " only");
}

/// Those whose groups have not had the push.
TableShard::State::Gradients TableShard::State::without(GroupMask applied, const Gradients& all) {
  left_keys.keys.clear();
  left_keys.ranges.clear();
  left_gradients.clear();
  const float* from = all.values;
  const auto look_at = [&](std::uint64_t key, bool in_range) {
    const float* const end = from + spec.dim;
    if ((applied >> group_of(spec, key) & 1U) == 0) {
      left_gradients.insert(left_gradients.end(), from, end);
      if (!in_range) {
        left_keys.keys.push_back(key);
      } else if (!left_keys.ranges.empty() && left_keys.ranges.back().end == key) {
        ++left_keys.ranges.back().end;
      } else {
        left_keys.ranges.push_back({key, key + 1});
      }
    }
    from = end;
  };
  if (all.keys.in_ranges()) {
    all.keys.for_each_range([&](const RowRange& range) {
      for (std::uint64_t row = range.begin; row < range.end; ++row) look_at(row, true);
    });
  } else {
    for (const std::uint64_t key : all.keys.list()) look_at(key, false);
  }
  return {left_keys.view(), left_gradients.data()};
}

/// One gradient for each distinct key. In ranges no row comes twice.
TableShard::State::Gradients TableShard::State::combine(const Gradients& all) {
  if (all.keys.in_ranges()) return all;
  const auto distinct = dedup.run(all.keys.list());
  if (distinct.unique.size() == all.keys.size()) return all;
  const std::size_t needed = distinct.unique.size() * spec.dim;
  if (sums.size() < needed) sums.resize(needed);
  kernels::segment_sum(all.values, distinct.inverse.data(), static_cast<std::int64_t>(all.keys.size()), dim(),
                       sums.data(), static_cast<std::int64_t>(distinct.unique.size()));
  return {distinct.unique, sums.data()};
}

// The sums alone need looking at: what is not finite stays so when something is added to it.
Result<void> TableShard::State::check_size(const Gradients& all, const Gradients& combined) const {
  if (all_within(combined.values, combined.keys.size() * spec.dim, kLargestGradient)) return {};
  const auto find = [&](const Gradients& of, bool sum) -> Result<void> {
    for (std::size_t i = 0; i < of.keys.size(); ++i) {
      const float* row = of.values + i * spec.dim;
      if (!all_within(row, spec.dim, kLargestGradient)) return gradient_error(spec, of.keys[i], row, sum);
    }
    return {};
  };
  if (auto single = find(all, false); !single) return single;
  return find(combined, true);
}

Result<PushReceipt> TableShard::State::push(const PushHeader& header, const RowKeys& keys,
                                            std::span<const float> gradients) {
  Result<PushReceipt> receipt =
      with_memory_errors(spec, [&]() -> Result<PushReceipt> { return apply(header, keys, gradients); });
  if (!receipt) ++stats.rejected_pushes;
  return receipt;
}

Result<void> TableShard::State::check_count(const RowKeys& keys, std::span<const float> gradients) const {
  if (auto good = check_ranges(spec, keys); !good) return good;
  if (gradients.size() / spec.dim == keys.size() && gradients.size() % spec.dim == 0) return {};
  return error(Code::kInvalidArgument, "a push of " + std::to_string(keys.size()) + " keys of dimension " +
                                           std::to_string(spec.dim) + " came with " +
                                           std::to_string(gradients.size()) + " gradient numbers, expected " +
                                           std::to_string(keys.size() * spec.dim));
}

Result<TableShard::State::Admitted> TableShard::State::admit(const PushHeader& header, const RowKeys& keys,
                                                             std::span<const float> gradients) {
  if (Result<void> good = check_count(keys, gradients); !good) return good.error();
  const Result<SlotGroups::Seen> seen = look(header);
  if (!seen) return seen.error();
  Admitted push{{keys, gradients.data()}, seen->applied, {}};
  if (seen->applied == 0) return push;
  const GroupMask own = groups.groups() & groups.active();
  const bool everywhere = (seen->applied & own) == own && own != 0;
  if (!everywhere) push.pushed = without(seen->applied, push.pushed);
  if (everywhere || push.pushed.keys.empty()) {
    push.receipt = unstepped(false);
    if (!everywhere) {
      groups.prepare(header.worker);
      groups.mark(header.worker, header.sequence);
    }
    ++stats.repeated_pushes;
  }
  return push;
}

std::pair<float, std::uint64_t> TableShard::State::scale_of(const PushHeader& header) const {
  const bool pulled = header.pulled_version != kNotPulled;
  const std::uint64_t staleness =
      pulled && header.pulled_version < stats.version ? stats.version - header.pulled_version : 0;
  float scale = spec.schedule.at(header.step == kNotPulled ? stats.version : header.step);
  if (spec.step_scaling == StepScaling::kInverseStaleness) scale /= 1.0F + static_cast<float>(staleness);
  return {scale, staleness};
}

/// Its rows have been stepped: nothing can fail here. Precondition: groups.prepare().
PushReceipt TableShard::State::applied(const PushHeader& header, std::size_t keys, std::uint64_t staleness) {
  groups.mark(header.worker, header.sequence);
  ++stats.version;
  ++stats.pushes;
  stats.pushed_keys += keys;
  if (header.pulled_version != kNotPulled) stats.staleness.add(staleness);
  return PushReceipt{.version = stats.version, .staleness = staleness, .applied = true};
}

Result<PushReceipt> TableShard::State::apply(const PushHeader& header, const RowKeys& keys,
                                             std::span<const float> gradients) {
  const Result<Admitted> admitted = admit(header, keys, gradients);
  if (!admitted) return admitted.error();
  if (admitted->receipt) return *admitted->receipt;
  const Gradients& pushed = admitted->pushed;
  const Gradients combined = combine(pushed);
  if (Result<void> good = check_size(pushed, combined); !good) return good.error();
  groups.prepare(header.worker);
  const auto [scale, staleness] = scale_of(header);
  if (auto ready = prepare_step(combined.keys); !ready) return ready.error();
  if (auto done = step(combined, scale, header.pulled_version); !done) return done.error();
  return applied(header, pushed.keys.size(), staleness);
}

Result<bool> TableShard::State::keep(const PushHeader& header, const RowKeys& keys,
                                     std::span<const float> gradients) {
  if (Result<void> good = check_count(keys, gradients); !good) return good.error();
  const Result<SlotGroups::Seen> seen = look(header);
  if (!seen) return seen.error();
  Gradients pushed{keys, gradients.data()};
  if (seen->applied != 0) pushed = without(seen->applied, pushed);
  if (seen->applied != 0 && pushed.keys.empty()) {
    ++stats.repeated_pushes;
    return false;
  }
  const Gradients combined = combine(pushed);
  if (Result<void> good = check_size(pushed, combined); !good) return good.error();
  // What can be refused is refused now: once it is offered to the others it has to be possible.
  if (auto made = rows->make(combined.keys); !made) return made.error();
  const std::span<const float> values(combined.values, combined.keys.size() * spec.dim);
  auto stored = kept.keep({header.worker, header.sequence}, combined.keys, values);
  if (!stored) return error(stored.error().code, stored.error().message);
  return true;
}

Result<void> TableShard::State::read(const RowKeys& keys, IfMissing missing, RowsOut out,
                                     Completion* later) const {
  if (out.half != nullptr) return with_memory_errors(spec, [&] { return read_half(keys, missing, out); });
  Result<Completion> done = rows->read(keys, missing, out);
  if (!done) return done.error();
  if (!later) return done->wait();
  *later = *std::move(done);
  return {};
}

/// Some rows at a time, which stay in a near cache until they are made shorter.
Result<void> TableShard::State::read_half(const RowKeys& keys, IfMissing missing, const RowsOut& out) const {
  if (out.dtype != spec.weights || !is_half(out.dtype))
    return error(Code::kInvalidArgument, "its rows are " + std::string(to_string(spec.weights)) +
                                             ", and are read so or as float32, not as " +
                                             std::string(to_string(out.dtype)));
  const std::size_t most = std::max<std::uint64_t>(1, kAdjusted_floats / spec.dim);
  std::vector<float> wide(std::min(most, keys.size()) * spec.dim);
  for (std::size_t begin = 0; begin < keys.size(); begin += most) {
    const auto some = keys.subspan(begin, std::min(most, keys.size() - begin));
    if (auto done = read(some, missing, wide.data(), nullptr); !done) return done;
    narrow(out.dtype, wide.data(), some.size() * spec.dim, out.half + begin * spec.dim);
  }
  return {};
}

Result<PullReceipt> TableShard::State::pull(const RowKeys& keys, RowsOut out, Completion* later) {
  if (auto done = read(keys, IfMissing::kMake, out, later); !done) return done.error();
  ++stats.pulls;
  stats.pulled_keys += keys.size();
  return PullReceipt{.version = stats.version};
}

TableShard::TableShard(std::unique_ptr<State> state) : state_(std::move(state)) {}
TableShard::TableShard(TableShard&&) noexcept = default;
TableShard& TableShard::operator=(TableShard&&) noexcept = default;
TableShard::~TableShard() = default;

Result<TableShard> TableShard::create(TableSpec spec, SlotSet slots, const MakeRowStore& make_store) {
  if (Result<void> valid = spec.validate(); !valid) return valid.error();
  if (slots.slots() != spec.slots) {
    return Error{Code::kInvalidArgument, "table '" + spec.name + "': a shard for a set of " +
                                             std::to_string(slots.slots()) + " slots, the table has " +
                                             std::to_string(spec.slots)};
  }
  return with_memory_errors(spec, [&]() -> Result<TableShard> {
    Result<std::unique_ptr<RowStore>> rows = make_store(spec, slots);
    if (!rows) return rows.error();
    return TableShard(std::make_unique<State>(spec, std::move(slots), *std::move(rows)));
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

Result<PullReceipt> TableShard::pull(const RowKeys& keys, RowsOut out, Completion* later) {
  return state_->pull(keys, out, later);
}

Result<PullReceipt> TableShard::peek(const RowKeys& keys, RowsOut out, Completion* later) const {
  if (auto done = state_->read(keys, IfMissing::kShow, out, later); !done) return done.error();
  return PullReceipt{.version = version()};
}

Result<Buffer> TableShard::memory_for(std::size_t bytes) {
  return state_->rows->memory_for(bytes);
}

Result<PushReceipt> TableShard::push(const PushHeader& header, const RowKeys& keys,
                                     std::span<const float> gradients) {
  return state_->push(header, keys, gradients);
}

Result<PullReceipt> TableShard::pull_more(const RowKeys& keys, RowsOut out, Completion* later) {
  Result<PullReceipt> receipt = state_->pull(keys, out, later);
  if (receipt) --state_->stats.pulls;
  return receipt;
}

// The rows to pull are made first, so that all that can fail comes before the push.
Result<PushPullReceipt> TableShard::push_pull(const PushHeader& header, const RowKeys& keys,
                                              std::span<const float> gradients, const RowKeys& pull_keys,
                                              RowsOut out, Completion* later) {
  if (auto made = state_->rows->make(pull_keys); !made) return made.error();
  Result<PushReceipt> pushed = state_->push(header, keys, gradients);
  if (!pushed) return pushed.error();
  Result<PullReceipt> pulled = state_->pull(pull_keys, out, later);
  if (!pulled) return pulled.error();
  return PushPullReceipt{.push = *pushed, .pull = *pulled};
}

Result<bool> TableShard::keep(const PushHeader& header, const RowKeys& keys,
                              std::span<const float> gradients) {
  auto done = with_memory_errors(state_->spec,
                                 [&]() -> Result<bool> { return state_->keep(header, keys, gradients); });
  if (!done) ++state_->stats.rejected_pushes;
  return done;
}

void TableShard::set_active_groups(GroupMask groups) {
  state_->groups.set_active(groups);
}

std::uint64_t TableShard::order_number() const {
  return state_->order_number;
}

void TableShard::begin_orders_at(std::uint64_t number) {
  state_->order_number = number;
}

ShardStats TableShard::stats() const {
  ShardStats stats = state_->stats;
  stats.rows = state_->rows->rows();
  stats.bytes = state_->rows->bytes() + (state_->history ? state_->history->bytes() : 0);
  stats.workers = state_->groups.workers();
  return stats;
}

void TableShard::forget_worker(std::uint64_t worker) {
  state_->groups.forget(worker);
}

std::uint64_t TableShard::row_count() const {
  (void)state_->rows->wait();  // what has failed is told by whatever comes next
  return state_->rows->rows();
}

const RowLayout& TableShard::layout() const {
  return state_->rows->layout();
}

Result<ExtractPage> TableShard::extract(const SlotSet& slots, std::uint64_t cursor, std::uint64_t most,
                                        RowBatch& into) const {
  return state_->rows->extract(slots, cursor, most, into);
}

Result<void> TableShard::insert(const RowBatch& rows) {
  const Result<Completion> done = state_->rows->insert(rows);
  return done ? done->wait() : Result<void>(done.error());
}

const SlotGroups& TableShard::groups() const {
  return state_->groups;
}

void TableShard::merge_windows(GroupMask groups, std::uint64_t worker, const SequenceWindow& window) {
  state_->groups.merge(groups, worker, window);
}

void TableShard::raise_version(std::uint64_t version) {
  state_->stats.version = std::max(state_->stats.version, version);
}

Result<std::uint64_t> TableShard::open_cut() {
  return state_->rows->open_cut();
}

Result<ExtractPage> TableShard::read_cut(std::uint64_t cursor, std::uint64_t most, RowBatch& into) {
  return state_->rows->read_cut(cursor, most, into);
}

void TableShard::close_cut() {
  state_->rows->close_cut();
}

}  // namespace troupe::shards
