#include "zero/rates.hpp"

#include <algorithm>
#include <cmath>

namespace troupe::training::zero {

float WarmUpRate::operator()(std::uint64_t step) const {
  const std::uint64_t at = iteration_of(step);
  double part = 1;
  if (step == 0)
    part = 0;
  else if (at < steps)
    part = logarithm ? std::log(static_cast<double>(at + 1)) / std::log(static_cast<double>(steps))
                     : static_cast<double>(at) / static_cast<double>(steps);
  else if (total > 0)
    part = at >= total ? 0
                       : static_cast<double>(total - at) /
                             static_cast<double>(std::max<std::uint64_t>(1, total - std::min(steps, total)));
  return static_cast<float>(double{least} + (double{most} - double{least}) * part);
}

}  // namespace troupe::training::zero
