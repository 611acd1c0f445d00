#pragma once

#include <memory>
#include <string>
#include <vector>

#include <troupe/shards/communicator.hpp>

#include "communicators/calls.hpp"
#include "communicators/nccl_queue.hpp"

namespace troupe::shards {

/// What each collective is in NCCL's words.
class NcclCommunicator final : public Communicator {
 public:
  /// `scratch`: some bytes of the GPU's, which mean nothing.
  NcclCommunicator(std::shared_ptr<NcclQueue> queue, std::string library, Tensor scratch);
  ~NcclCommunicator() override { queue_->close(); }
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  const std::string& name() const override { return queue_->options().name; }
  int rank() const override { return queue_->options().rank; }
  int size() const override { return queue_->options().size; }
  Work all_reduce(Tensor tensor, ReduceOp op) override;
  Work reduce(Tensor tensor, ReduceOp op, int root) override;
  Work broadcast(Tensor tensor, int root) override;
  Work all_gather(Tensor in, Tensor out) override;
  Work all_gather(Tensor in, Tensor out, std::vector<std::int64_t> counts) override;
  Work reduce_scatter(Tensor in, Tensor out, ReduceOp op) override;
  Work all_to_all(Tensor in, std::vector<std::int64_t> in_counts, Tensor out,
                  std::vector<std::int64_t> out_counts) override;
  Work transfer(std::vector<Transfer> transfers) override;
  Work barrier() override;
  Work group(UniqueFunction<void()> calls) override { return queue_->group(calls); }
  Result<std::unique_ptr<Communicator>> split(int color, int key) override;
  void abort(Error why) override { queue_->end(std::move(why)); }
  Result<void> state() const override { return queue_->state(); }

 private:
  /// Refused if NCCL does not reduce such elements.
  Result<DescribedCall> reducible(Result<DescribedCall> call, DType dtype) const;

  int op_of(ReduceOp op) const;

  const std::shared_ptr<NcclQueue> queue_;
  const std::string library_;
  const Tensor scratch_;
  const CallRules rules_;
};

/// `control`: connects the members, which all call this. Waits for them until `due`.
Result<std::unique_ptr<Communicator>> form_nccl(CommunicatorOptions options, NcclOptions nccl,
                                                std::unique_ptr<GlooCommunicator> control,
                                                NcclQueue::Steady::time_point due);

}  // namespace troupe::shards
