#pragma once

#include <cstddef>
#include <vector>

#include <troupe/runtime/result.hpp>
#include <troupe/shards/communicator.hpp>
#include <troupe/training/zero.hpp>

#include "zero/plan.hpp"
#include "zero/works.hpp"

namespace troupe::training::zero {

/// Parameters between steps: whole regions; of the others this member's part; and with types of 16 bits the
/// float32 weights of what it steps.
class Weights {
 public:
  Weights(const Plan& plan, shards::Communicator& group, const ZeroOptions& options);

  /// The float32 weights that this member steps.
  Tensor stepped(const Segment& segment) const;
  /// After these have changed: rounds them, and begins to send them to whoever keeps them whole.
  Result<void> publish(const Segment& segment);
  /// Waits until all have come.
  Result<void> published() { return works_.wait(); }
  /// Whether all weights that this member has rounded since forget_fit() are numbers that 16 bits can hold.
  bool fit() const { return fit_; }
  void forget_fit() { fit_ = true; }

  /// A whole region. Precondition: it is one.
  const Tensor& whole(int region) const { return values_[static_cast<std::size_t>(region)]; }
  /// Begins to gather a region into `to`: by these works, which are also among `all` that are under way.
  Result<void> gather(int region, const Tensor& to, Works& works, Works& all) const;

  /// Takes a parameter's values, float32, where they belong to what this member steps.
  void set(int parameter, const Tensor& values) const;

  std::size_t bytes() const;
  /// Of all that it steps; empty if the values are float32 themselves.
  const Tensor& masters() const { return masters_; }
  std::size_t master_bytes() const { return masters_.bytes(); }

 private:
  /// This member's part of what it holds in the options' type.
  Tensor held(const Segment& segment) const;

  const Plan& plan_;
  shards::Communicator& group_;
  const DType dtype_;
  std::vector<Tensor> values_;  // of each region: whole, or this member's parts of its segments
  Tensor masters_;
  Works works_;
  bool fit_ = true;
};

}  // namespace troupe::training::zero
