#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <troupe/actors/membership.hpp>
#include <troupe/actors/node_metrics.hpp>
#include <troupe/rpc/transport.hpp>
#include <troupe/runtime/clock.hpp>
#include <troupe/runtime/result.hpp>

namespace troupe {

struct ObserverOptions {
  std::string address = {};  ///< of the cluster's first node
  std::string secret = {};   ///< as in NodeOptions
  std::string secret_file = {};
  rpc::TransportOptions transport = {};
  Duration timeout{std::chrono::seconds(3)};  ///< of meeting, and of each question
};

/// A node of the cluster and what it says of itself.
struct NodeView {
  Member member;
  Result<NodeMetrics> metrics;
};

/// Looks at a running cluster from outside: it is no member, nobody hears of it, and nobody waits for it.
/// One thread, which drives everything.
class ClusterObserver {
 public:
  /// kUnavailable: nobody answers there. kUnauthenticated: the cluster has another secret.
  /// kInvalidArgument, kFailedPrecondition: as for a node that joins.
  static Result<std::unique_ptr<ClusterObserver>> connect(ObserverOptions options);
  ~ClusterObserver();
  ClusterObserver(const ClusterObserver&) = delete;
  ClusterObserver& operator=(const ClusterObserver&) = delete;

  /// Asks all nodes at once; by name. A node that does not answer in time has an error instead of metrics.
  /// An error of the whole: the first node does not answer any more.
  Result<std::vector<NodeView>> look();
  /// Keeps the sessions alive until `done()`, which is asked now and then, and at every signal that the
  /// thread handles, and whenever `descriptor` (-1: none) is readable; or for so long.
  void wait(Duration time, const std::function<bool()>& done, int descriptor = -1);

 private:
  struct Impl;
  explicit ClusterObserver(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace troupe
