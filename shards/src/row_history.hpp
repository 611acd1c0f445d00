#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <unordered_map>
#include <vector>

#include "hashing.hpp"

namespace troupe::shards {

/// What rows were before the last pushes, and so at the versions in between: what a worker saw that pulled
/// some pushes ago. Each push costs memory for its rows until `pushes` others have come.
class RowHistory {
 public:
  /// Precondition: pushes > 0.
  RowHistory(std::uint64_t dim, std::uint64_t pushes)
      : dim_(dim), pushes_(pushes), newest_(0, Hash{secret_seed()}) {}

  /// The push that makes `version` is to change these rows, now weights[keys, dim]; no key comes twice in a
  /// version. In parts, if that is easier; versions ascend. Throws std::bad_alloc; what was noted of the
  /// version then does no harm.
  void note(std::uint64_t version, std::span<const std::uint64_t> keys, const float* weights);
  /// The row as it was at `version`, or at the oldest one known after it; null: nothing has changed it since.
  const float* at(std::uint64_t key, std::uint64_t version) const;
  std::uint64_t bytes() const { return bytes_; }

 private:
  /// Numbers of pushes, from 1 on; 0: none.
  struct Place {
    std::uint64_t push = 0;
    std::uint64_t row = 0;
  };
  struct Push {
    std::uint64_t version = 0;
    std::vector<std::uint64_t> keys;
    std::vector<Place> older;    // [keys], of the same key
    std::vector<float> weights;  // [keys, dim]
  };
  const Push* find(std::uint64_t number) const {
    return number < first_ || number >= first_ + kept_.size() ? nullptr : &kept_[number - first_];
  }
  std::uint64_t bytes_of(const Push& push) const {
    constexpr std::uint64_t kOfIndex = 48;  // about
    return push.keys.size() * (sizeof(std::uint64_t) + sizeof(Place) + kOfIndex + dim_ * sizeof(float));
  }
  void drop_oldest();

  /// Keys are chosen by others.
  struct Hash {
    std::uint64_t seed;
    std::size_t operator()(std::uint64_t key) const { return mix64(key ^ seed); }
  };

  std::uint64_t dim_;
  std::uint64_t pushes_;
  std::deque<Push> kept_;
  std::uint64_t first_ = 1;                                // the number of kept_.front()
  std::unordered_map<std::uint64_t, Place, Hash> newest_;  // by key
  std::uint64_t bytes_ = 0;
};

}  // namespace troupe::shards
