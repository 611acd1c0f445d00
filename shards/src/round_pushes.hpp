#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <utility>
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

  struct Kept {
    RowKeyList keys;
    std::vector<float> gradients;  // [keys, dim]
    std::uint64_t bytes() const { return keys.bytes() + gradients.size() * sizeof(gradients[0]); }
  };
  using Pushes = std::map<PushName, Kept>;

  /// Whether a push of so many bytes is to be given to add(): false, it is kept already. kResourceExhausted
  /// past the bounds.
  Result<bool> admit(const PushName& push, std::uint64_t bytes) const;
  /// Precondition: admit(). Throws std::bad_alloc, changing nothing.
  void add(const PushName& push, Kept kept);
  /// admit(), and add() of a copy.
  Result<void> keep(const PushName& push, const RowKeys& keys, std::span<const float> gradients);

  /// One of those that an order takes, where it lies.
  struct Taken {
    PushName push;
    RowKeys keys;
    const float* gradients = nullptr;
    float weight = 1;
  };
  /// Those of them that are here. Throws std::bad_alloc.
  std::vector<Taken> taken(const std::vector<StepOrder::Part>& parts) const;
  bool has(const PushName& push) const { return kept_.contains(push); }
  std::uint64_t keys_of(const std::vector<StepOrder::Part>& parts) const;
  /// Takes out what is not needed any more once `order` has been carried out: giving much of it back at once
  /// takes a while.
  Pushes drop(const StepOrder& order);
  std::size_t size() const { return kept_.size(); }

 private:
  void drop_up_to(const PushName& push, Pushes& dropped);

  Pushes kept_;
  std::uint64_t bytes_ = 0;
};

}  // namespace troupe::shards
