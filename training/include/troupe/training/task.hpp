#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <troupe/runtime/result.hpp>
#include <troupe/shards/optimizer.hpp>
#include <troupe/shards/table_spec.hpp>
#include <troupe/training/report.hpp>
#include <troupe/training/table_group.hpp>

namespace CLI {
class App;
}

namespace troupe::training {

/// Which batch of the run: batch `index` of `epoch`, which counts from 1.
struct BatchId {
  std::uint64_t epoch = 1;
  std::uint64_t index = 0;
};

/// One step of training: the rows that a batch needs, and what came of them. Its memory is used again.
struct Step {
  KeysByTable keys;       ///< to be set by Task::plan(); distinct within a table
  RowsByTable rows;       ///< [keys, dim] of each table, as pulled
  RowsByTable gradients;  ///< the same shapes, of the batch's loss with regard to the rows: all to be written
  double loss_sum = 0;    ///< over the examples
  std::uint64_t examples = 0;
};

/// Examples that were held back from training.
enum class Split : std::uint8_t { kValidation, kTest };

/// A part of a split, to be evaluated.
struct EvaluationPart {
  Split split = Split::kTest;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;    ///< past the last example
  std::uint64_t epoch = 0;  ///< the tables are as they are after it: rows that were read may be kept
};

/// What a training program says of its model and data; the library does the rest. Each process has a task of
/// its own, made from the same flags, and uses it from one thread at a time.
///
/// Any worker may be given any batch, and that of a worker that died is given to another: what a batch holds
/// must follow from its BatchId and the flags alone (Permutation makes such an order).
class Task {
 public:
  Task() = default;
  virtual ~Task() = default;
  Task(const Task&) = delete;
  Task& operator=(const Task&) = delete;

  // ---- In every process ---------------------------------------------------------------------------
  /// Adds the task's own flags, which write into it. Those that are to be kept by a checkpoint without being
  /// given need capture_default_str().
  virtual void add_flags(CLI::App& app) { (void)app; }
  /// Of these, the ones that may differ when a run is resumed: {"--data"}.
  virtual std::vector<std::string> flags_free_to_change() const { return {}; }
  /// Reads or makes the data. Once, after the flags; not in shard servers. kInvalidArgument and kNotFound are
  /// taken for bad input.
  virtual Result<void> load() { return {}; }
  /// The model's tables. Their consistency is set by the job.
  virtual std::vector<shards::TableSpec> tables() const = 0;
  /// The optimizers that shard servers are to know. Before flags and data.
  virtual shards::OptimizerList optimizers() const { return shards::builtin_optimizers(); }

  // ---- Training, in workers -----------------------------------------------------------------------
  virtual std::uint64_t batches_per_epoch() const = 0;
  /// Says which rows the batch needs: fills step.keys, which has a place for each table.
  virtual void plan(const BatchId& batch, Step& step) = 0;
  /// Fills step.gradients (which have the rows' sizes), loss_sum and examples. Called after plan() of the
  /// same batch. An error ends this worker.
  virtual Result<void> compute(const BatchId& batch, Step& step) = 0;

  // ---- Evaluation ---------------------------------------------------------------------------------
  /// How many examples a split has; 0: it is not evaluated.
  virtual std::uint64_t evaluation_size(Split) const { return 0; }
  /// How many of them a worker is given at once: work of some tenths of a second.
  virtual std::uint64_t evaluation_chunk() const { return 50; }
  /// In workers: sums over examples part.begin .. part.end-1 (correct ones, errors, a count), which are added
  /// to those of the other parts.
  virtual Result<std::vector<double>> evaluate(const EvaluationPart& part, TableGroup& tables) {
    (void)part, (void)tables;
    return std::vector<double>{};
  }
  /// In the chief: what is reported of such sums over a whole split. The first metric is the run's score.
  virtual std::vector<Metric> metrics(const std::vector<double>& sums) const {
    (void)sums;
    return {};
  }

  // ---- The report, in the chief -------------------------------------------------------------------
  /// What rows depend on, as a text: a checkpoint is refused where this differs.
  virtual std::string data_identity() const { return {}; }
  /// Whether the data is that of this data_identity() and more, and each row that was there has its key
  /// still: then a run may go on with it, if that is asked for.
  virtual bool adds_to(const std::string& identity) const {
    (void)identity;
    return false;
  }
  /// After load(): the report's words, its line about the data, a reference.
  virtual Result<void> begin_report(RunReport& report) {
    (void)report;
    return {};
  }
  /// After the last epoch: sections of the program's own. The tables may be read.
  virtual Result<void> end_report(RunReport& report, TableGroup& tables) {
    (void)report, (void)tables;
    return {};
  }
};

}  // namespace troupe::training
