#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include <troupe/runtime/result.hpp>
#include <troupe/runtime/tensor.hpp>

#include "zero/plan.hpp"
#include "zero/weights.hpp"
#include "zero/works.hpp"

namespace troupe::training::zero {

/// Which layers are whole for now (stage 3), and which will be. What is gathered when follows from the order
/// of calls alone, so that all members gather the same.
class Layers {
 public:
  Layers(const Plan& plan, const Weights& weights, const ZeroOptions& options);

  bool has(int layer) const { return layer >= 0 && layer < plan_.layers(); }
  /// Errors: the communicator's. Precondition: has(layer).
  Result<void> begin(int layer);
  /// kFailedPrecondition: it has not begun.
  Result<void> end(int layer);
  /// A pass is over: the order of its layers is what the next one is held against.
  void end_pass();
  /// A layer that is in use; -1: none.
  int in_use() const { return in_use_but(-1); }
  /// Waits for what is under way, and lets all layers go. Precondition: none is in use.
  Result<void> drop_all();
  /// Lets go also what is in use, and forgets the pass so far.
  Result<void> drop_pass();
  /// A gathered region; null if it is not whole.
  const Tensor* whole(int region) const;
  /// A number that says which layers that are gathered were begun, in which order.
  std::uint64_t order() const { return hash_; }

  std::size_t bytes() const { return bytes_; }
  std::size_t most_bytes() const { return most_bytes_; }

 private:
  struct Gathered {
    Tensor values;
    Works works;
    int users = 0;
    bool begun = false;  ///< it is whole, or will be
    bool there = false;
  };

  Gathered& of(int region) { return gathered_[static_cast<std::size_t>(region)]; }
  std::int64_t size(int region) const { return plan_.regions()[static_cast<std::size_t>(region)].n; }
  void note(int layer);
  Result<void> begin_gather(int region);
  Result<void> prefetch();
  bool worth_keeping(int layer) const;
  void drop(int region);
  void drop_unused();
  /// Another use of this layer than the one that begins does not count.
  int in_use_but(int layer) const;

  const Plan& plan_;
  const Weights& weights_;
  const ZeroOptions& options_;
  std::vector<Gathered> gathered_;  // by region
  Works under_way_;                 // of all of them, also of those that have been let go since
  std::vector<int> users_;          // by layer
  std::vector<int> order_;          // gathered layers of the last pass
  std::vector<int> seen_;           // of this one
  bool known_ = false;              // so far this pass is as the last one
  std::int64_t live_ = 0;           // elements that are gathered
  std::uint64_t hash_;
  std::size_t bytes_ = 0;
  std::size_t most_bytes_ = 0;
};

}  // namespace troupe::training::zero
