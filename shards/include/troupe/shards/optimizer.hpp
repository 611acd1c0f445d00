#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <troupe/runtime/result.hpp>
#include <troupe/shards/row_layout.hpp>

/// Optimizers: what one is (OptimizerDef), which there are (OptimizerList), and one with its numbers chosen
/// (Optimizer), as a table's spec has it. The definitions stand in shards/src/optimizers/, a file each.
namespace troupe::shards {

/// No gradient, or sum of a key's gradients, may be larger. Sums of squares stop growing, by rounding, after
/// 2^25 of the largest: 3.4e37, which a float holds. So no push, however often it is made, turns a row's
/// state into infinities.
inline constexpr float kLargestGradient = 1e15F;

struct OptimizerParameter {
  enum class Range : std::uint8_t {
    kRate,         ///< 0 .. 1e6
    kNotNegative,  ///< 0 or more
    kPositive,     ///< above 0
    kFraction,     ///< 0 or more and less than 1
  };
  std::string_view name;
  float usual = 0;
  Range range = Range::kNotNegative;
};

/// A field of state whose first value is 0, or the value of a parameter.
struct OptimizerState {
  std::string_view name;
  Extent extent = Extent::kDim;
  std::string_view first_value_of = {};  ///< a parameter's name
};

/// Rows and the gradients for them: one step for each.
struct StepBatch {
  float* const* rows = nullptr;      ///< [count], each [weights, dim][state fields, in order]
  const float* gradients = nullptr;  ///< [count, dim]; finite, at most kLargestGradient
  std::int64_t count = 0;
  std::int64_t dim = 0;
  std::span<const float> parameters;  ///< in the order of the definition; the rate scaled already
};

/// The same for records in the memory of a GPU, as which all pointers are; no row comes twice. Record i
/// begins at base + rows[i] * stride bytes and is as RowLayout says: weights of `weights`, then the state in
/// float32 from state_at on.
struct DeviceStepBatch {
  void* stream = nullptr;  ///< a cudaStream_t, to which the step is given; null: it is done here, on the host
  int device = 0;          ///< the stream's
  std::byte* base = nullptr;
  std::int64_t stride = 0;
  std::int64_t state_at = 0;
  const std::uint64_t* rows = nullptr;  ///< [count]
  const float* gradients = nullptr;     ///< [count, dim]
  std::int64_t count = 0;
  std::int64_t dim = 0;
  DType weights = DType::kFloat32;
  std::span<const float> parameters;  ///< the host's, not to be used later
};
/// The name of what was given to the stream, which lives for ever, and CUDA's number of the error.
struct DeviceStepOutcome {
  const char* kernel = "";
  int error = 0;
};

/// An optimizer, all of it: from this follow its JSON, its validation, the layout of rows and checkpoints.
/// Definitions live as long as whoever uses them: make them constants.
struct OptimizerDef {
  static constexpr std::size_t kMaxParameters = 8;

  std::string_view name;                           ///< "adagrad", in JSON and error texts
  std::span<const OptimizerParameter> parameters;  ///< the first is "learning_rate"
  std::span<const OptimizerState> state;
  void (*step)(const StepBatch& batch) = nullptr;
  /// For tables in device memory; without it there are none.
  DeviceStepOutcome (*device_step)(const DeviceStepBatch& batch) = nullptr;
};

/// The optimizers that a program knows, by name.
class OptimizerList {
 public:
  /// kInvalidArgument for a definition without step or learning rate, with too many parameters, or with a
  /// name that is taken.
  Result<void> add(const OptimizerDef& def);
  /// Null if there is none of that name.
  const OptimizerDef* find(std::string_view name) const;
  const std::vector<const OptimizerDef*>& all() const { return defs_; }

 private:
  std::vector<const OptimizerDef*> defs_;
};

/// Those that come with Troupe.
const OptimizerList& builtin_optimizers();

/// An optimizer with its numbers. A plain value.
class Optimizer {
 public:
  /// With the usual numbers.
  explicit Optimizer(const OptimizerDef& def);
  /// One of builtin_optimizers(), with these numbers in place of the usual ones. Precondition: there is
  /// such a one, with such parameters.
  Optimizer(std::string_view name, std::initializer_list<std::pair<std::string_view, float>> numbers);

  const OptimizerDef& def() const { return *def_; }
  std::string_view name() const { return def_->name; }
  std::span<const float> numbers() const { return {numbers_.data(), def_->parameters.size()}; }
  /// Precondition: there is a parameter of that name.
  float get(std::string_view parameter) const;
  void set(std::string_view parameter, float value);
  /// kInvalidArgument naming the parameter, its value and what would do.
  Result<void> validate() const;
  RowLayout layout(DType weights, std::uint64_t dim) const;

  friend bool operator==(const Optimizer& a, const Optimizer& b) {
    return a.name() == b.name() && a.numbers_ == b.numbers_;
  }

 private:
  std::size_t index_of(std::string_view parameter) const;

  const OptimizerDef* def_;
  std::array<float, OptimizerDef::kMaxParameters> numbers_{};
};

// Some of the built-in ones, for programs: spec.optimizer = Adagrad{.learning_rate = 0.1F}. The others, and
// these, by name: spec.optimizer = Optimizer("lamb", {{"learning_rate", 0.01F}}).

/// w -= learning_rate * (g + weight_decay * w)
struct Sgd {
  float learning_rate = 0.01F;
  float weight_decay = 0;
  operator Optimizer() const;
};

/// a += g^2; w -= learning_rate * g / (sqrt(a) + epsilon)   (Duchi, Hazan, Singer 2011)
struct Adagrad {
  float learning_rate = 0.1F;
  float epsilon = 1e-10F;
  float initial_accumulator = 0;
  operator Optimizer() const;
};

/// Kingma and Ba 2015, algorithm 1. Steps are counted per row, so the correction of a row's bias depends
/// on how often that row was pushed, not on how long training has run.
struct Adam {
  float learning_rate = 0.001F;
  float beta1 = 0.9F;
  float beta2 = 0.999F;
  float epsilon = 1e-8F;
  operator Optimizer() const;
};

}  // namespace troupe::shards
