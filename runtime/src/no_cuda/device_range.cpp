#include <troupe/runtime/device_range.hpp>

namespace troupe {

DeviceRange::DeviceRange(const char* /*name*/) {}
DeviceRange::~DeviceRange() = default;

}  // namespace troupe
