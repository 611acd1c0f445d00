#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include <troupe/runtime/gpu_sharing.hpp>

namespace troupe::rpc {

/// GPUs in a hello, and the most that there may be.
inline constexpr std::size_t kMostGpus = 16;

/// A GPU of a peer's, as its hello names it.
struct PeerGpu {
  std::array<std::byte, 16> uuid{};
  GpuSlab probe;  ///< id 0: it shares none of its memory
};

/// Which GPU's memory is mapped for which other: numbers in the hellos.
struct Reach {
  std::uint8_t owner = 0;   ///< of whose the memory is
  std::uint8_t reader = 0;  ///< of the other side
  friend bool operator==(const Reach&, const Reach&) = default;
};

/// What a session knows of the peer's GPUs, and of their memory. Loop only.
struct PeerDevices {
  std::vector<PeerGpu> gpus;
  bool told = false;              ///< the peer has been told of ours
  bool answered = false;          ///< and has said what of them it reaches
  std::vector<Reach> it_reaches;  ///< of our memory
  std::vector<Reach> we_reach;    ///< of its memory
  /// Slabs of the peer's, by their number and our GPU's.
  std::map<std::pair<std::uint64_t, std::uint8_t>, std::shared_ptr<const GpuMapping>> mappings;
};

}  // namespace troupe::rpc
