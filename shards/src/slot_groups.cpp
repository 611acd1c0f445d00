#include <troupe/shards/slot_groups.hpp>

#include <algorithm>
#include <bit>
#include <utility>

#include "hashing.hpp"

namespace troupe::shards {
namespace {

constexpr unsigned kGroupBits = 6;
static_assert(kSlotGroups == 1U << kGroupBits);

}  // namespace

std::uint32_t group_of(const TableSpec& spec, std::uint64_t key) {
  if (spec.kind == TableKind::kEmbedding) return hash_slot(key, kGroupBits);
  return static_cast<std::uint32_t>((key << kGroupBits) / spec.rows);
}

GroupMask groups_of(const SlotSet& slots) {
  const auto bits = static_cast<unsigned>(std::countr_zero(slots.slots()));
  GroupMask mask = 0;
  for (std::uint32_t slot = 0; slot < slots.slots(); ++slot) {
    if (!slots.contains(slot)) continue;
    if (bits >= kGroupBits) {
      mask |= GroupMask{1} << (slot >> (bits - kGroupBits));
    } else {
      const unsigned each = kSlotGroups >> bits;  // a slot is so many groups
      mask |= (each == kSlotGroups ? ~GroupMask{0} : (GroupMask{1} << each) - 1) << (slot * each);
    }
  }
  return mask;
}

PushWindows::PushWindows(const PushWindows& other) : entries_(other.entries_) {
  for (auto entry = entries_.begin(); entry != entries_.end(); ++entry)
    by_worker_.emplace(entry->worker, entry);
}

const SequenceWindow* PushWindows::find(std::uint64_t worker) const {
  const auto found = by_worker_.find(worker);
  return found == by_worker_.end() ? nullptr : &found->second->window;
}

SequenceWindow& PushWindows::use(std::uint64_t worker) {
  if (const auto found = by_worker_.find(worker); found != by_worker_.end()) {
    entries_.splice(entries_.end(), entries_, found->second);
    return found->second->window;
  }
  std::list<Entry> made;
  made.push_back({worker, {}});
  by_worker_.emplace(worker, made.begin());
  entries_.splice(entries_.end(), made);
  if (by_worker_.size() > kMaxWorkers) forget(entries_.front().worker);
  return entries_.back().window;
}

void PushWindows::forget(std::uint64_t worker) {
  const auto found = by_worker_.find(worker);
  if (found == by_worker_.end()) return;
  entries_.erase(found->second);
  by_worker_.erase(found);
}

SlotGroups::SlotGroups(GroupMask groups) {
  kin_.push_back({groups, {}});
}

GroupMask SlotGroups::groups() const {
  GroupMask all = 0;
  for (const Kin& kin : kin_) all |= kin.groups;
  return all;
}

std::size_t SlotGroups::workers() const {
  std::size_t most = 0;
  for (const Kin& kin : kin_) most = std::max(most, kin.windows.size());
  return most;
}

SlotGroups::Seen SlotGroups::look(std::uint64_t worker, std::uint64_t sequence) const {
  Seen seen;
  for (const Kin& kin : kin_) {
    const SequenceWindow* window = kin.windows.find(worker);
    if (window == nullptr) continue;
    const SequenceWindow::Seen one = window->look(sequence);
    if (one == SequenceWindow::Seen::kApplied) seen.applied |= kin.groups;
    if (one != SequenceWindow::Seen::kTooOld) continue;
    seen.too_old = true;
    seen.highest = std::max(seen.highest, window->highest());
  }
  return seen;
}

void SlotGroups::prepare(std::uint64_t worker) {
  for (Kin& kin : kin_) kin.windows.use(worker);
}

void SlotGroups::mark(std::uint64_t worker, std::uint64_t sequence) {
  for (Kin& kin : kin_) {
    if ((kin.groups & active_) == 0) continue;
    SequenceWindow& window = kin.windows.use(worker);
    if (window.look(sequence) == SequenceWindow::Seen::kNew) window.mark(sequence);
  }
}

void SlotGroups::forget(std::uint64_t worker) {
  for (Kin& kin : kin_) kin.windows.forget(worker);
}

void SlotGroups::set_active(GroupMask groups) {
  separate(groups);
  active_ = groups;
}

/// Those of them that are here have histories of their own from now on.
void SlotGroups::separate(GroupMask groups) {
  const std::size_t before = kin_.size();
  for (std::size_t i = 0; i < before; ++i) {
    const GroupMask inside = kin_[i].groups & groups;
    if (inside == 0 || inside == kin_[i].groups) continue;
    Kin rest{kin_[i].groups & ~groups, PushWindows(kin_[i].windows)};
    kin_[i].groups = inside;
    kin_.push_back(std::move(rest));
  }
}

void SlotGroups::merge(GroupMask groups, std::uint64_t worker, const SequenceWindow& window) {
  separate(groups);
  for (Kin& kin : kin_)
    if ((kin.groups & groups) != 0) kin.windows.use(worker).merge(window);
}

}  // namespace troupe::shards
