#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include <troupe/rpc/transport.hpp>

namespace troupe::rpc {

class UcxWorker;

/// Workers of transports that have gone, which UCX 1.13 cannot destroy without ending the process
/// (UcxWorker::can_end). They keep the memory that UCX may still read or write. Over such a worker a new link
/// to a worker with which it broke off while they were connecting may carry nothing (UCX counts connections,
/// and the two have come to differ). So each stays alone until there are many: then the next transport of
/// this process with the same options takes the oldest, whose peers have most likely gone.
///
/// Thread-safe.
class ParkedWorkers {
 public:
  /// Those of this process. Never destroyed.
  static ParkedWorkers& all();

  void park(std::unique_ptr<UcxWorker> worker);
  static constexpr std::ptrdiff_t kMostKept = 64;  ///< with the same options

  /// Null unless so many have these options.
  std::unique_ptr<UcxWorker> take(const TransportOptions& options);
  std::size_t count() const;

 private:
  mutable std::mutex mutex_;
  std::vector<std::unique_ptr<UcxWorker>> workers_;
};

}  // namespace troupe::rpc
