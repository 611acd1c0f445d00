#include <troupe/runtime/device_range.hpp>

#include <nvtx3/nvToolsExt.h>

namespace troupe {

namespace {

nvtxDomainHandle_t domain() {
  static const nvtxDomainHandle_t made = nvtxDomainCreateA("troupe");
  return made;
}

}  // namespace

DeviceRange::DeviceRange(const char* name) {
  nvtxEventAttributes_t attributes{};
  attributes.version = NVTX_VERSION;
  attributes.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
  attributes.messageType = NVTX_MESSAGE_TYPE_ASCII;
  attributes.message.ascii = name;
  nvtxDomainRangePushEx(domain(), &attributes);
}

DeviceRange::~DeviceRange() {
  nvtxDomainRangePop(domain());
}

}  // namespace troupe
