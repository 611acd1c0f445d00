#pragma once

#include <cstdint>
#include <string>
#include <tuple>

#include <troupe/rpc/codec.hpp>
#include <troupe/runtime/error.hpp>

#include "wordnet/evaluation.hpp"

namespace troupe::wordnet {

/// What a worker tells of itself when it cannot go on.
struct WorkerFailure {
  Code code = Code::kUnknown;
  std::string message;
};

enum class WorkKind : std::uint8_t {
  kWait,      ///< nothing to do just now: ask again, holding nobody back meanwhile
  kTrain,     ///< one batch
  kEvaluate,  ///< rank a few triples
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
  std::uint64_t epoch = 0;  ///< kTrain, from 1; kEvaluate: the model as it is after it
  std::uint64_t index = 0;  ///< of the batch; kEvaluate: the first triple
  std::uint64_t end = 0;    ///< kEvaluate: past the last triple
  bool test = false;        ///< kEvaluate: of the test split, else of the validation split
  friend bool operator==(const Work&, const Work&) = default;
};

/// What became of it.
struct WorkDone {
  Work work;
  double loss_sum = 0;         ///< kTrain
  std::uint64_t examples = 0;  ///< kTrain
  RankingSums ranks;           ///< kEvaluate
};

}  // namespace troupe::wordnet

template <>
struct troupe::rpc::Fields<troupe::wordnet::WorkerFailure> {
  using T = troupe::wordnet::WorkerFailure;
  static constexpr std::string_view name = "WorkerFailure";
  static constexpr auto fields = std::tuple(&T::code, &T::message);
};
template <>
struct troupe::rpc::Fields<troupe::wordnet::Work> {
  using T = troupe::wordnet::Work;
  static constexpr std::string_view name = "Work";
  static constexpr auto fields = std::tuple(&T::kind, &T::tables, &T::epoch, &T::index, &T::end, &T::test);
};
template <>
struct troupe::rpc::Fields<troupe::wordnet::RankingSums> {
  using T = troupe::wordnet::RankingSums;
  static constexpr std::string_view name = "RankingSums";
  static constexpr auto fields =
      std::tuple(&T::questions, &T::reciprocal_ranks, &T::hits_at_1, &T::hits_at_3, &T::hits_at_10);
};
template <>
struct troupe::rpc::Fields<troupe::wordnet::WorkDone> {
  using T = troupe::wordnet::WorkDone;
  static constexpr std::string_view name = "WorkDone";
  static constexpr auto fields = std::tuple(&T::work, &T::loss_sum, &T::examples, &T::ranks);
};
