#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include <troupe/rpc/methods.hpp>
#include <troupe/shards/clock_policy.hpp>
#include <troupe/shards/partition.hpp>

/// What table clients and shard servers say to each other.
namespace troupe {

/// Which server has which slots of a table. The first server of the table's list, its *decider*, makes it,
/// once, and everybody else has copies. A request says by which version of it keys were split.
struct TableRoute {
  std::uint64_t version = 0;          ///< 1, 2, ...; 0: none
  std::vector<std::string> servers;   ///< names of ShardServer actors; the first decides
  std::vector<std::uint32_t> owners;  ///< [slots], places in `servers`

  static TableRoute balanced(const shards::TableSpec& spec, std::vector<std::string> servers);
  /// kInvalidArgument if an owner is none of the servers, or there is not one for each of the table's slots.
  Result<shards::SlotMap> map(const shards::TableSpec& spec) const;
  friend bool operator==(const TableRoute&, const TableRoute&) = default;
};

/// What a client gets to know when it opens a table.
struct TableEntry {
  TableRoute route;
  std::vector<std::uint64_t> generations;  ///< of the route's servers
};

/// Who asks for rows, where in its work: a worker at `clock` has finished all its batches below it. 0:
/// nobody.
struct WorkerClock {
  std::uint64_t worker = 0;
  std::uint64_t clock = 0;
};

/// What a request for rows says besides its keys.
struct PullHead {
  std::uint64_t route = 0;  ///< version of the route by which the keys were split; 0: whatever there is
  WorkerClock clock;        ///< to the decider: the answer waits until this worker may go on
  bool as_kept = false;     ///< rows may come in the table's own type, if that is shorter than float32
};

/// Of an offer for a round.
struct OfferHead {
  WorkerClock clock;  ///< its round
  std::uint64_t sequence = 0;
  std::uint64_t samples = 1;     ///< its weight
  std::uint64_t generation = 0;  ///< of the decider, as in PushHead
};

struct PushHead {
  std::uint64_t route = 0;
  /// Of the shard when the weights were pulled that the gradients are for; 0: none. A push of another one is
  /// refused: the table has been restored since.
  std::uint64_t generation = 0;
  WorkerClock clock;
  std::uint64_t sequence = 0;
  std::uint64_t pulled_version = UINT64_MAX;
  std::uint64_t step = UINT64_MAX;  ///< the largest version that the pull saw on any shard: for the schedule
  bool as_kept = false;             ///< of rows that are pulled with it: as in PullHead
};

/// Rows that were pulled, and the version of the shard they show. With a `route` there are none: the
/// request's was an older one.
struct PullReply {
  Tensor rows;  ///< [keys, dim], float32, or, if it was asked for, of the table's type
  std::uint64_t version = 0;
  std::uint64_t generation = 0;  ///< changes with each restore, and is never the same in two servers' lives
  std::uint64_t open_clock = 0;  ///< of the decider: nobody waits up to this clock
  std::optional<TableRoute> route;
};

enum class PushOutcome : std::uint8_t {
  kApplied,
  kRepeated,         ///< it had been applied before: nothing was done
  kKept,             ///< for its round: to be offered to the decider
  kOtherGeneration,  ///< refused: the table was restored after the weights had been pulled
  kOtherRoute,       ///< refused: its keys were split by an older route
};

struct PushReply {
  PushOutcome outcome = PushOutcome::kApplied;
  std::uint64_t version = 0;
  std::uint64_t staleness = 0;  ///< pushes of others between this worker's pull and this push
  std::uint64_t generation = 0;
  std::optional<TableRoute> route;  ///< the present one, with kOtherRoute
};

struct PushPullReply {
  PushReply push;
  PullReply pull;  ///< empty if the push was refused
};

/// What a shard server has done for one node, on one of its tables: where that node's waiting went.
struct CallerTimes {
  std::string node;            ///< its name
  std::uint64_t bound_ns = 0;  ///< its pulls waited for other workers
  std::uint64_t work_ns = 0;   ///< rows were read and stepped for it
};

/// What a shard server says of one of its tables.
struct TableStats {
  std::string table;
  std::uint64_t rows = 0, bytes = 0, version = 0, pulls = 0, pushes = 0, pulled_keys = 0, pushed_keys = 0;
  std::uint64_t repeated_pushes = 0, rejected_pushes = 0;
  std::uint64_t deferred_pulls = 0;             ///< pulls that waited for other workers
  std::uint64_t deferred_ns = 0;                ///< how long they waited, together
  std::vector<std::uint64_t> staleness_counts;  ///< as of shards::StalenessHistogram, without trailing zeros
  std::uint64_t staleness_sum = 0, staleness_maximum = 0;
  std::vector<CallerTimes> callers;  ///< of pulls and pushes, by name
};

}  // namespace troupe

template <>
struct troupe::rpc::Fields<troupe::TableRoute> {
  using T = troupe::TableRoute;
  static constexpr std::string_view name = "TableRoute";
  static constexpr auto fields = std::tuple(&T::version, &T::servers, &T::owners);
};
template <>
struct troupe::rpc::Fields<troupe::TableEntry> {
  static constexpr std::string_view name = "TableEntry";
  static constexpr auto fields = std::tuple(&troupe::TableEntry::route, &troupe::TableEntry::generations);
};
template <>
struct troupe::rpc::Fields<troupe::WorkerClock> {
  static constexpr std::string_view name = "WorkerClock";
  static constexpr auto fields = std::tuple(&troupe::WorkerClock::worker, &troupe::WorkerClock::clock);
};
template <>
struct troupe::rpc::Fields<troupe::PullHead> {
  static constexpr std::string_view name = "PullHead";
  static constexpr auto fields =
      std::tuple(&troupe::PullHead::route, &troupe::PullHead::clock, &troupe::PullHead::as_kept);
};
template <>
struct troupe::rpc::Fields<troupe::PushHead> {
  using T = troupe::PushHead;
  static constexpr std::string_view name = "PushHead";
  static constexpr auto fields = std::tuple(&T::route, &T::generation, &T::clock, &T::sequence,
                                            &T::pulled_version, &T::step, &T::as_kept);
};
template <>
struct troupe::rpc::Fields<troupe::OfferHead> {
  using T = troupe::OfferHead;
  static constexpr std::string_view name = "OfferHead";
  static constexpr auto fields = std::tuple(&T::clock, &T::sequence, &T::samples, &T::generation);
};
template <>
struct troupe::rpc::Fields<troupe::PullReply> {
  using T = troupe::PullReply;
  static constexpr std::string_view name = "PullReply";
  static constexpr auto fields = std::tuple(&T::rows, &T::version, &T::generation, &T::open_clock, &T::route);
};
template <>
struct troupe::rpc::Fields<troupe::PushReply> {
  using T = troupe::PushReply;
  static constexpr std::string_view name = "PushReply";
  static constexpr auto fields =
      std::tuple(&T::outcome, &T::version, &T::staleness, &T::generation, &T::route);
};
template <>
struct troupe::rpc::Fields<troupe::PushPullReply> {
  static constexpr std::string_view name = "PushPullReply";
  static constexpr auto fields = std::tuple(&troupe::PushPullReply::push, &troupe::PushPullReply::pull);
};
template <>
struct troupe::rpc::Fields<troupe::shards::PushName> {
  using T = troupe::shards::PushName;
  static constexpr std::string_view name = "PushName";
  static constexpr auto fields = std::tuple(&T::worker, &T::sequence);
};
template <>
struct troupe::rpc::Fields<troupe::shards::StepOrder::Part> {
  using T = troupe::shards::StepOrder::Part;
  static constexpr std::string_view name = "StepPart";
  static constexpr auto fields = std::tuple(&T::push, &T::weight);
};
template <>
struct troupe::rpc::Fields<troupe::shards::StepOrder> {
  using T = troupe::shards::StepOrder;
  static constexpr std::string_view name = "StepOrder";
  static constexpr auto fields = std::tuple(&T::number, &T::take, &T::rate_scale, &T::forget, &T::left);
};
template <>
struct troupe::rpc::Fields<troupe::shards::Verdict> {
  using T = troupe::shards::Verdict;
  static constexpr std::string_view name = "Verdict";
  static constexpr auto fields = std::tuple(&T::applied, &T::lost, &T::staleness, &T::next_clock);
};
template <>
struct troupe::rpc::Fields<troupe::CallerTimes> {
  static constexpr std::string_view name = "CallerTimes";
  static constexpr auto fields =
      std::tuple(&troupe::CallerTimes::node, &troupe::CallerTimes::bound_ns, &troupe::CallerTimes::work_ns);
};
template <>
struct troupe::rpc::Fields<troupe::TableStats> {
  using T = troupe::TableStats;
  static constexpr std::string_view name = "TableStats";
  static constexpr auto fields = std::tuple(
      &T::table, &T::rows, &T::bytes, &T::version, &T::pulls, &T::pushes, &T::pulled_keys, &T::pushed_keys,
      &T::repeated_pushes, &T::rejected_pushes, &T::deferred_pulls, &T::deferred_ns, &T::staleness_counts,
      &T::staleness_sum, &T::staleness_maximum, &T::callers);
};
