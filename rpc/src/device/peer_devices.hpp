#pragma once

#include <algorithm>
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

/// Slabs of a peer's that are mapped here, by their number and our GPU's. At most so many between tensors:
/// then that goes which was used longest ago. One that a tensor is still copied from is held by that.
class PeerSlabs {
 public:
  using Key = std::pair<std::uint64_t, std::uint8_t>;
  using Mapping = std::shared_ptr<const GpuMapping>;
  static constexpr std::size_t kMost = 256;

  /// Null: it is not mapped.
  Mapping find(const Key& key) {
    const auto found = mapped_.find(key);
    if (found == mapped_.end()) return nullptr;
    found->second.used = ++uses_;
    return found->second.mapping;
  }
  /// `let_go` is given what goes for it; or it itself, if the slab is mapped already.
  template <class LetGo>
  void add(const Key& key, Mapping mapping, LetGo&& let_go) {
    while (mapped_.size() >= kMost) {
      auto oldest = mapped_.end();
      for (auto each = mapped_.begin(); each != mapped_.end(); ++each)
        if (each->second.mapping.use_count() == 1 &&
            (oldest == mapped_.end() || each->second.used < oldest->second.used))
          oldest = each;
      if (oldest == mapped_.end()) break;
      let_go(std::move(oldest->second.mapping));
      mapped_.erase(oldest);
    }
    const auto [place, is_new] = mapped_.try_emplace(key, Mapped{mapping, ++uses_});
    if (!is_new) let_go(std::move(mapping));
  }
  /// The peer has given this slab back.
  template <class LetGo>
  void remove(std::uint64_t slab, LetGo&& let_go) {
    for (auto each = mapped_.lower_bound({slab, 0}); each != mapped_.end() && each->first.first == slab;
         each = mapped_.erase(each))
      let_go(std::move(each->second.mapping));
  }
  template <class LetGo>
  void clear(LetGo&& let_go) {
    for (auto& [key, each] : std::exchange(mapped_, {})) let_go(std::move(each.mapping));
  }
  std::size_t size() const { return mapped_.size(); }

 private:
  struct Mapped {
    Mapping mapping;
    std::uint64_t used = 0;
  };
  std::map<Key, Mapped> mapped_;
  std::uint64_t uses_ = 0;
};

/// What a session knows of the peer's GPUs, and of their memory. Loop only.
struct PeerDevices {
  std::vector<PeerGpu> gpus;
  bool told = false;              ///< the peer has been told of ours
  bool answered = false;          ///< and has said what of them it reaches
  std::vector<Reach> it_reaches;  ///< of our memory
  std::vector<Reach> we_reach;    ///< of its memory
  std::vector<Reach> lost;        ///< what was reached until a slab could not be mapped
  bool is_lost(const Reach& way) const { return std::ranges::find(lost, way) != lost.end(); }
  PeerSlabs slabs;
};

}  // namespace troupe::rpc
