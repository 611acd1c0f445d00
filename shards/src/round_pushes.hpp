#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include <troupe/runtime/result.hpp>
#include <troupe/shards/clock_policy.hpp>

namespace troupe::shards {

/// Pushes that a shard keeps until it is told what to do with them. Bounded, for each worker and in all.
class RoundPushes {
 public:
  /// A worker has one push under way, and may have given the next before it hears what became of it.
  static constexpr std::size_t kForEach = 2;
  static constexpr std::uint64_t kMost_bytes = std::uint64_t{4} << 30;

  /// kResourceExhausted past the bounds. One that is kept already is left as it is. Throws std::bad_alloc,
  /// changing nothing.
  Result<void> keep(const PushName& push, std::span<const std::uint64_t> keys,
                    std::span<const float> gradients);
  /// The weighted sum of those of them that are here, as a list in which keys come more than once.
  struct Sum {
    std::vector<PushName> pushes;
    std::vector<std::uint64_t> keys;
    std::vector<float> gradients;  // [keys, dim]
  };
  /// Throws std::bad_alloc.
  Sum weighted(const std::vector<StepOrder::Part>& parts) const;
  /// Forgets what is not needed any more once `order` has been carried out.
  void drop(const StepOrder& order);
  std::size_t size() const { return kept_.size(); }

 private:
  struct Kept {
    std::vector<std::uint64_t> keys;
    std::vector<float> gradients;
    std::uint64_t bytes() const {
      return keys.size() * sizeof(keys[0]) + gradients.size() * sizeof(gradients[0]);
    }
  };
  void drop_up_to(const PushName& push);

  std::map<PushName, Kept> kept_;
  std::uint64_t bytes_ = 0;
};

}  // namespace troupe::shards
