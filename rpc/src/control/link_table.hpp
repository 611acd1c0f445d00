#pragma once

#include <cassert>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include <troupe/rpc/transport.hpp>

namespace troupe::rpc {

/// Things found by LinkId in a few instructions. An id is a slot number (low 20 bits) and the slot's
/// serial number, so that slots are reused and ids are not. One table uses emplace() or emplace_at(), not
/// both. Loop only.
template <class T>
class LinkTable {
 public:
  static constexpr int kSlotBits = 20;
  static constexpr std::size_t kMaxLinks = std::size_t{1} << kSlotBits;

  /// Makes a T(id, args...). Null when kMaxLinks links exist.
  template <class... Args>
  T* emplace(Args&&... args) {
    std::size_t slot = slots_.size();
    if (!free_.empty()) {
      slot = free_.back();
      free_.pop_back();
    } else if (slot < kMaxLinks) {
      slots_.emplace_back();
    } else {
      return nullptr;
    }
    Slot& place = slots_[slot];
    place.id = (++place.serial << kSlotBits) | slot;
    place.value = std::make_unique<T>(place.id, std::forward<Args>(args)...);
    ++size_;
    return place.value.get();
  }

  /// Makes a T(id, args...) under an id that another table gave out. Precondition: its slot is free here.
  template <class... Args>
  T* emplace_at(LinkId id, Args&&... args) {
    const std::size_t slot = id & (kMaxLinks - 1);
    if (slot >= slots_.size()) slots_.resize(slot + 1);
    assert(!slots_[slot].value && "another link, in use still, has this slot");
    slots_[slot].id = id;
    slots_[slot].value = std::make_unique<T>(id, std::forward<Args>(args)...);
    ++size_;
    return slots_[slot].value.get();
  }

  /// Null if there is no such link, or no longer.
  T* find(LinkId id) const {
    const std::size_t slot = id & (kMaxLinks - 1);
    return slot < slots_.size() && slots_[slot].id == id ? slots_[slot].value.get() : nullptr;
  }

  /// What is in the slot that `id` names, whatever its serial number.
  T* in_slot(LinkId id) const {
    const std::size_t slot = id & (kMaxLinks - 1);
    return slot < slots_.size() ? slots_[slot].value.get() : nullptr;
  }

  /// Takes the link out; null if there is none.
  std::unique_ptr<T> remove(LinkId id) {
    auto value = take(id);
    if (value) release(id);
    return value;
  }

  /// As remove(), but no other link is given the slot until release().
  std::unique_ptr<T> take(LinkId id) {
    if (!find(id)) return nullptr;
    Slot& place = slots_[id & (kMaxLinks - 1)];
    place.id = 0;
    --size_;
    return std::move(place.value);
  }
  void release(LinkId id) {
    const std::size_t slot = id & (kMaxLinks - 1);
    if (slots_[slot].serial != 0) free_.push_back(slot);  // else the ids are another table's business
  }

  std::size_t size() const { return size_; }
  /// The ids of all links at this moment.
  std::vector<LinkId> ids() const {
    std::vector<LinkId> result;
    for (const Slot& slot : slots_) {
      if (slot.value) result.push_back(slot.id);
    }
    return result;
  }

 private:
  struct Slot {
    LinkId id = 0;  // 0: free
    std::uint64_t serial = 0;
    std::unique_ptr<T> value;
  };
  std::vector<Slot> slots_;
  std::vector<std::size_t> free_;
  std::size_t size_ = 0;
};

}  // namespace troupe::rpc
