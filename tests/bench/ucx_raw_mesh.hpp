#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

/// Processes that are all connected to all over raw UCX: what a connection costs without Troupe.
namespace troupe::bench {

inline constexpr std::size_t kMeshLimit = 64;  ///< processes

/// Where the processes of a mesh meet: memory that they share.
struct MeshBoard {
  struct Slot {
    std::atomic<std::uint32_t> size{0};  ///< of the address, when it is there
    char address[4092] = {};
  };
  Slot slots[kMeshLimit];
  std::atomic<std::uint32_t> finished{0};
};

/// A board that children made from now on share with this process. It stays until this process ends.
MeshBoard& make_mesh_board();

/// Connects to the other `count` - 1 processes, sends each a message and gets theirs; then calls `connected`
/// and keeps the connections, idle, until the process is killed. `tls` as in ucx_raw.hpp. What fails ends
/// the process.
void hold_raw_mesh(MeshBoard& board, std::size_t index, std::size_t count, const std::string& tls,
                   const std::function<void()>& connected);

}  // namespace troupe::bench
