#include <troupe/shards/table_spec.hpp>

#include <bit>
#include <cmath>
#include <string>

namespace troupe::shards {
namespace {

constexpr std::size_t kMaxNameLength = 128;

bool is_name(std::string_view name) {
  if (name.empty() || name.size() > kMaxNameLength || name.front() == '.') return false;
  for (const char c : name) {
    const bool good = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                      c == '_' || c == '-' || c == '.';
    if (!good) return false;
  }
  return true;
}

/// Collects the first complaint about a spec.
class Checker {
 public:
  explicit Checker(const TableSpec& spec) : spec_(spec) {}

  template <class Value>
  void require(bool good, std::string_view field, Value value, std::string_view expected) {
    if (good || !result_) return;
    result_ =
        Error{Code::kInvalidArgument, "table '" + spec_.name + "': " + std::string(field) + " is " +
                                          std::to_string(value) + ", expected " + std::string(expected)};
  }
  void require_name() {
    if (is_name(spec_.name)) return;
    result_ = Error{Code::kInvalidArgument,
                    "table name '" + spec_.name.substr(0, kMaxNameLength) +
                        "': expected 1 to 128 letters, digits, '_', '-' and '.', not beginning with '.'"};
  }
  void learning_rate(float value) {
    require(std::isfinite(value) && value >= 0, "learning_rate", value, "a finite number, not negative");
  }
  void epsilon(float value) {
    require(std::isfinite(value) && value > 0, "epsilon", value, "a finite number above 0");
  }
  void beta(std::string_view field, float value) {
    require(value >= 0 && value < 1, field, value, "0 or more and less than 1");
  }
  Result<void> result() { return result_; }

 private:
  const TableSpec& spec_;
  Result<void> result_;
};

void check_optimizer(Checker& check, const Optimizer& optimizer) {
  if (const auto* sgd = std::get_if<Sgd>(&optimizer)) {
    check.learning_rate(sgd->learning_rate);
    check.require(std::isfinite(sgd->weight_decay) && sgd->weight_decay >= 0, "weight_decay",
                  sgd->weight_decay, "a finite number, not negative");
  } else if (const auto* adagrad = std::get_if<Adagrad>(&optimizer)) {
    check.learning_rate(adagrad->learning_rate);
    check.epsilon(adagrad->epsilon);
    check.require(std::isfinite(adagrad->initial_accumulator) && adagrad->initial_accumulator >= 0,
                  "initial_accumulator", adagrad->initial_accumulator, "a finite number, not negative");
  } else {
    const Adam& adam = std::get<Adam>(optimizer);
    check.learning_rate(adam.learning_rate);
    check.beta("beta1", adam.beta1);
    check.beta("beta2", adam.beta2);
    check.epsilon(adam.epsilon);
  }
}

void check_initializer(Checker& check, const Initializer& initializer) {
  if (const auto* uniform = std::get_if<Uniform>(&initializer)) {
    check.require(std::isfinite(uniform->high), "initializer's high", uniform->high, "a finite number");
    check.require(std::isfinite(uniform->low) && uniform->low <= uniform->high, "initializer's low",
                  uniform->low, "a finite number, at most high");
  } else if (const auto* normal = std::get_if<Normal>(&initializer)) {
    check.require(std::isfinite(normal->mean), "initializer's mean", normal->mean, "a finite number");
    check.require(std::isfinite(normal->stddev) && normal->stddev >= 0, "initializer's stddev",
                  normal->stddev, "a finite number, not negative");
  }
}

}  // namespace

Result<void> TableSpec::validate() const {
  Checker check(*this);
  check.require_name();
  check.require(dim >= 1 && dim <= kMaxDim, "dim", dim, "1 to " + std::to_string(kMaxDim));
  if (kind == TableKind::kDense) {
    check.require(rows >= 1 && rows <= kMaxRows, "rows", rows,
                  "1 to " + std::to_string(kMaxRows) + " for a dense table");
  } else {
    check.require(rows == 0, "rows", rows, "0 for an embedding table: its rows are made on first use");
  }
  check.require(std::has_single_bit(slots) && slots <= kMaxSlots, "slots", slots,
                "a power of two up to " + std::to_string(kMaxSlots));
  check_optimizer(check, optimizer);
  check_initializer(check, initializer);
  return check.result();
}

std::string_view name_of(const Optimizer& optimizer) {
  constexpr std::string_view kNames[] = {"sgd", "adagrad", "adam"};
  return kNames[optimizer.index()];
}

std::uint32_t state_tensors(const Optimizer& optimizer) {
  return static_cast<std::uint32_t>(optimizer.index());  // none, one, two
}

const char* state_tensor_name(const Optimizer& optimizer, std::uint32_t index) {
  if (std::holds_alternative<Adagrad>(optimizer) && index == 0) return "sum_of_squares";
  if (std::holds_alternative<Adam>(optimizer) && index == 0) return "first_moment";
  if (std::holds_alternative<Adam>(optimizer) && index == 1) return "second_moment";
  return nullptr;
}

}  // namespace troupe::shards
