#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace troupe::kernels {

/// A map from 64-bit keys to 64-bit values, such as the number of the row that holds a key's parameters.
/// Every key and every value is legal.
///
/// Open addressing with linear probing in arrays of (key, value): a look-up is one access to memory in
/// nearly every case. A table doubles when it is 5/8 full (so it holds 26 to 51 bytes for each key) and
/// keeps no tombstones: erasing moves the following entries back. Keys are mixed with the seed and the
/// capacity, so that neither sequential, nor strided keys, nor keys in the order in which another index
/// lists them, crowd together.
///
/// From 8 Mi places (128 MiB) on the index is 64 tables, each with a part of the keys and, between 1/2 and
/// 5/8, a limit of its own: they grow one after the other, so that an insertion waits for the growth of a
/// sixty-fourth of the index, and a batch for that of a few.
///
/// Const functions may be called from many threads while nobody changes the index; others need the index
/// for themselves. Equal seeds and histories give equal orders of iteration. Throws std::bad_alloc when
/// memory runs out, and keeps what it held.
class HashIndex {
 public:
  /// What find_batch writes for a key that is not there, unless told otherwise.
  static constexpr std::uint64_t kMissing = ~std::uint64_t{0};

  struct Found {
    std::uint64_t value;
    bool inserted;  ///< the key was not there before
  };

  /// Room for `expected_size` keys without growth. Seeds of indexes that guard against keys chosen to
  /// collide should not be known to those who choose the keys.
  explicit HashIndex(std::int64_t expected_size = 0, std::uint64_t seed = 0);
  HashIndex(const HashIndex&) = delete;
  HashIndex& operator=(const HashIndex&) = delete;
  /// What is moved from may only be destroyed or assigned to.
  HashIndex(HashIndex&&) = default;
  HashIndex& operator=(HashIndex&&) = default;
  ~HashIndex() = default;

  std::optional<std::uint64_t> find(std::uint64_t key) const;

  /// values[i] = the value of keys[i], or `missing`; returns how many were there. The spans have one size.
  std::int64_t find_batch(std::span<const std::uint64_t> keys, std::span<std::uint64_t> values,
                          std::uint64_t missing = kMissing) const;

  /// The key's value, which is `value` if the key was not there.
  Found find_or_insert(std::uint64_t key, std::uint64_t value);

  /// values[i] = the value of keys[i]. Keys that are not there are inserted with first_new_value,
  /// first_new_value + 1, ... in order of first occurrence; returns how many. The spans have one size.
  std::int64_t find_or_insert_batch(std::span<const std::uint64_t> keys, std::uint64_t first_new_value,
                                    std::span<std::uint64_t> values);

  /// Gives the key this value, there or not.
  void assign(std::uint64_t key, std::uint64_t value);

  /// Returns whether the key was there.
  bool erase(std::uint64_t key);

  /// Forgets all keys, keeps the memory.
  void clear();

  /// Makes room for about `size` keys in all. Large indexes may still grow a little on the way.
  void reserve(std::int64_t size);
  /// Makes room for these keys, even if none of them is there: inserting them cannot fail.
  void prepare(std::span<const std::uint64_t> keys);

  std::int64_t size() const { return size_ + (side_used_ ? 1 : 0); }
  bool empty() const { return size() == 0; }
  /// Places in all tables; a power of two while there is one.
  std::int64_t capacity() const;

  /// Calls visit(key, value) for each entry; visit must not change the index.
  template <class Visit>
  void for_each(Visit&& visit) const {
    if (side_used_) visit(kEmpty, side_value_);
    for (const Segment& segment : segments_) {
      for (std::size_t slot = 0; slot <= segment.mask; ++slot) {
        if (segment.entries[slot].key != kEmpty)
          visit(segment.entries[slot].key, segment.entries[slot].value);
      }
    }
  }

  /// The largest number of entries that a look-up of a present key reads; for tests and metrics. Linear in
  /// the capacity.
  std::int64_t longest_probe() const;

 private:
  struct Entry {
    std::uint64_t key;
    std::uint64_t value;
  };
  struct Release {
    void operator()(Entry* entries) const;
  };
  using Entries = std::unique_ptr<Entry[], Release>;

  // Marks an empty place; the real key of this value lives beside the table.
  static constexpr std::uint64_t kEmpty = ~std::uint64_t{0};

  /// A table with a part of the keys.
  struct Segment {
    Entries entries;
    std::size_t mask = 0;  // capacity - 1
    std::int64_t size = 0;
    std::int64_t limit = 0;    // it doubles before it holds more
    std::uint64_t factor = 1;  // odd, of this capacity: mixed keys are multiplied by it
  };
  /// Where a key belongs.
  struct Home {
    std::uint32_t segment;
    std::size_t slot;
  };

  static Entries make_entries(std::size_t capacity);
  Segment make_segment(std::size_t capacity, std::size_t number, std::size_t count) const;
  static std::size_t home_in(const Segment& segment, std::uint64_t mixed);
  Home home(std::uint64_t key) const;
  std::uint64_t mixed(std::uint64_t key) const;
  static std::size_t probe(const Segment& segment, std::uint64_t key, std::size_t slot);
  Found insert_at(std::uint64_t key, std::uint64_t value, Home home);
  Found side_insert(std::uint64_t value);
  void grow(std::size_t number, std::size_t capacity);
  void move_into(std::vector<Segment>& to, const Segment& from) const;

  std::vector<Segment> segments_;  // one, or kSegments
  std::int64_t size_ = 0;
  std::uint64_t growths_ = 0;  // how often something has been moved
  std::uint64_t offset_;       // of the seed, added to keys before mixing
  bool side_used_ = false;
  std::uint64_t side_value_ = 0;
};

}  // namespace troupe::kernels
