#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include <troupe/kernels/optimizer.hpp>

#include "wordnet/complex_model.hpp"
#include "wordnet/dataset.hpp"
#include "wordnet/evaluation.hpp"
#include "wordnet/hyper_parameters.hpp"

namespace troupe::wordnet {

/// Rows and their Adagrad sums in this process's memory. Threads may gather and update at once: each row is
/// read and written whole (striped locks), as at a shard; rows of one gather may be of different ages.
class LocalTable {
 public:
  /// `rows` rows of `width` floats, with the first values of initial_row(seed, ...).
  LocalTable(std::size_t rows, std::size_t width, std::uint64_t seed, const HyperParameters& parameters);

  /// out[keys.size(), width] = the rows of `keys`.
  void gather(std::span<const std::uint64_t> keys, float* out);

  /// One Adagrad step of the rows of `keys`, each occurring once, with grads[keys.size(), width].
  void update(std::span<const std::uint64_t> keys, const float* grads);

  /// Sets all rows, values[rows, width], and their Adagrad sums to 0.
  void set_values(std::span<const float> values);

  /// A copy of all rows, [rows, width]. Not while another thread updates.
  std::vector<float> values() const;

 private:
  std::mutex& stripe(std::uint64_t key) { return stripes_[key % kStripes]; }

  static constexpr std::size_t kStripes = 4096;
  std::size_t width_;
  std::size_t stride_;  // of a row with its optimizer state
  kernels::Adagrad optimizer_;
  std::vector<float> memory_;
  std::unique_ptr<std::mutex[]> stripes_;
};

struct EpochStats {
  double loss = 0;  ///< mean cross-entropy of an example
  std::uint64_t examples = 0;
  double seconds = 0;
};

/// evaluate() with `triples` dealt out to `threads` threads.
RankingSums evaluate_in_parallel(const ModelView& model, const KnownAnswers& known,
                                 std::span<const Triple> triples, std::size_t threads);

/// The training of the main job in one process: the same model, batches, negatives and optimizer, without
/// calls and shards. What the distributed job is measured against.
class ReferenceTrainer {
 public:
  /// `graph` must outlive the trainer.
  ReferenceTrainer(const KnowledgeGraph& graph, const HyperParameters& parameters);

  /// Trains on every batch of `epoch` once, on `threads` threads that take the next batch as they get
  /// free. With one thread the outcome is a function of the parameters alone. `on_batch`, if any, is called
  /// after each batch with the number of examples done; from any of the threads, several at once.
  EpochStats run_epoch(std::uint64_t epoch, std::size_t threads,
                       const std::function<void(std::uint64_t)>& on_batch = {});

  /// Begins from these rows instead of its own first values. Before the first epoch.
  void start_from(const ModelRows& rows);

  /// A copy of the rows as they are; not while an epoch runs.
  ModelRows rows() const;

 private:
  struct Work;  // what the threads of an epoch share

  void train(Work& work);

  const KnowledgeGraph& graph_;
  HyperParameters parameters_;
  Sampler sampler_;
  LocalTable entities_;
  LocalTable relations_;
};

}  // namespace troupe::wordnet
