#pragma once

#include <cstddef>
#include <deque>
#include <utility>

#include <troupe/shards/communicator.hpp>

namespace troupe::training::zero {

/// Collectives that are under way, of which so many at most: a communicator lets only some wait.
class Works {
 public:
  Result<void> add(shards::Work work) {
    works_.push_back(std::move(work));
    return wait_until(kMost);
  }
  Result<void> wait() { return wait_until(0); }
  /// Without a bound of its own: somebody else holds it within one.
  void keep(shards::Work work) { works_.push_back(std::move(work)); }

 private:
  static constexpr std::size_t kMost = 64;

  Result<void> wait_until(std::size_t rest) {
    while (works_.size() > rest) {
      const shards::Work first = std::move(works_.front());
      works_.pop_front();
      if (Result<void> ended = first.wait(); !ended && first_error_) first_error_ = std::move(ended);
      if (!first_error_) return first_error_;
    }
    return first_error_;
  }

  std::deque<shards::Work> works_;
  Result<void> first_error_;  // what has failed stays so
};

}  // namespace troupe::training::zero
