#pragma once

#include <algorithm>

#include <troupe/kernels/step.hpp>
#include <troupe/shards/optimizer.hpp>

namespace troupe::shards::optimizers {

inline kernels::Element element_of(DType weights) {
  return weights == DType::kFloat16    ? kernels::Element::kFloat16
         : weights == DType::kBFloat16 ? kernels::Element::kBFloat16
                                       : kernels::Element::kFloat32;
}

/// The step of a rule of the kernels, whose numbers are the optimizer's first parameters, in order.
template <kernels::Rule rule>
DeviceStepOutcome device_step(const DeviceStepBatch& batch) {
  kernels::Step step{.rule = rule, .numbers = {}};
  std::copy_n(batch.parameters.begin(), std::min(batch.parameters.size(), std::size(step.numbers)),
              step.numbers);
  const kernels::Element element = element_of(batch.weights);
  const kernels::RowTable table{
      .element = element,
      .weights = batch.base,
      .weight_stride = batch.stride / static_cast<std::int64_t>(kernels::size_of(element)),
      .state = reinterpret_cast<float*>(batch.base + batch.state_at),
      .state_stride = batch.stride / static_cast<std::int64_t>(sizeof(float)),
      .dim = batch.dim};
  const kernels::Place place =
      batch.stream ? kernels::Place::gpu(batch.stream, batch.device) : kernels::Place::host();
  const kernels::Launch launch =
      kernels::update_rows(place, step, table, batch.rows, batch.gradients, batch.count);
  return {launch.kernel, launch.error};
}

}  // namespace troupe::shards::optimizers
