#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <vector>

#include <troupe/runtime/result.hpp>
#include <troupe/shards/communicator.hpp>
#include <troupe/training/zero.hpp>

#include "zero/plan.hpp"

namespace troupe::training::zero {

/// Gradients on their way from the model to whoever steps them. Stages 0 and 1 add those of all passes up at
/// home, and reduce a segment as soon as the last pass has filled it; the others reduce each pass in buckets,
/// and keep this member's part alone.
class Gradients {
 public:
  Gradients(const Plan& plan, shards::Communicator& group, const ZeroOptions& options);

  /// Of float32 or the options' type, contiguous, with the parameter's elements. Errors: the communicator's.
  Result<void> take(int parameter, const Tensor& gradient);
  /// Waits for what is under way.
  Result<void> finish();
  /// Forgets all gradients. Precondition: nothing is under way.
  void reset();

  /// The parameter whose gradient comes next; -1: none before a step.
  int next() const { return pass_ == options_.accumulation ? -1 : next_; }
  bool between_passes() const { return next_ == last_; }
  int pass() const { return pass_; }

  /// What all are to be multiplied with, beside the loss scale, to be the mean of members and passes.
  float factor() const { return scaled_before_ ? 1.0F : mean_factor_; }
  /// Gradients as this member steps them, and its share alone, after finish().
  Tensor stepped(const Segment& segment) const;
  Tensor share(const Segment& segment) const;
  /// Whether no number of 16 bits was too large, here.
  bool fit() const { return fit_; }

  std::size_t bytes() const { return whole_.bytes() + own_.bytes(); }
  std::size_t bucket_bytes() const { return bucket_bytes_; }
  std::size_t most_bucket_bytes() const { return most_bucket_bytes_; }

 private:
  struct OnItsWay {
    int segment;
    Tensor bucket;
    shards::Work work;
  };

  bool keeps_whole() const { return options_.stage < ZeroStage::kGradients; }
  Result<void> fill_whole(int segment, const Piece& piece, const Tensor& gradient);
  Result<void> fill_bucket(int segment, const Piece& piece, const Tensor& gradient);
  /// Until so many are under way.
  Result<void> settle(std::size_t rest);
  Tensor new_bucket(const Segment& segment);

  const Plan& plan_;
  shards::Communicator& group_;
  const ZeroOptions& options_;
  const int last_;
  const float mean_factor_;
  /// float16: sums of many would be too large, so each is divided before.
  const bool scaled_before_;
  Tensor whole_;  // stages 0 and 1
  Tensor own_;    // the others
  int next_;
  int pass_ = 0;
  bool fit_ = true;
  std::vector<std::int64_t> filled_;  // elements of each segment in this pass
  std::map<int, Tensor> open_;        // buckets that are being filled
  std::deque<OnItsWay> under_way_;
  std::size_t bucket_bytes_ = 0;
  std::size_t most_bucket_bytes_ = 0;
};

}  // namespace troupe::training::zero
