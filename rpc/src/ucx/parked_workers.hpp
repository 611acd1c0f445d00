#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include <troupe/rpc/transport.hpp>

namespace troupe::rpc {

class UcxWorker;

/// Workers of transports that have gone, which UCX 1.13 cannot destroy without ending the process
/// (UcxWorker::can_end). They keep the memory that UCX may still read or write, and wait for the next
/// transport of this process with the same options. One that is never taken stays until the process ends.
///
/// Thread-safe.
class ParkedWorkers {
 public:
  /// Those of this process. Never destroyed.
  static ParkedWorkers& all();

  void park(std::unique_ptr<UcxWorker> worker);
  /// Null if none has these options.
  std::unique_ptr<UcxWorker> take(const TransportOptions& options);
  std::size_t count() const;

 private:
  mutable std::mutex mutex_;
  std::vector<std::unique_ptr<UcxWorker>> workers_;
};

}  // namespace troupe::rpc
