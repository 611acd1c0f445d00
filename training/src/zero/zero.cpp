#include <troupe/training/zero.hpp>

#include <cmath>
#include <new>
#include <set>
#include <string>
#include <utility>

#include "zero/member.hpp"

namespace troupe::training {
namespace {

constexpr std::int64_t kMostElements = std::int64_t{1} << 46;

Error refused(const std::string& field, const std::string& value, const std::string& expected) {
  return {Code::kInvalidArgument, "zero: " + field + " is " + value + ", expected " + expected};
}

bool is_power_of_two(float value) {
  int exponent = 0;
  return std::isfinite(value) && value > 0 && std::frexp(value, &exponent) == 0.5F;
}

Result<void> check(const LossScaling& scaling) {
  if (!(std::isfinite(scaling.fixed) && scaling.fixed >= 0))
    return refused("loss_scaling.fixed", std::to_string(scaling.fixed), "0 or more");
  if (!is_power_of_two(scaling.first))
    return refused("loss_scaling.first", std::to_string(scaling.first), "a power of two");
  if (!(scaling.least > 0 && scaling.least <= scaling.first))
    return refused("loss_scaling.least", std::to_string(scaling.least), "above 0 and at most the first one");
  if (scaling.window < 1) return refused("loss_scaling.window", std::to_string(scaling.window), "1 or more");
  if (scaling.hysteresis < 1)
    return refused("loss_scaling.hysteresis", std::to_string(scaling.hysteresis), "1 or more");
  return {};
}

Result<void> check(const std::vector<ZeroParameter>& parameters, const ZeroOptions& options) {
  constexpr int kMostLayers = 1 << 20;
  constexpr std::int64_t kMostBuckets = 1 << 22;
  std::int64_t buckets = 0;
  std::set<std::string_view> names;
  for (const ZeroParameter& each : parameters) {
    if (each.name.empty()) return Error{Code::kInvalidArgument, "zero: a parameter has no name"};
    if (!names.insert(each.name).second)
      return Error{Code::kInvalidArgument, "zero: parameter '" + each.name + "' comes twice"};
    try {
      if (each.shape.elements() > kMostElements)
        return refused("the size of '" + each.name + "'", each.shape.to_string(), "fewer elements");
      buckets += each.shape.elements() / options.bucket;
      if (buckets > kMostBuckets)
        return refused("bucket", std::to_string(options.bucket), "more: these would be millions of buckets");
    } catch (const BadTensor& error) {
      return error.error();
    }
    if (each.layer < 0 || each.layer >= kMostLayers)
      return refused("the layer of '" + each.name + "'", std::to_string(each.layer), "a number from 0 on");
  }
  if (parameters.empty()) return Error{Code::kInvalidArgument, "zero: there are no parameters"};
  return {};
}

}  // namespace

Result<void> ZeroOptions::validate() const {
  const auto number = static_cast<int>(stage);
  if (number < 0 || number > 3) return refused("stage", std::to_string(number), "0 to 3");
  if (dtype != DType::kFloat32 && dtype != DType::kFloat16 && dtype != DType::kBFloat16)
    return refused("dtype", std::string(troupe::to_string(dtype)), "float32, float16 or bfloat16");
  if (Result<void> valid = optimizer.validate(); !valid) return valid;
  if (const auto rule = zero::rule_of(optimizer); !rule) return rule.error();
  if (accumulation < 1) return refused("accumulation", std::to_string(accumulation), "1 or more");
  if (!(std::isfinite(max_norm) && max_norm >= 0))
    return refused("max_norm", std::to_string(max_norm), "0 or more");
  if (bucket < 1 || bucket > kMostElements) return refused("bucket", std::to_string(bucket), "1 or more");
  const std::pair<const char*, std::int64_t> sizes[] = {{"keep_below", keep_below},
                                                        {"prefetch", prefetch},
                                                        {"max_live", max_live},
                                                        {"reuse_distance", reuse_distance}};
  for (const auto& [name, value] : sizes)
    if (value < 0) return refused(name, std::to_string(value), "0 or more");
  return dtype == DType::kFloat16 ? check(loss_scaling) : Result<void>();
}

Result<std::unique_ptr<Zero>> Zero::create(shards::Communicator& group, std::vector<ZeroParameter> parameters,
                                           ZeroOptions options, const Initial& initial) {
  Result<void> valid = options.validate();
  if (valid) valid = check(parameters, options);
  if (!valid) {
    (void)zero::exchange(group, {0});  // in the place of what begin() tells the others
    return valid.error();
  }
  try {
    auto member = std::make_unique<zero::Member>(group, std::move(parameters), std::move(options));
    if (Result<void> begun = member->begin(initial); !begun) return begun.error();
    return std::unique_ptr<Zero>(std::move(member));
  } catch (const std::bad_alloc&) {
    const Error why{Code::kResourceExhausted, "zero: no memory for parameters, gradients and their state"};
    group.abort(why);  // the others wait for this member
    return why;
  }
}

}  // namespace troupe::training
