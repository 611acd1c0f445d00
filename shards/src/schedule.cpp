#include <troupe/shards/schedule.hpp>

#include <cmath>
#include <numbers>
#include <string>

namespace troupe::shards {
namespace {

/// How far t is on its way to `steps`, 0 .. 1.
double part(std::uint64_t t, std::uint64_t steps) {
  return t >= steps ? 1 : static_cast<double>(t) / static_cast<double>(steps);
}

double down_to(float least, double rest) {
  return double{least} + (1 - double{least}) * rest;
}

double factor(const ConstantRate&, std::uint64_t) {
  return 1;
}
double factor(const StepDecay& decay, std::uint64_t t) {
  const std::uint64_t times = t / decay.every;
  return std::pow(double{decay.factor}, static_cast<double>(times));
}
double factor(const ExponentialDecay& decay, std::uint64_t t) {
  return std::pow(double{decay.factor}, static_cast<double>(t));
}
double factor(const CosineDecay& decay, std::uint64_t t) {
  return down_to(decay.least, (1 + std::cos(std::numbers::pi * part(t, decay.steps))) / 2);
}
double factor(const InverseSquareRoot& decay, std::uint64_t t) {
  const auto steps = static_cast<double>(decay.steps);
  return std::sqrt(steps / (steps + static_cast<double>(t)));
}
double factor(const PolynomialDecay& decay, std::uint64_t t) {
  if (t >= decay.steps) return double{decay.least};  // also for a power of 0
  return down_to(decay.least, std::pow(1 - part(t, decay.steps), double{decay.power}));
}

/// The first complaint.
class Faults {
 public:
  void fraction(const char* field, float value) {
    if (!(value >= 0 && value <= 1)) add(field, std::to_string(value), "0 to 1");
  }
  void steps(const char* field, std::uint64_t value) {
    if (value == 0) add(field, "0", "1 or more steps");
  }
  void not_negative(const char* field, float value) {
    if (!(std::isfinite(value) && value >= 0))
      add(field, std::to_string(value), "a finite number, not negative");
  }
  const Result<void>& result() const { return result_; }

 private:
  void add(const char* field, const std::string& value, const char* expected) {
    if (!result_) return;
    result_ = Error{Code::kInvalidArgument,
                    std::string("schedule's ") + field + " is " + value + ", expected " + expected};
  }
  Result<void> result_;
};

void check(Faults&, const ConstantRate&) {}
void check(Faults& faults, const StepDecay& decay) {
  faults.steps("every", decay.every);
  faults.fraction("factor", decay.factor);
}
void check(Faults& faults, const ExponentialDecay& decay) {
  faults.fraction("factor", decay.factor);
}
void check(Faults& faults, const CosineDecay& decay) {
  faults.steps("steps", decay.steps);
  faults.fraction("least", decay.least);
}
void check(Faults& faults, const InverseSquareRoot& decay) {
  faults.steps("steps", decay.steps);
}
void check(Faults& faults, const PolynomialDecay& decay) {
  faults.steps("steps", decay.steps);
  faults.not_negative("power", decay.power);
  faults.fraction("least", decay.least);
}

}  // namespace

float Schedule::at(std::uint64_t step) const {
  if (step < warm_up) return static_cast<float>(down_to(warm_up_from, part(step, warm_up)));
  return static_cast<float>(
      std::visit([&](const auto& kind) { return factor(kind, step - warm_up); }, decay));
}

Result<void> Schedule::validate() const {
  Faults faults;
  faults.fraction("warm_up_from", warm_up_from);
  std::visit([&](const auto& kind) { check(faults, kind); }, decay);
  return faults.result();
}

}  // namespace troupe::shards
