#pragma once

#include <memory>
#include <utility>

namespace troupe::rpc {

/// Ends of links that have been removed and must live on for a while, because their code may be on the stack.
/// An end is taken in without memory, so that removing one cannot stop half-way. End has a member
/// `std::unique_ptr<End> removed_before`.
template <class End>
class RemovedEnds {
 public:
  RemovedEnds() = default;
  ~RemovedEnds() { drop(); }
  RemovedEnds(const RemovedEnds&) = delete;
  RemovedEnds& operator=(const RemovedEnds&) = delete;

  bool empty() const { return !last_; }
  void add(std::unique_ptr<End> end) {
    end->removed_before = std::move(last_);
    last_ = std::move(end);
  }
  /// Drops those that are here now, whatever that runs.
  void drop() {
    for (auto end = std::move(last_); end;) end = std::move(end->removed_before);
  }

 private:
  std::unique_ptr<End> last_;
};

}  // namespace troupe::rpc
