#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <troupe/runtime/buffer.hpp>
#include <troupe/shards/communicator.hpp>

namespace troupe::shards {

/// The collectives that all members take part in; indices in kCallNames.
enum What : std::uint32_t {
  kAllReduce,
  kReduce,
  kBroadcast,
  kAllGather,
  kReduceScatter,
  kAllToAll,
  kBarrier
};
inline constexpr std::array<const char*, 7> kCallNames = {
    "all_reduce", "reduce", "broadcast", "all_gather", "reduce_scatter", "all_to_all", "barrier"};

/// What a member says of a collective before it begins. All but `sends` and `takes` must be the same at all;
/// these are what the two of them expect to go from here to there, and back.
struct Call {
  std::uint64_t number = 0;
  std::uint32_t what = 0;
  std::uint32_t op = 0;
  std::uint32_t dtype = 0;
  std::int32_t root = 0;
  std::uint64_t elements = 0;
  std::uint64_t counts = 0;  ///< a hash of them
  std::int64_t sends = 0;    ///< to this member
  std::int64_t takes = 0;    ///< from it
};

struct DescribedCall {
  std::optional<Call> call;  ///< none: not all take part
  std::vector<std::int64_t> sends;
  std::vector<std::int64_t> takes;
  std::string text;  ///< "all_reduce of float32[50]"
};

/// What one member alone can see to be wrong with a collective, which is the same for every kind of
/// communicator but for where tensors must lie. Any thread.
class CallRules {
 public:
  /// `gpu`: where tensors must lie; none: in host memory.
  CallRules(std::string name, int rank, int size, std::optional<Device> gpu)
      : name_(std::move(name)), rank_(rank), size_(size), gpu_(gpu) {}

  Result<DescribedCall> all_reduce(const Tensor& tensor, ReduceOp op) const;
  Result<DescribedCall> reduce(const Tensor& tensor, ReduceOp op, int root) const;
  Result<DescribedCall> broadcast(const Tensor& tensor, int root) const;
  Result<DescribedCall> all_gather(const Tensor& in, const Tensor& out,
                                   const std::vector<std::int64_t>& counts) const;
  Result<DescribedCall> reduce_scatter(const Tensor& in, const Tensor& out, ReduceOp op) const;
  Result<DescribedCall> all_to_all(const Tensor& in, const std::vector<std::int64_t>& in_counts,
                                   const Tensor& out, const std::vector<std::int64_t>& out_counts) const;
  Result<DescribedCall> transfer(const std::vector<Transfer>& transfers) const;
  DescribedCall barrier() const;

 private:
  std::optional<Error> fault_of(const Tensor& tensor, const char* what) const;
  std::optional<Error> fault_of_rank(int rank) const;

  const std::string name_;
  const int rank_;
  const int size_;
  const std::optional<Device> gpu_;
};

/// kInvalidArgument: options that no communicator can have.
std::optional<Error> fault_of(const CommunicatorOptions& options);
/// Longer times are none that a clock can add to.
inline constexpr Duration kLongestTimeout = std::chrono::hours(24 * 365);

}  // namespace troupe::shards
