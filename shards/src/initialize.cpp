#include "initial_of.hpp"

namespace troupe::shards {

kernels::Initial initial_of(const TableSpec& spec) {
  kernels::Initial initial{.seed = spec.seed};
  if (const auto* uniform = std::get_if<Uniform>(&spec.initializer)) {
    initial.kind = kernels::Initial::Kind::kUniform;
    initial.a = uniform->low;
    initial.b = uniform->high;
  } else if (const auto* normal = std::get_if<Normal>(&spec.initializer)) {
    initial.kind = kernels::Initial::Kind::kNormal;
    initial.a = normal->mean;
    initial.b = normal->stddev;
  }
  return initial;
}

void initialize_row(const TableSpec& spec, std::uint64_t key, float* out) {
  kernels::initial_row(initial_of(spec), key, static_cast<std::int64_t>(spec.dim), out);
}

}  // namespace troupe::shards
