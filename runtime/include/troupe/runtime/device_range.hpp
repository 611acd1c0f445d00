#pragma once

namespace troupe {

/// Names what a thread gives to devices while this lives, for a profiler (NVTX, domain "troupe"; Nsight
/// Systems shows it above the kernels and copies). Costs some nanoseconds where no profiler runs, nothing
/// where there is no CUDA. `name` must live for ever. One lies within another of the same thread. Any thread.
class DeviceRange {
 public:
  explicit DeviceRange(const char* name);
  ~DeviceRange();
  DeviceRange(const DeviceRange&) = delete;
  DeviceRange& operator=(const DeviceRange&) = delete;
};

}  // namespace troupe
