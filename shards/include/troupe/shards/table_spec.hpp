#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <troupe/runtime/result.hpp>
#include <troupe/runtime/tensor.hpp>
#include <troupe/shards/clipping.hpp>
#include <troupe/shards/optimizer.hpp>
#include <troupe/shards/schedule.hpp>

namespace troupe::shards {

/// What the keys of a table are.
enum class TableKind : std::uint8_t {
  kDense,      ///< a tensor [rows, dim]: keys are the row numbers 0 .. rows-1, and every row exists
  kEmbedding,  ///< any 64-bit key; a row is made when its key is first pulled or pushed
};

struct Zeros {
  friend bool operator==(const Zeros&, const Zeros&) = default;
};
/// Evenly over [low, high).
struct Uniform {
  float low = -0.05F;
  float high = 0.05F;
  friend bool operator==(const Uniform&, const Uniform&) = default;
};
struct Normal {
  float mean = 0;
  float stddev = 0.01F;
  friend bool operator==(const Normal&, const Normal&) = default;
};

using Initializer = std::variant<Zeros, Uniform, Normal>;

/// Workers run on without waiting for each other.
struct Asynchronous {
  friend bool operator==(const Asynchronous&, const Asynchronous&) = default;
};
/// No worker's clock runs more than `bound` ahead of the slowest live one.
struct BoundedStaleness {
  std::uint64_t bound = 0;
  friend bool operator==(const BoundedStaleness&, const BoundedStaleness&) = default;
};
/// In rounds: one step with the pushes of all who take part (ClockPolicy).
struct Synchronous {
  friend bool operator==(const Synchronous&, const Synchronous&) = default;
};
/// What becomes of a push for a round that was decided without it.
enum class LatePushes : std::uint8_t {
  kDrop,   ///< nothing: its worker is told so
  kScale,  ///< a step of its own, times 1 / (1 + rounds that it is late)
};
/// In rounds: one step with the first `k` pushes, or with those of all who take part if these are fewer.
struct KOfN {
  std::uint64_t k = 1;  ///< 1 or more
  LatePushes late = LatePushes::kDrop;
  friend bool operator==(const KOfN&, const KOfN&) = default;
};

/// Who waits for whom: see ClockPolicy.
using Consistency = std::variant<Asynchronous, BoundedStaleness, Synchronous, KOfN>;

/// Whether pushes are gathered in rounds, each of which is one step.
inline bool in_rounds(const Consistency& consistency) {
  return std::holds_alternative<Synchronous>(consistency) || std::holds_alternative<KOfN>(consistency);
}

/// How the learning rate of one push depends on its staleness s. Not in rounds, whose steps have none: there
/// LatePushes says what becomes of late ones.
enum class StepScaling : std::uint8_t {
  kNone,              ///< not at all
  kInverseStaleness,  ///< times 1 / (1 + s)
};

/// Corrects the gradients of a push for the steps that were made since its weights were pulled (Zheng et al.
/// 2017, "Asynchronous SGD with delay compensation", equation 10): to each number g of them comes
/// lambda * g * g * (w - w of the pull). Not in rounds, whose pushes do not come late.
struct DelayCompensation {
  static constexpr std::uint64_t kMaxHistory = 65536;
  float lambda = 0;  ///< 0 .. 1e6; 0: no correction
  /// 1 .. kMaxHistory: for so many pushes a shard keeps what their rows were. A push that is staler is
  /// corrected for the last so many steps.
  std::uint64_t history = 16;
  friend bool operator==(const DelayCompensation&, const DelayCompensation&) = default;
};

/// All that defines a table, the same on every shard, client and checkpoint. A plain value.
struct TableSpec {
  static constexpr std::uint64_t kMaxDim = 1U << 20;
  static constexpr std::uint64_t kMaxRows = std::uint64_t{1} << 40;
  static constexpr std::uint32_t kMaxSlots = 1U << 20;
  static constexpr std::size_t kMaxAxes = 8;

  std::string name;  ///< [A-Za-z0-9_-][A-Za-z0-9_.-]*, at most 128 characters: it names files too
  TableKind kind = TableKind::kEmbedding;
  std::uint64_t dim = 0;   ///< columns, 1 .. kMaxDim
  std::uint64_t rows = 0;  ///< dense: 1 .. kMaxRows; embedding: 0
  /// Dense: the tensor that the rows, one after the other, are; empty: [rows, dim]. An index of its first
  /// axis, a *slice*, is some whole rows.
  std::vector<std::uint64_t> shape = {};
  DType weights = DType::kFloat32;  ///< as rows are kept: float32, float16 or bfloat16; state is float32
  std::uint32_t slots = 1024;       ///< a power of two up to kMaxSlots; never changes in a table's life
  Optimizer optimizer = Sgd{};
  Initializer initializer = Zeros{};
  std::uint64_t seed = 0;
  Consistency consistency = Asynchronous{};
  StepScaling step_scaling = StepScaling::kNone;
  Schedule schedule = {};  ///< of the learning rate, by the steps that the table has made
  Clipping clipping = {};
  DelayCompensation delay_compensation = {};

  /// Makes it the table of a dense tensor, one of no axes being [1]. A slice is a row, if it has at most
  /// kMaxDim numbers, else one for each index of as many further axes as that takes.
  void set_shape(std::vector<std::uint64_t> tensor);
  /// Of a dense table's tensor.
  std::vector<std::uint64_t> tensor_shape() const {
    return shape.empty() ? std::vector<std::uint64_t>{rows, dim} : shape;
  }
  /// Rows of a slice. Precondition: dense and valid.
  std::uint64_t rows_per_slice() const { return shape.empty() ? 1 : rows / shape[0]; }

  /// kInvalidArgument naming the table, the field, its value and what would do.
  Result<void> validate() const;
  /// The spec as one line of JSON; from_json() of it gives an equal spec.
  std::string to_json() const;
  /// A valid spec. kInvalidArgument for malformed text, a missing, unknown or ill-typed key, or what
  /// validate() refuses. Its optimizer is one of `known`.
  static Result<TableSpec> from_json(std::string_view text,
                                     const OptimizerList& known = builtin_optimizers());

  friend bool operator==(const TableSpec&, const TableSpec&) = default;
};

/// Writes the first weights of row `key`, out[dim]. They depend on the initializer, the seed, the key and
/// the column only: whoever makes the row, on whatever shard and in whatever order, makes the same one.
void initialize_row(const TableSpec& spec, std::uint64_t key, float* out);

}  // namespace troupe::shards
