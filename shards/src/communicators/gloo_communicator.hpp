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
  Result<std::unique_ptr<Communicator>> split(int color, int key) override;
  void abort(Error why) override;
  Result<void> state() const override;

 private:
  /// What a member says of a collective before it begins. All but `count` must be the same at all; `count` is
  /// what the two of them expect to go from here to there, and back.
  struct Call {
    std::uint64_t number = 0;
    std::uint32_t what = 0;  ///< index in kNames
    std::uint32_t op = 0;
    std::uint32_t dtype = 0;
    std::int32_t root = 0;
    std::uint64_t elements = 0;
    std::uint64_t counts = 0;  ///< a hash of them
    std::int64_t sends = 0;    ///< to this member
    std::int64_t takes = 0;    ///< from it
  };
  struct Job {
    std::optional<Call> call;  ///< none: not all take part
    std::vector<std::int64_t> sends;
    std::vector<std::int64_t> takes;
    UniqueFunction<Result<void>()> run;
    std::shared_ptr<Work::State> work;
    std::string text;  ///< "all_reduce of float32[50]"
  };

  Work begin(Job job);
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
  std::optional<Error> fault_of(const Tensor& tensor, const char* what) const;
  std::optional<Error> fault_of_rank(int rank) const;

  const CommunicatorOptions options_;
  const std::shared_ptr<GlooMesh> mesh_;
  Buffer scratch_;           // with the thread
  std::uint64_t calls_ = 0;  // collectives so far; with the thread

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> waiting_;
  std::optional<Error> ended_;
  bool closing_ = false;
  std::optional<std::chrono::steady_clock::time_point> due_;  // of what runs
  std::string running_;                                       // its text
  std::vector<bool> heard_;                                   // who has said what it is about to do, by rank
  std::vector<std::thread> threads_;
};

}  // namespace troupe::shards
