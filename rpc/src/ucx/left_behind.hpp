#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

namespace troupe::rpc {

class UcxWorker;

/// Workers of transports that have gone, in which something is unfinished that UCX 1.13 cannot cut short
/// without ending the process (UcxWorker::can_end). It ends when the peer goes on, or the kernel gives its
/// connection up; so each is kept, with the memory that UCX may still read or write, until then, or until the
/// process ends. They are looked at whenever another worker is made or comes to its end.
///
/// Thread-safe.
class LeftBehind {
 public:
  /// Those of this process. Never destroyed.
  static LeftBehind& all();

  void add(std::unique_ptr<UcxWorker> worker);
  /// Destroys those that can end now.
  void look_after();
  std::size_t count() const;

 private:
  mutable std::mutex mutex_;
  std::vector<std::unique_ptr<UcxWorker>> workers_;
};

}  // namespace troupe::rpc
