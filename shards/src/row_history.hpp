#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <unordered_map>
#include <vector>

#include <troupe/shards/row_keys.hpp>

#include "hashing.hpp"

namespace troupe::shards {

/// What rows were before the last pushes, and so at the versions in between: what a worker saw that pulled
/// some pushes ago. Each push costs memory for its rows until `pushes` others have come; those that come in
/// ranges have no key, no place and no hash each.
class RowHistory {
 public:
  /// Precondition: pushes > 0.
  RowHistory(std::uint64_t dim, std::uint64_t pushes)
      : dim_(dim), pushes_(pushes), newest_(0, Hash{secret_seed()}) {}

  /// The push that makes `version` is to change these rows, now weights[keys, dim]; no key comes twice in a
  /// version. In parts, if that is easier; versions ascend. Throws std::bad_alloc; what was noted of the
  /// version then does no harm.
  void note(std::uint64_t version, const RowKeys& keys, const float* weights);
  /// The row as it was at `version`, or at the oldest one known after it; null: nothing has changed it since.
  const float* at(std::uint64_t key, std::uint64_t version) const;
  std::uint64_t bytes() const { return bytes_; }

 private:
  /// Numbers of pushes, from 1 on; 0: none.
  struct Place {
    std::uint64_t push = 0;
    std::uint64_t row = 0;
  };
  struct Run {
    RowRange rows;
    std::uint64_t at = 0;  // the first one's place in `weights`
  };
  /// In ranges, or key by key.
  struct Push {
    std::uint64_t version = 0;
    std::vector<Run> runs;  // ascending
    std::vector<std::uint64_t> keys;
    std::vector<Place> older;    // [keys], of the same key
    std::vector<float> weights;  // [rows, dim]
  };
  /// What a row was before a push.
  struct Found {
    const float* row = nullptr;
    std::uint64_t version = UINT64_MAX;
  };
  const Push* find(std::uint64_t number) const {
    return number < first_ || number >= first_ + kept_.size() ? nullptr : &kept_[number - first_];
  }
  std::uint64_t bytes_of(const Push& push) const {
    constexpr std::uint64_t kOfIndex = 48;  // about
    return push.keys.size() * (sizeof(std::uint64_t) + sizeof(Place) + kOfIndex) +
           push.runs.size() * sizeof(Run) + push.weights.size() * sizeof(float);
  }
  Found find_by_key(std::uint64_t key, std::uint64_t version) const;
  Found find_in_runs(std::uint64_t row, std::uint64_t version) const;
  void note_ranges(Push& push, const RowKeys& keys, const float* weights);
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
  std::size_t in_runs_ = 0;                                // pushes of kept_
  std::uint64_t bytes_ = 0;
};

}  // namespace troupe::shards
