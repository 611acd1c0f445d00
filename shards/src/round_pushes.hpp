#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include <troupe/runtime/result.hpp>
#include <troupe/shards/clock_policy.hpp>
#include <troupe/shards/row_keys.hpp>

namespace troupe::shards {

/// Pushes that a shard keeps until it is told what to do with them. Bounded, for each worker and in all.
class RoundPushes {
 public:
  /// A worker has one push under way, and may have given the next before it hears what became of it.
  static constexpr std::size_t kForEach = 2;
  static constexpr std::uint64_t kMost_bytes = std::uint64_t{4} << 30;

  /// kResourceExhausted past the bounds. One that is kept already is left as it is. Throws std::bad_alloc,
  /// changing nothing.
  Result<void> keep(const PushName& push, const RowKeys& keys, std::span<const float> gradients);
  /// The weighted sum of those of them that are here: as ranges, if all are, else as a list in which keys
  /// come more than once.
  struct Sum {
    std::vector<PushName> pushes;
    RowKeyList keys;
    std::vector<float> gradients;   // [keys, dim]
    std::uint64_t pushed_keys = 0;  // of all pushes together
  };
  /// Throws std::bad_alloc.
  Sum weighted(const std::vector<StepOrder::Part>& parts, std::uint64_t dim) const;
  /// Forgets what is not needed any more once `order` has been carried out.
  void drop(const StepOrder& order);
  std::size_t size() const { return kept_.size(); }

 private:
  struct Kept {
    RowKeyList keys;
    std::vector<float> gradients;
    std::uint64_t bytes() const { return keys.bytes() + gradients.size() * sizeof(gradients[0]); }
  };
  struct Taken {
    const Kept* kept;
    float weight;
  };
  static void add_list(Sum& sum, const Taken& push);
  static void add_ranges(Sum& sum, const std::vector<Taken>& pushes, std::uint64_t dim);
  void drop_up_to(const PushName& push);

  std::map<PushName, Kept> kept_;
  std::uint64_t bytes_ = 0;
};

}  // namespace troupe::shards
