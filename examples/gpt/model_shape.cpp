#include "gpt/model_shape.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include <troupe/runtime/random.hpp>

namespace troupe::gpt {

Result<void> ModelShape::validate() const {
  const auto between = [](const char* name, std::int64_t value, std::int64_t least,
                          std::int64_t most) -> Result<void> {
    if (value >= least && value <= most) return {};
    return Error{Code::kInvalidArgument, std::string(name) + " is " + std::to_string(value) +
                                             "; it is to be from " + std::to_string(least) + " to " +
                                             std::to_string(most)};
  };
  for (const auto& each : {between("vocabulary", vocabulary, 1, 1 << 24), between("block", block, 1, 1 << 20),
                           between("layers", layers, 1, 1000), between("heads", heads, 1, 1024),
                           between("width", width, 1, 1 << 16)})
    if (!each) return each;
  if (width % heads != 0)
    return Error{Code::kInvalidArgument, "width " + std::to_string(width) + " cannot be divided by " +
                                             std::to_string(heads) + " heads"};
  if (!(epsilon > 0 && epsilon < 1))
    return Error{Code::kInvalidArgument,
                 "the norms' epsilon is " + std::to_string(epsilon) + ", not above 0"};
  return {};
}

Parameters::Parameters(const ModelShape& shape) {
  const std::int64_t width = shape.width;
  add("wte.weight", Shape{shape.vocabulary, width}, 0);
  add("wpe.weight", Shape{shape.block, width}, 0);
  for (std::int64_t i = 0; i < shape.layers; ++i) {
    const int layer = static_cast<int>(i) + 1;
    const std::string h = "h." + std::to_string(i) + ".";
    add(h + "ln_1.weight", Shape{width}, layer);
    add(h + "ln_1.bias", Shape{width}, layer);
    add(h + "attn.c_attn.weight", Shape{width, 3 * width}, layer);
    add(h + "attn.c_attn.bias", Shape{3 * width}, layer);
    add(h + "attn.c_proj.weight", Shape{width, width}, layer);
    add(h + "attn.c_proj.bias", Shape{width}, layer);
    add(h + "ln_2.weight", Shape{width}, layer);
    add(h + "ln_2.bias", Shape{width}, layer);
    add(h + "mlp.c_fc.weight", Shape{width, 4 * width}, layer);
    add(h + "mlp.c_fc.bias", Shape{4 * width}, layer);
    add(h + "mlp.c_proj.weight", Shape{4 * width, width}, layer);
    add(h + "mlp.c_proj.bias", Shape{width}, layer);
  }
  add("ln_f.weight", Shape{width}, static_cast<int>(shape.layers) + 1);
  add("ln_f.bias", Shape{width}, static_cast<int>(shape.layers) + 1);
}

void Parameters::add(std::string name, Shape shape, int layer) {
  constexpr std::int64_t kApart = 64;
  const std::int64_t n = shape.elements();
  all_.push_back({std::move(name), shape, layer, elements_, n});
  elements_ += (n + kApart - 1) / kApart * kApart;
}

std::int64_t Parameters::numbers() const {
  std::int64_t sum = 0;
  for (const Parameter& each : all_) sum += each.n;
  return sum;
}

void Parameters::first_values(std::int64_t layers, std::uint64_t seed, float* to) const {
  std::fill_n(to, elements_, 0.0F);
  const Random root(seed);
  for (std::size_t i = 0; i < all_.size(); ++i) {
    const Parameter& each = all_[i];
    float* const values = to + each.offset;
    if (!each.matrix()) {
      if (each.name.ends_with("ln_1.weight") || each.name.ends_with("ln_2.weight") ||
          each.name == "ln_f.weight")
        std::fill_n(values, each.n, 1.0F);
      continue;
    }
    Random random = root.split(i);
    const bool added = each.name.ends_with("c_proj.weight");
    const double deviation = added ? 0.02 / std::sqrt(2.0 * static_cast<double>(layers)) : 0.02;
    for (std::int64_t k = 0; k < each.n; ++k) values[k] = static_cast<float>(deviation * random.normal());
  }
}

}  // namespace troupe::gpt
