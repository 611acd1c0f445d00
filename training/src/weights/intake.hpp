#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <troupe/actors/node.hpp>

#include "layout.hpp"
#include "wire.hpp"

namespace troupe::training {

/// One version on its way to a reader. With the loop's turn.
class WeightIntake : public std::enable_shared_from_this<WeightIntake> {
 public:
  struct From {
    std::string actor;
    bool by_mapping = false;  ///< to be tried first
    std::uint64_t part_bytes = 0;
    std::uint64_t piece_bytes = 0;
    Duration part_timeout{};
  };
  struct Counts {
    std::uint64_t mapped = 0, received = 0, kept = 0;  ///< bytes
    bool could_not_map = false;
  };
  using Done = std::function<void(Result<WeightVersionPtr>, const Counts&)>;

  /// Calls `done` once, unless it is cancelled, possibly before it returns. `base`: the version from which
  /// `news` says what has changed.
  static std::shared_ptr<WeightIntake> begin(Node& node, From from,
                                             std::shared_ptr<const WeightLayout> layout, WeightNews news,
                                             WeightVersionPtr base, Done done);
  void cancel();
  std::uint64_t number() const { return news_.number; }
  std::uint64_t came() const { return counts_.received + counts_.kept; }

 private:
  static constexpr int kInFlight = 4;
  static constexpr std::uint64_t kCopyAtOnce = std::uint64_t{2} << 20;  // so much does not hold a loop
  struct Run {
    std::uint64_t begin = 0, end = 0;  // bytes
  };

  WeightIntake(Node& node, From from, std::shared_ptr<const WeightLayout> layout, WeightNews news,
               WeightVersionPtr base, Done done);
  Result<void> plan();
  void map();
  void mapped(Result<Tensor> whole);
  void by_parts();
  /// Does a step; what it throws, for want of memory, ends the intake.
  void guarded(const std::function<void()>& step);
  void ask_on();
  void copy_on();
  void finish_if_whole();
  void finish(Result<WeightVersionPtr> result);
  WeightVersionPtr version(Buffer slab) const;

  Node& node_;
  From from_;
  std::shared_ptr<const WeightLayout> layout_;
  WeightNews news_;
  WeightVersionPtr base_;
  Done done_;  // null: it is over
  Counts counts_;
  std::vector<Run> to_fetch_, to_copy_;  // the last ones first
  Tensor slab_;
  std::vector<rpc::Future<Tensor>> calls_;
  int in_flight_ = 0;
  bool asking_ = false;
};

}  // namespace troupe::training
