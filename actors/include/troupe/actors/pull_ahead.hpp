#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include <troupe/actors/table_client.hpp>

namespace troupe {

/// Pulls the rows of the next batches while the present one is worked on. Each is as old as its begin(): what
/// was pushed after that may be missing in it, and with bounded staleness its pull counts at the clock that
/// the worker had then. One thread at a time, any, while the client lives; what is not taken at the end is
/// cancelled.
class PullAhead {
 public:
  struct Limits {
    std::size_t batches = 2;                     ///< begun and not taken
    std::size_t bytes = std::size_t{256} << 20;  ///< of their rows; one batch may be larger
  };
  struct Batch {
    std::vector<std::uint64_t> keys;
    Tensor rows;  ///< float32 [keys, dim]
    PulledVersions versions;
  };

  explicit PullAhead(TableClient& table, Limits limits);
  explicit PullAhead(TableClient& table) : PullAhead(table, Limits{}) {}
  ~PullAhead();
  PullAhead(const PullAhead&) = delete;
  PullAhead& operator=(const PullAhead&) = delete;

  /// Begins to pull. kResourceExhausted, at once, if the limits would be passed: take one first.
  Result<void> begin(std::vector<std::uint64_t> keys);
  /// The oldest batch that was begun; waits for it. Its pull's error, if that failed; it is taken then, too.
  /// kFailedPrecondition if none was begun.
  Result<Batch> next();
  std::size_t begun() const { return batches_.size(); }
  /// Nobody wants what was begun any more. Their memory is given back when nothing writes there any more.
  void cancel();

 private:
  struct Pulling {
    std::shared_ptr<Batch> batch;
    rpc::Future<PulledVersions> pulled;
    std::size_t bytes = 0;
  };

  TableClient& table_;
  const Limits limits_;
  std::deque<Pulling> batches_;
  std::size_t bytes_ = 0;
};

}  // namespace troupe
