#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include <troupe/shards/communicator.hpp>

namespace troupe::training::test {

enum class How : std::uint8_t { kDies, kHasNoMemory };

/// A member's communicator that dies when it is about to begin one of its collectives: the others see a
/// member that is gone. Or has no memory for it, as tensors beside it may not have.
class Failing final : public shards::Communicator {
 public:
  /// `at`: which one, from 0 on; -1: never.
  Failing(shards::Communicator& group, int at, How how = How::kDies) : group_(group), at_(at), how_(how) {}
  /// Collectives so far.
  int count() const { return count_; }

  const std::string& name() const override { return group_.name(); }
  int rank() const override { return group_.rank(); }
  int size() const override { return group_.size(); }
  shards::Work all_reduce(Tensor tensor, shards::ReduceOp op) override {
    return next().all_reduce(std::move(tensor), op);
  }
  shards::Work reduce(Tensor tensor, shards::ReduceOp op, int root) override {
    return next().reduce(std::move(tensor), op, root);
  }
  shards::Work broadcast(Tensor tensor, int root) override {
    return next().broadcast(std::move(tensor), root);
  }
  shards::Work all_gather(Tensor in, Tensor out) override {
    return next().all_gather(std::move(in), std::move(out));
  }
  shards::Work all_gather(Tensor in, Tensor out, std::vector<std::int64_t> counts) override {
    return next().all_gather(std::move(in), std::move(out), std::move(counts));
  }
  shards::Work reduce_scatter(Tensor in, Tensor out, shards::ReduceOp op) override {
    return next().reduce_scatter(std::move(in), std::move(out), op);
  }
  shards::Work all_to_all(Tensor in, std::vector<std::int64_t> in_counts, Tensor out,
                          std::vector<std::int64_t> out_counts) override {
    return next().all_to_all(std::move(in), std::move(in_counts), std::move(out), std::move(out_counts));
  }
  shards::Work transfer(std::vector<shards::Transfer> transfers) override {
    return next().transfer(std::move(transfers));
  }
  shards::Work barrier() override { return next().barrier(); }
  Result<std::unique_ptr<shards::Communicator>> split(int color, int key) override {
    return next().split(color, key);
  }
  void abort(Error why) override { group_.abort(std::move(why)); }
  Result<void> state() const override { return group_.state(); }

 private:
  shards::Communicator& next() {
    if (count_++ != at_) return group_;
    if (how_ == How::kHasNoMemory) throw std::bad_alloc();
    group_.abort({Code::kAborted, "this member has died"});
    return group_;
  }

  shards::Communicator& group_;
  int at_;
  How how_;
  int count_ = 0;
};

}  // namespace troupe::training::test
