#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include <troupe/actors/node.hpp>
#include <troupe/actors/shard_server.hpp>

/// What a shard server's handlers of rows share.
namespace troupe {

/// A copy of a list of keys in `scratch`. What came as an argument may lie in memory that its sender can
/// still write: keys decide which memory is touched, and are looked at more than once.
inline Result<std::span<const std::uint64_t>> copy_keys(const Tensor& keys,
                                                        std::vector<std::uint64_t>& scratch) {
  if (keys.dtype() != DType::kUInt64 || keys.rank() != 1 || keys.device().kind == MemoryKind::kDevice)
    return Error{Code::kInvalidArgument,
                 "keys are to be a uint64 tensor of one dimension in host memory, not " + keys.to_string()};
  const Tensor contiguous = keys.contiguous();
  const std::span from = contiguous.as<const std::uint64_t>();
  if (scratch.size() < from.size()) scratch.resize(from.size());
  std::copy(from.begin(), from.end(), scratch.begin());
  return std::span<const std::uint64_t>(scratch.data(), from.size());
}

/// The gradients as they lie; they are numbers only.
inline Result<Tensor> gradients_of(const Tensor& gradients) {
  if (gradients.dtype() != DType::kFloat32 || gradients.device().kind == MemoryKind::kDevice)
    return Error{Code::kInvalidArgument,
                 "gradients are to be a float32 tensor in host memory, not " + gradients.to_string()};
  return gradients.contiguous();
}

inline std::uint64_t nanoseconds(Duration duration) {
  return static_cast<std::uint64_t>(duration.count());
}

inline PushReply to_reply(const shards::PushReceipt& receipt, std::uint64_t generation) {
  return {receipt.applied ? PushOutcome::kApplied : PushOutcome::kRepeated,
          receipt.version,
          receipt.staleness,
          generation,
          {}};
}

inline shards::PushHeader header_of(const PushHead& head) {
  return {head.clock.worker, head.clock.clock, head.sequence, head.pulled_version, head.step};
}

/// Memory for an answer's rows [keys, dim]: of many, such that a caller on this machine reads them where they
/// are.
inline Tensor rows_for(std::size_t keys, std::uint64_t dim, Node& node, MemoryPool& pool) {
  const Shape shape{static_cast<std::int64_t>(keys), static_cast<std::int64_t>(dim)};
  if (keys * dim * sizeof(float) < SharedPool::kSmallest) return Tensor::empty(DType::kFloat32, shape, &pool);
  return Tensor::empty(DType::kFloat32, shape, node.endpoint().shared_pool());
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
