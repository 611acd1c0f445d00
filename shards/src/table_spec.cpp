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
  void require(const Result<void>& good) {
    if (good || !result_) return;
    result_ = Error{good.error().code, "table '" + spec_.name + "': " + good.error().message};
  }
  Result<void> result() { return result_; }

 private:
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
  const bool known = weights == DType::kFloat32 || weights == DType::kFloat16 || weights == DType::kBFloat16;
  check.require(known, "weights", static_cast<int>(weights), "float32, float16 or bfloat16");
  check.require(optimizer.validate());
  check_initializer(check, initializer);
  if (const auto* some = std::get_if<KOfN>(&consistency))
    check.require(some->k >= 1, "consistency's k", some->k, "1 or more pushes for a round");
  check.require(schedule.validate());
  check.require(clipping.validate());
  check_compensation(check, *this);
  return check.result();
}

}  // namespace troupe::shards
