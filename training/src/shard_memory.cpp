#include "shard_memory.hpp"

#include <charconv>
#include <memory>
#include <optional>
#include <string_view>

#include <troupe/runtime/gpu.hpp>
#include <troupe/shards/device_store.hpp>

namespace troupe::training {

namespace {

/// The GPU of server `index`; none: the host.
Result<std::optional<std::int32_t>> gpu_of(const std::string& device, std::uint32_t index) {
  if (device == "cpu") return std::optional<std::int32_t>();
  constexpr std::string_view kCuda = "cuda";
  std::string_view rest = device;
  std::int32_t ordinal = -1;
  bool good = rest.starts_with(kCuda);
  if (good) rest.remove_prefix(kCuda.size());
  if (good && !rest.empty()) {
    const char* const end = rest.data() + rest.size();
    const auto read = std::from_chars(rest.data() + 1, end, ordinal);
    good = rest.front() == ':' && read.ec == std::errc() && read.ptr == end && ordinal >= 0;
  }
  if (!good) return Error{Code::kInvalidArgument, "--device " + device + ": is to be cpu, cuda or cuda:N"};
  auto gpus = list_gpus();
  if (!gpus) return with_context(std::move(gpus).error(), "--device " + device);
  if (ordinal < 0) ordinal = (*gpus)[index % gpus->size()].ordinal;
  for (const GpuInfo& gpu : *gpus)
    if (gpu.ordinal == ordinal) return std::optional(ordinal);
  return Error{Code::kOutOfRange, "--device " + device + ": there is no such GPU; of " +
                                      std::to_string(gpus->size()) + " the first is cuda:0"};
}

}  // namespace

Result<void> check_device(const std::string& device) {
  auto gpu = gpu_of(device, 0);
  return gpu ? Result<void>() : gpu.error();
}

Result<shards::MakeRowStore> stores_for(const std::string& device, std::uint32_t index, Loop& loop) {
  auto ordinal = gpu_of(device, index);
  if (!ordinal) return ordinal.error();
  if (!*ordinal) return shards::MakeRowStore(shards::make_host_store);
  auto gpu = Gpu::open(**ordinal);
  if (!gpu) return with_context(std::move(gpu).error(), "--device " + device);
  return shards::make_device_stores(shards::DeviceHome::of(*gpu, std::make_shared<EventWatch>(loop)));
}

}  // namespace troupe::training
