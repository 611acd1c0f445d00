#pragma once

#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include <troupe/rpc/codec.hpp>
#include <troupe/runtime/error.hpp>
#include <troupe/training/task.hpp>

namespace troupe::training {

/// What a worker tells of itself when it cannot go on.
struct WorkerFailure {
  Code code = Code::kUnknown;
  std::string message;
};

enum class WorkKind : std::uint8_t {
  kWait,      ///< nothing to do just now: ask again, holding nobody back meanwhile
  kTrain,     ///< one batch
  kEvaluate,  ///< a part of a split
  kFinish,    ///< the job is over
};

/// The tables on which a batch works.
enum class TableSet : std::uint8_t {
  kOwn,           ///< the model
  kCompareOwn,    ///< scratch copies on which the run's own mode of consistency is timed ...
  kCompareOther,  ///< ... and the other mode
};

/// A piece of work for a worker.
struct Work {
  WorkKind kind = WorkKind::kWait;
  TableSet tables = TableSet::kOwn;
  std::uint64_t epoch = 0;           ///< kTrain, from 1; kEvaluate: the model as it is after it
  std::uint64_t index = 0;           ///< of the batch; kEvaluate: the first example
  std::uint64_t end = 0;             ///< kEvaluate: past the last example
  Split split = Split::kValidation;  ///< kEvaluate
  friend bool operator==(const Work&, const Work&) = default;
};

/// What became of it.
struct WorkDone {
  Work work;
  double loss_sum = 0;         ///< kTrain
  std::uint64_t examples = 0;  ///< kTrain
  std::uint64_t dropped = 0;   ///< kTrain: 1 if its gradients came too late for its round, and were dropped
  std::vector<double> sums;    ///< kEvaluate
};

}  // namespace troupe::training

template <>
struct troupe::rpc::Fields<troupe::training::WorkerFailure> {
  using T = troupe::training::WorkerFailure;
  static constexpr std::string_view name = "WorkerFailure";
  static constexpr auto fields = std::tuple(&T::code, &T::message);
};
template <>
struct troupe::rpc::Fields<troupe::training::Work> {
  using T = troupe::training::Work;
  static constexpr std::string_view name = "Work";
  static constexpr auto fields = std::tuple(&T::kind, &T::tables, &T::epoch, &T::index, &T::end, &T::split);
};
template <>
struct troupe::rpc::Fields<troupe::training::WorkDone> {
  using T = troupe::training::WorkDone;
  static constexpr std::string_view name = "WorkDone";
  static constexpr auto fields = std::tuple(&T::work, &T::loss_sum, &T::examples, &T::dropped, &T::sums);
};
