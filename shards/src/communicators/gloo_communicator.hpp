#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include <troupe/shards/communicator.hpp>

#include "communicators/calls.hpp"
#include "communicators/gloo_mesh.hpp"
#include "communicators/reduction.hpp"
#include "communicators/work.hpp"

namespace troupe::shards {

/// One thread calls Gloo, for one collective after the other; one looks at the time, one at the members.
/// Whoever finds that it is over ends the mesh, and with it whatever the first waits for.
class GlooCommunicator final : public Communicator {
 public:
  GlooCommunicator(CommunicatorOptions options, std::shared_ptr<GlooMesh> mesh);
  ~GlooCommunicator() override;
  GlooCommunicator(const GlooCommunicator&) = delete;
  GlooCommunicator& operator=(const GlooCommunicator&) = delete;

  const std::string& name() const override { return options_.name; }
  int rank() const override { return options_.rank; }
  int size() const override { return options_.size; }
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
  Work group(UniqueFunction<void()> calls) override;
  Result<std::unique_ptr<Communicator>> split(int color, int key) override;
  void abort(Error why) override;
  Result<void> state() const override;

  /// For a communicator that has its collectives done by others: tells the members what is about to be done,
  /// in the order of these calls, and hears from them. Needs check_calls. Who calls looks at the time.
  Work agree_on(DescribedCall call);
  /// Tensors are looked at for their type and size alone.
  Work agree_on(std::vector<Transfer> transfers);
  /// The first member who has not yet said what the oldest of these is; empty: all have.
  std::string missing() const;
  /// Calls `told` once it has ended, at once if it has; on a thread of its own, which ends the sockets after
  /// that. Once.
  void when_ended(UniqueFunction<void(const Error& why)> told);

 private:
  struct Job : DescribedCall {
    UniqueFunction<Result<void>()> run;
    std::shared_ptr<Work::State> work;
    bool timed = true;
  };

  Work begin(Result<DescribedCall> call, UniqueFunction<Result<void>()> run, bool timed = true);
  void work();
  void watch_time();
  void watch_members();
  void close();
  Result<void> run(Job& job);
  /// Tells the others, and hears from them, what is to be done.
  Result<void> agree(const Job& job);
  Result<void> run_all_reduce(const Tensor& tensor, Combine combine, ReduceOp op);
  Result<void> run_reduce(const Tensor& tensor, Combine combine, ReduceOp op, int root);
  Result<void> run_broadcast(const Tensor& tensor, int root);
  Result<void> run_transfers(const std::vector<Transfer>& transfers);
  /// Whether the other members' ends of these are of the same type, size and tag. Those of one tag meet, or,
  /// if not by_tag, those at the same place in the order.
  Result<void> check_transfers(const std::vector<Transfer>& transfers, bool by_tag);
  /// `out` = this member's part of all members' tensors combined; it may lie in that part. `combined` is told
  /// of each piece that is there.
  void combine_part(const Tensor& tensor, const std::vector<GlooMesh::Part>& parts, Combine combine,
                    ReduceOp op, std::byte* out,
                    const std::function<void(std::size_t at, std::size_t bytes)>& combined = {});
  /// Memory for one collective; what it holds is undefined.
  std::span<std::byte> scratch(std::size_t bytes);
  /// All but this member's own.
  std::vector<GlooMesh::Part> others(std::vector<GlooMesh::Part> parts) const;
  /// Of one step of the collective that runs.
  std::uint64_t slot(std::uint8_t step) const {
    return own_slot(static_cast<std::uint8_t>(2 + step), static_cast<std::uint32_t>(calls_));
  }
  void end(Error why);
  /// The first who has not said yet what it is about to do; empty: all have.
  std::string missing_member() const;

  const CommunicatorOptions options_;
  const CallRules rules_;
  const std::shared_ptr<GlooMesh> mesh_;
  Buffer scratch_;           // with the thread
  std::uint64_t calls_ = 0;  // collectives so far; with the thread

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> waiting_;
  std::optional<Error> ended_;
  UniqueFunction<void(const Error&)> told_of_end_;
  bool closing_ = false;
  std::optional<std::chrono::steady_clock::time_point> due_;  // of what runs
  std::string running_;                                       // its text
  std::vector<bool> heard_;                                   // who has said what it is about to do, by rank
  std::vector<std::thread> threads_;
};

/// make_gloo_communicator() for those who need more of it.
Result<std::unique_ptr<GlooCommunicator>> make_gloo(CommunicatorOptions options, AddressExchange exchange);

}  // namespace troupe::shards
