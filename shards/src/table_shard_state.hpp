#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <troupe/kernels/dedup.hpp>
#include <troupe/shards/table_shard.hpp>

#include "hashing.hpp"
#include "round_pushes.hpp"
#include "row_history.hpp"

namespace troupe::shards {

struct TableShard::State {
  static constexpr std::uint64_t kAdjusted_floats = 16384;

  State(TableSpec table_spec, SlotSet owned, std::unique_ptr<RowStore> store)
      : spec(std::move(table_spec)),
        slots(std::move(owned)),
        rows(std::move(store)),
        groups(groups_of(slots)) {
    if (spec.delay_compensation.lambda > 0) history.emplace(spec.dim, spec.delay_compensation.history);
    if (adjusts()) adjusted.resize(std::max<std::uint64_t>(spec.dim, kAdjusted_floats));
  }

  /// Keys with their gradients.
  struct Gradients {
    RowKeys keys;
    const float* values = nullptr;  // [keys, dim]
  };

  std::int64_t dim() const { return static_cast<std::int64_t>(spec.dim); }
  Error error(Code code, const std::string& message) const {
    return {code, "table '" + spec.name + "': " + message};
  }
  Result<SlotGroups::Seen> look(const PushHeader& header) const;
  Gradients without(GroupMask applied, const Gradients& all);
  Gradients combine(const Gradients& all);
  Result<void> check_count(const RowKeys& keys, std::span<const float> gradients) const;
  Result<void> check_size(const Gradients& all, const Gradients& combined) const;
  Result<bool> keep(const PushHeader& header, const RowKeys& keys, std::span<const float> gradients);
  Result<PushReceipt> push(const PushHeader& header, const RowKeys& keys, std::span<const float> gradients);
  Result<PushReceipt> apply(const PushHeader& header, const RowKeys& keys, std::span<const float> gradients);
  /// Waits, unless the caller wants to know when.
  Result<void> read(const RowKeys& keys, IfMissing missing, RowsOut out, Completion* later) const;
  Result<void> read_half(const RowKeys& keys, IfMissing missing, const RowsOut& out) const;
  Result<PullReceipt> pull(const RowKeys& keys, RowsOut out, Completion* later);

  /// A push that is looked at, and what is to be done with it.
  struct Admitted {
    Gradients pushed;
    GroupMask applied = 0;               // groups that have had it
    std::optional<PushReceipt> receipt;  // of a repeat: there is nothing to be done
  };
  Result<Admitted> admit(const PushHeader& header, const RowKeys& keys, std::span<const float> gradients);
  /// How one step of it is scaled, and how stale it is.
  std::pair<float, std::uint64_t> scale_of(const PushHeader& header) const;
  PushReceipt applied(const PushHeader& header, std::size_t keys, std::uint64_t staleness);

  // Steps: step_gradients.cpp.

  /// Whether a step's gradients are changed before the optimizer gets them.
  bool adjusts() const { return spec.clipping.at_shard() || history; }
  /// All that can fail of a step with these keys, if it adjusts.
  Result<void> prepare_step(const RowKeys& keys);
  /// Notes what these rows, which have been made, are before the push that is to come.
  Result<void> note(const RowKeys& keys);
  /// One step with one gradient for each key, clipped and compensated as the spec says. `pulled`: the version
  /// of the weights that they are for.
  Result<void> step(const Gradients& gradients, float scale, std::uint64_t pulled);
  /// The keys one by one, in `listed` if they are ranges.
  std::span<const std::uint64_t> list_of(const RowKeys& keys);
  void compensate(const RowKeys& keys, std::span<float> gradients, std::uint64_t pulled) const;

  /// A push in slices.
  struct Slices {
    enum class Stage : std::uint8_t { kAdmit, kDistinct, kSum, kCheck, kMake, kKeep, kNote, kStep };
    Slices(const PushHeader& own_header, const RowKeys& all_keys, std::span<const float> all_gradients,
           bool for_round)
        : header(own_header), keys(all_keys), gradients(all_gradients), keeps(for_round) {}

    PushHeader header;
    RowKeys keys;
    std::span<const float> gradients;
    bool keeps;  // it is kept for its round
    Stage stage = Stage::kAdmit;
    std::size_t at = 0;    // what of the stage is done
    std::size_t seen = 0;  // distinct keys that have been summed
    Gradients pushed, combined;
    std::unique_ptr<float[]> sums;  // [distinct keys, dim], if some come more than once
    RoundPushes::Kept kept;         // so far
    float scale = 1;
    std::uint64_t staleness = 0;

    void next(Stage to) { stage = to, at = 0; }
  };
  Result<std::optional<PushReceipt>> go_on(std::size_t most);
  Result<void> do_slice(Slices& push, std::size_t begin, std::size_t end);
  void sum_slice(Slices& push, std::size_t begin, std::size_t end);
  static void keep_slice(Slices& push, const RowKeys& keys, const float* values, std::uint64_t dim);
  Result<std::optional<PushReceipt>> finish_stage(Slices& push);
  /// Of a push that is kept, or of which there is nothing to be done.
  PushReceipt unstepped(bool is_kept) const {
    return {.version = stats.version, .staleness = 0, .applied = is_kept};
  }

  // A round's step in slices: sliced_order.cpp.

  struct OrderSlices {
    enum class Stage : std::uint8_t { kBegin, kDistinct, kSum, kMake, kNote, kStep, kDrop };
    explicit OrderSlices(const StepOrder& own_order) : order(own_order) {}

    StepOrder order;
    std::vector<RoundPushes::Taken> pushes;  // of ranges: what of them is not in the sum yet
    std::uint64_t pushed_keys = 0;           // of all together
    std::vector<RowRange> ranges;            // if all are ranges: the rows of all
    Stage stage = Stage::kBegin;
    std::size_t at = 0;             // what of the stage is done
    std::size_t seen = 0;           // distinct keys that have been summed
    RowKeys keys;                   // each once
    std::unique_ptr<float[]> sums;  // [keys, dim]
    float scale = 1;
    RoundPushes::Pushes dropped;  // to be given back

    void next(Stage to) { stage = to, at = 0; }
  };
  Result<bool> go_on_with_order(std::size_t most);
  void begin_order(OrderSlices& step);
  Result<void> do_slice(OrderSlices& step, std::size_t begin, std::size_t end);
  template <class Visit>
  void for_each_piece(OrderSlices& step, std::size_t begin, std::size_t end, Visit visit);
  void sum_slice(OrderSlices& step, std::size_t begin, std::size_t end);
  void sum_ranges(OrderSlices& step, std::size_t begin, std::size_t end) const;
  void finish_stage(OrderSlices& step);
  /// Its rows have been stepped: nothing can fail here.
  void carried_out(OrderSlices& step);

  TableSpec spec;
  SlotSet slots;
  std::unique_ptr<RowStore> rows;
  SlotGroups groups;
  ShardStats stats;
  RoundPushes kept;
  std::uint64_t order_number = 0;
  std::optional<RowHistory> history;  // if pushes are compensated for their delay

  // Scratch that keeps its size between calls.
  kernels::Dedup dedup{secret_seed()};
  std::vector<float> sums;            // [distinct keys, dim]
  std::vector<float> adjusted;        // [some rows, dim]: gradients, or what rows were
  std::vector<std::uint64_t> listed;  // keys of some rows that came in ranges
  RowKeyList left_keys;
  std::vector<float> left_gradients;
  std::optional<Slices> slices;
  std::optional<OrderSlices> order_slices;
};

}  // namespace troupe::shards
