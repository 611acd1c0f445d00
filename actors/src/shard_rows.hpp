#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include <troupe/actors/node.hpp>
#include <troupe/actors/shard_server.hpp>
#include <troupe/shards/half.hpp>

/// What a shard server's handlers of rows share.
namespace troupe {

/// Of rows that a range asks for, in one answer: sixteen bytes must not make a server hold gigabytes.
constexpr std::uint64_t kMostInRanges_bytes = std::uint64_t{64} << 20;

/// Whether a request names ranges of rows, uint64 [ranges, 2]: the first row and how many.
inline bool names_ranges(const Tensor& keys) {
  return keys.dtype() == DType::kUInt64 && keys.rank() == 2 && keys.shape()[1] == 2 &&
         keys.device().kind != MemoryKind::kDevice;
}

/// What a request names, to be looked at more than once. What came as an argument may lie in memory that its
/// sender can still write: lists of keys are copied by copy_keys(), when their turn has come.
inline Tensor own_ranges(const Tensor& keys) {
  return names_ranges(keys) ? keys.clone() : keys;
}

/// How many rows a request is about; of ranges that cannot be, any number.
inline std::uint64_t rows_named(const Tensor& keys) {
  if (!names_ranges(keys)) return static_cast<std::uint64_t>(keys.elements());
  const Tensor contiguous = keys.contiguous();
  const std::span ranges = contiguous.as<const std::uint64_t>();
  std::uint64_t rows = 0;
  for (std::size_t i = 1; i < ranges.size(); i += 2)
    if (__builtin_add_overflow(rows, ranges[i], &rows)) return UINT64_MAX;
  return rows;
}

/// A copy, in `scratch`, of what a request names: uint64 [n], keys, or uint64 [ranges, 2]. kInvalidArgument
/// for another tensor and for ranges that check_ranges() refuses.
inline Result<shards::RowKeys> copy_keys(const shards::TableSpec& spec, const Tensor& keys,
                                         shards::RowKeyList& scratch) {
  const bool ranges = names_ranges(keys);
  if (!ranges &&
      (keys.dtype() != DType::kUInt64 || keys.rank() != 1 || keys.device().kind == MemoryKind::kDevice))
    return Error{
        Code::kInvalidArgument,
        "keys are to be a uint64 tensor in host memory, [keys] or, of ranges of rows, [ranges, 2], not " +
            keys.to_string()};
  const Tensor contiguous = keys.contiguous();
  const std::span from = contiguous.as<const std::uint64_t>();
  if (!ranges) {
    if (scratch.keys.size() < from.size()) scratch.keys.resize(from.size());
    std::copy(from.begin(), from.end(), scratch.keys.begin());
    return shards::RowKeys(std::span(scratch.keys.data(), from.size()));
  }
  scratch.ranges.clear();
  for (std::size_t i = 0; i < from.size(); i += 2) {
    shards::RowRange range{from[i], 0};
    if (__builtin_add_overflow(from[i], from[i + 1], &range.end))
      return Error{Code::kInvalidArgument, "table '" + spec.name + "': " + std::to_string(from[i + 1]) +
                                               " rows from row " + std::to_string(from[i]) +
                                               " on are more than can be"};
    scratch.ranges.push_back(range);
  }
  if (auto good = shards::check_ranges(spec, scratch.ranges); !good) return good.error();
  return shards::RowKeys(std::span(scratch.ranges));
}

/// The same of rows that are to be answered.
inline Result<shards::RowKeys> copy_wanted(const shards::TableSpec& spec, const Tensor& keys,
                                           shards::RowKeyList& scratch) {
  auto wanted = copy_keys(spec, keys, scratch);
  if (wanted && wanted->in_ranges() && wanted->size() > kMostInRanges_bytes / (spec.dim * sizeof(float)))
    return Error{Code::kResourceExhausted, "table '" + spec.name + "': ranges of " +
                                               std::to_string(wanted->size()) +
                                               " rows in one call: ask for " +
                                               std::to_string(kMostInRanges_bytes >> 20) + " MiB at a time"};
  return wanted;
}

/// The gradients as they lie: float32, or numbers of the table's type. They are numbers only.
inline Result<Tensor> gradients_of(const shards::TableSpec& spec, const Tensor& gradients) {
  const bool own = shards::is_half(spec.weights) && gradients.dtype() == spec.weights;
  if ((gradients.dtype() != DType::kFloat32 && !own) || gradients.device().kind == MemoryKind::kDevice)
    return Error{Code::kInvalidArgument,
                 "table '" + spec.name + "': gradients are to be a float32 tensor" +
                     (shards::is_half(spec.weights) ? ", or one of the table's type," : "") +
                     " in host memory, not " + gradients.to_string()};
  return gradients.contiguous();
}

/// As float32: what gradients_of() has let pass.
inline Tensor wide(const Tensor& gradients, MemoryPool& pool) {
  if (gradients.dtype() == DType::kFloat32) return gradients;
  Tensor floats = Tensor::empty(DType::kFloat32, gradients.shape(), &pool);
  shards::widen(gradients.dtype(), gradients.data(), static_cast<std::uint64_t>(gradients.elements()),
                floats.as<float>().data());
  return floats;
}

inline std::uint64_t nanoseconds(Duration duration) {
  return static_cast<std::uint64_t>(duration.count());
}

inline PushReply to_reply(const shards::PushReceipt& receipt, std::uint64_t generation, bool kept = false) {
  const PushOutcome good = kept ? PushOutcome::kKept : PushOutcome::kApplied;
  return {
      receipt.applied ? good : PushOutcome::kRepeated, receipt.version, receipt.staleness, generation, {}};
}

inline shards::PushHeader header_of(const PushHead& head) {
  return {head.clock.worker, head.clock.clock, head.sequence, head.pulled_version, head.step};
}

/// Memory for an answer's rows [keys, dim]: that which suits the table's store best, if it has such; of many
/// rows, such that a caller on this machine reads them where they are. `as_kept`: of the table's type, unless
/// a device is to write them.
inline Tensor rows_for(std::size_t keys, shards::TableShard& shard, Node& node, MemoryPool& pool,
                       bool as_kept = false) {
  const std::uint64_t dim = shard.spec().dim;
  const Shape shape{static_cast<std::int64_t>(keys), static_cast<std::int64_t>(dim)};
  if (keys > 0) {
    if (auto memory = shard.memory_for(keys * dim * sizeof(float)); memory && !memory->empty())
      return Tensor(DType::kFloat32, shape, *std::move(memory));
  }
  const DType dtype = as_kept ? shard.spec().weights : DType::kFloat32;
  if (keys * dim * size_of(dtype) < SharedPool::kSmallest) return Tensor::empty(dtype, shape, &pool);
  return Tensor::empty(dtype, shape, node.endpoint().shared_pool());
}

/// Where a shard is to put the rows of an answer, from row `first` on.
inline shards::RowsOut rows_out(Tensor& rows, std::size_t first = 0) {
  const auto dim = static_cast<std::size_t>(rows.shape()[1]);
  if (rows.dtype() != DType::kFloat32)
    return {reinterpret_cast<std::uint16_t*>(rows.data()) + first * dim, rows.dtype()};
  float* const data = rows.as<float>().data();
  return {first == 0 ? data : data + first * dim, rows.device().kind};
}

/// Answers with `reply` when its rows are there. `then` may do anything.
template <class Reply, class Then>
void when_there(const shards::Completion& later, Result<Reply> reply, Then then) {
  if (!reply || later.done()) return then(std::move(reply));
  later.then([reply = std::move(reply), then = std::move(then)](Result<void> there) mutable {
    then(there ? std::move(reply) : Result<Reply>(std::move(there).error()));
  });
}

/// Counts the time of its own life as work done for a caller.
class ShardServer::Work {
 public:
  Work(const ShardServer& server, CallerTimes* times)
      : clock_(server.node_.loop().clock()), times_(times), begun_(clock_.now()) {}
  ~Work() {
    if (times_) times_->work_ns += nanoseconds(clock_.now() - begun_);
  }
  Work(const Work&) = delete;
  Work& operator=(const Work&) = delete;

 private:
  Clock& clock_;
  CallerTimes* times_;
  TimePoint begun_;
};

}  // namespace troupe
