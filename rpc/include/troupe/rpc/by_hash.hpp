#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace troupe::rpc::detail {

/// Things that live elsewhere, found by a hash that names them. Looking one up takes no division, as it would
/// in a table of the standard library: that costs as much as the rest of it, and is done in each call.
template <class T>
class ByHash {
 public:
  /// Null if there is none.
  T* find(std::uint64_t hash) const {
    for (std::size_t i = hash;; ++i) {
      const Slot& slot = slots_[i & mask_];
      if (slot.hash == hash || !slot.value) return slot.value;
    }
  }
  /// Precondition: there is none of this hash. `value` outlives the table.
  void add(std::uint64_t hash, T& value) {
    if (2 * ++count_ > slots_.size()) grow();
    insert({hash, &value});
  }

 private:
  struct Slot {
    std::uint64_t hash = 0;
    T* value = nullptr;
  };
  void insert(const Slot& slot) {
    std::size_t i = slot.hash & mask_;
    while (slots_[i].value) i = (i + 1) & mask_;
    slots_[i] = slot;
  }
  void grow() {
    std::vector<Slot> old(2 * slots_.size());
    old.swap(slots_);
    mask_ = slots_.size() - 1;
    for (const Slot& slot : old)
      if (slot.value) insert(slot);
  }

  std::size_t mask_ = 7;
  std::vector<Slot> slots_{mask_ + 1};  // a power of two, at most half of them used
  std::size_t count_ = 0;
};

}  // namespace troupe::rpc::detail
