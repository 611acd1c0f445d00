#pragma once

#include <cstdint>
#include <list>
#include <unordered_map>
#include <vector>

#include <troupe/runtime/result.hpp>
#include <troupe/shards/partition.hpp>
#include <troupe/shards/sequence_window.hpp>

namespace troupe::shards {

/// Groups of slots as bits.
using GroupMask = std::uint64_t;

/// The group of `key`, below kSlotGroups: a table's keys in 64 equal parts, each a range of slots, however
/// many slots the table has. What must be exact (which pushes were applied) belongs to groups, moves with
/// them and is saved by them. Precondition as for slot_of().
std::uint32_t group_of(const TableSpec& spec, std::uint64_t key);
/// The groups of which `slots` has a slot.
GroupMask groups_of(const SlotSet& slots);

/// Which pushes have been applied, by worker. Bounded: of kMaxWorkers workers at most, the one whose last
/// push is longest ago is forgotten first, and a push of it would then count as new.
class PushWindows {
 public:
  static constexpr std::size_t kMaxWorkers = 65536;
  struct Entry {
    std::uint64_t worker;
    SequenceWindow window;
  };

  PushWindows() = default;
  PushWindows(const PushWindows& other);
  PushWindows(PushWindows&&) = default;
  PushWindows& operator=(const PushWindows&) = delete;
  PushWindows& operator=(PushWindows&&) = default;
  ~PushWindows() = default;

  /// Null if nothing is known of the worker.
  const SequenceWindow* find(std::uint64_t worker) const;
  /// The worker's window, made if missing, as the one used last. Throws std::bad_alloc, changing nothing.
  SequenceWindow& use(std::uint64_t worker);
  void forget(std::uint64_t worker);
  std::size_t size() const { return by_worker_.size(); }
  /// The one whose last push is longest ago first.
  const std::list<Entry>& entries() const { return entries_; }

 private:
  std::list<Entry> entries_;
  std::unordered_map<std::uint64_t, std::list<Entry>::iterator> by_worker_;
};

/// The slot groups of a shard and what has been pushed to each. Groups that have been together from the
/// beginning have the same, which is kept once; those that come from different shards keep their own.
class SlotGroups {
 public:
  /// Groups with the same history.
  struct Kin {
    GroupMask groups = 0;
    PushWindows windows;
  };

  explicit SlotGroups(GroupMask groups);
  GroupMask groups() const;
  /// Those for which pushes come here: all, until told otherwise. Others may be here, on their way from or to
  /// another shard; what is pushed to this shard says nothing of them.
  GroupMask active() const { return active_; }
  void set_active(GroupMask groups);
  const std::vector<Kin>& kin() const { return kin_; }
  /// Workers of which something is known.
  std::size_t workers() const;

  struct Seen {
    GroupMask applied = 0;  ///< the groups in which the push has been applied
    bool too_old = false;   ///< it is too far behind to know
    std::uint64_t highest = 0;
  };
  Seen look(std::uint64_t worker, std::uint64_t sequence) const;
  /// Makes room, so that mark() cannot fail. Throws std::bad_alloc, changing nothing that matters.
  void prepare(std::uint64_t worker);
  /// The push is applied in all active groups. Precondition: prepare(worker), look() was not too_old.
  void mark(std::uint64_t worker, std::uint64_t sequence);
  void forget(std::uint64_t worker);
  /// Adds what is known of these groups from elsewhere. Groups of other shards are left out.
  void merge(GroupMask groups, std::uint64_t worker, const SequenceWindow& window);

 private:
  void separate(GroupMask groups);

  std::vector<Kin> kin_;
  GroupMask active_ = ~GroupMask{0};
};

}  // namespace troupe::shards
