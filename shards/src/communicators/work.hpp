#pragma once

#include <condition_variable>
#include <mutex>
#include <optional>
#include <vector>

#include <troupe/shards/communicator.hpp>

namespace troupe::shards {

/// What a Work and the communicator's thread share.
class Work::State {
 public:
  bool done() const;
  Result<void> wait(std::optional<Duration> timeout) const;
  void then(UniqueFunction<void(const Result<void>&)> told);
  /// The first call counts. Runs what waits for it.
  void finish(Result<void> ended);

 private:
  mutable std::mutex mutex_;
  mutable std::condition_variable ended_;
  std::optional<Result<void>> result_;
  std::vector<UniqueFunction<void(const Result<void>&)>> told_;
};

/// One that has ended already.
Work ended_work(Result<void> result);

}  // namespace troupe::shards
