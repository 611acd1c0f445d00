#pragma once

#include <cstdint>
#include <vector>

/// For tests: runs the kernels on each instruction set that this CPU and this build have. Not thread-safe:
/// the choice is one per process, kept by Highway.
namespace troupe::kernels {

/// Highway's codes of the instruction sets that can run here.
std::vector<std::int64_t> supported_simd_targets();

/// Makes every kernel use `target` from its next call on; 0 gives the choice back to the CPU.
void force_simd_target(std::int64_t target);

}  // namespace troupe::kernels
