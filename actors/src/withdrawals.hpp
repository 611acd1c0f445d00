#pragma once

#include <set>
#include <string>

#include <troupe/rpc/future.hpp>
#include <troupe/runtime/timer.hpp>

namespace troupe {

struct NodeImpl;

/// Names of actors that have ended which the registry may not know of: it could not be told, or its answer
/// did not come. It is told again in each heartbeat interval, until it answers or the node goes, with which
/// they go anyway. With the loop's turn.
class Withdrawals {
 public:
  explicit Withdrawals(NodeImpl& node);

  void add(const std::string& name);
  /// The name is taken anew. What was said to the registry before arrives before what is said now.
  void forget(const std::string& name) { names_.erase(name); }
  void close();

 private:
  void try_again();

  NodeImpl& node_;
  std::set<std::string> names_;
  Timer again_;
};

}  // namespace troupe
