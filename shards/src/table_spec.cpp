#include <troupe/shards/table_spec.hpp>

#include <bit>
#include <cmath>
#include <string>
#include <utility>

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
    result_ = Error{Code::kInvalidArgument, "table '" + spec_.name + "': " + std::string(field) + " is " +
                                                text(value) + ", expected " + std::string(expected)};
  }
  void require_name() {
    if (is_name(spec_.name)) return;
    result_ = Error{Code::kInvalidArgument,
                    "table name '" + spec_.name.substr(0, kMaxNameLength) +
                        "': expected 1 to 128 letters, digits, '_', '-' and '.', not beginning with '.'"};
  }
  void require(const Result<void>& good) {
    if (good || !result_) return;
    result_ = Error{good.error().code, "table '" + spec_.name + "': " + good.error().message};
  }
  Result<void> result() { return result_; }

 private:
  template <class Number>
  static std::string text(Number value) {
    return std::to_string(value);
  }
  static std::string text(const std::string& value) { return value; }

  const TableSpec& spec_;
  Result<void> result_;
};

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

void check_compensation(Checker& check, const TableSpec& spec) {
  constexpr float kLargestLambda = 1e6F;
  const auto& [lambda, history] = spec.delay_compensation;
  check.require(lambda >= 0 && lambda <= kLargestLambda, "delay_compensation's lambda", lambda,
                "a number from 0 to 1000000");
  check.require(history >= 1 && history <= DelayCompensation::kMaxHistory, "delay_compensation's history",
                history, "1 to " + std::to_string(DelayCompensation::kMaxHistory) + " pushes");
  check.require(lambda == 0 || !in_rounds(spec.consistency), "delay_compensation's lambda", lambda,
                "0 for a table in rounds: its pushes do not come late");
}

void check_scaling(Checker& check, const TableSpec& spec) {
  check.require(
      spec.step_scaling == StepScaling::kNone || !in_rounds(spec.consistency), "step_scaling",
      std::string("inverse_staleness"),
      "none for a table in rounds, where steps have no staleness: LatePushes::kScale scales those of "
      "late pushes");
}

/// Whether rows * dim numbers have this shape, each slice of it in whole rows.
bool fits(const std::vector<std::uint64_t>& shape, const TableSpec& spec) {
  if (spec.kind != TableKind::kDense || shape.size() > TableSpec::kMaxAxes) return false;
  std::uint64_t numbers = 1;
  for (const std::uint64_t extent : shape)
    if (__builtin_mul_overflow(numbers, extent, &numbers)) return false;
  return shape[0] > 0 && numbers == spec.rows * spec.dim && spec.rows % shape[0] == 0;
}

std::string text_of(const std::vector<std::uint64_t>& shape) {
  std::string text = "[";
  for (const std::uint64_t extent : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(extent);
  return text + "]";
}

}  // namespace

// Numbers that are too large for a table are left for validate() to name.
void TableSpec::set_shape(std::vector<std::uint64_t> tensor) {
  if (tensor.empty()) tensor = {1};
  kind = TableKind::kDense;
  std::size_t axes = tensor.size();  // from here on they are in a row
  dim = 1;
  for (std::uint64_t more = 0; axes > 1; dim = more, --axes)
    if (__builtin_mul_overflow(dim, tensor[axes - 1], &more) || more > kMaxDim) break;
  rows = 1;
  for (std::size_t i = 0; i < axes; ++i)
    if (__builtin_mul_overflow(rows, tensor[i], &rows)) rows = kMaxRows + 1;
  shape = std::move(tensor);
}

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
  check.require(shape.empty() || fits(shape, *this), "shape", text_of(shape),
                "one of a dense table's rows * dim numbers, of at most " + std::to_string(kMaxAxes) +
                    " axes, the first of which divides the rows: see set_shape()");
  const bool known = weights == DType::kFloat32 || weights == DType::kFloat16 || weights == DType::kBFloat16;
  check.require(known, "weights", static_cast<int>(weights), "float32, float16 or bfloat16");
  check.require(optimizer.validate());
  check_initializer(check, initializer);
  if (const auto* some = std::get_if<KOfN>(&consistency))
    check.require(some->k >= 1, "consistency's k", some->k, "1 or more pushes for a round");
  check.require(schedule.validate());
  check.require(clipping.validate());
  check_compensation(check, *this);
  check_scaling(check, *this);
  return check.result();
}

}  // namespace troupe::shards
