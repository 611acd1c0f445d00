#include "troupe/kernels/cpu.hpp"

// Once per instruction set, so that the list of them is that of the other sources.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "simd_targets.hpp"

HWY_BEFORE_NAMESPACE();
namespace troupe::kernels::HWY_NAMESPACE {

std::int64_t target_code() {
  return HWY_TARGET;
}

}  // namespace troupe::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace troupe::kernels {

HWY_EXPORT(target_code);

std::string simd_target() {
  return hwy::TargetName(HWY_DYNAMIC_DISPATCH(target_code)());
}

std::vector<std::int64_t> supported_simd_targets() {
  return hwy::SupportedAndGeneratedTargets();
}

void force_simd_target(std::int64_t target) {
  hwy::SetSupportedTargetsForTest(target);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

}  // namespace troupe::kernels
#endif
