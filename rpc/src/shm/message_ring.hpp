#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "shm/segment.hpp"

namespace troupe::rpc::shm {

/// What a record in a ring is.
enum class RecordKind : std::uint16_t {
  kPad = 1,  ///< nothing, up to the ring's end; never all of the ring
  kFrame,    ///< a message: its head, then (8-byte aligned) its parts' bytes
  kLent,     ///< a message whose parts lie in the writer's memory: its head, then an array of LentPiece
  kBegin,    ///< the head of a message whose parts follow in kPiece
  kPiece,    ///< the next of its bytes
};

/// Why a ring's reader, who cannot open the writer's own ring, wants another way for both.
enum class Refusal : std::uint32_t {
  kNone = 0,
  kMayNot = 1,  ///< another user's, or a process with more rights
  kCannot = 2,  ///< it is not there, or not what it should be, or nothing more can be opened
};

/// Bytes of the writer's process that the reader may copy until it says that it has.
struct LentPiece {
  std::uint64_t address = 0;
  std::uint64_t bytes = 0;
};

/// One way from one process to another: a segment that the reader owns. Positions count bytes since the
/// beginning of time; each field has one writer. What the other side writes may be a lie: both sides check
/// what they read, and neither can make the other touch memory outside of the ring.
struct RingHeader {
  static constexpr std::uint64_t kMagic = 0x31676e6972757274;  // "truring1"

  std::uint64_t magic = kMagic;
  std::uint64_t cookie = 0;  // random, not zero
  // The reader's, changing.
  alignas(64) std::atomic<std::uint64_t> consumed{0};       // bytes
  std::atomic<std::uint64_t> lent_done{0};                  // kLent messages of which the parts are copied
  alignas(64) std::atomic<std::uint32_t> reader_sleeps{0};  // ring its bell after a message
  std::atomic<std::uint32_t> reader_copies{0};              // it can read the writer's memory: lend
  std::atomic<std::uint32_t> refused{0};                    // a Refusal: it cannot use the writer's ring
  std::atomic<std::uint32_t> reader_orders{0};              // it orders our writing before it sleeps
  // The writer's.
  alignas(64) std::atomic<std::uint32_t> writer_waits{
      0};                                  // ring its bell when `consumed` or `lent_done` moves
  std::atomic<std::uint32_t> attached{0};  // it has opened the ring
};

/// What stands before each record; a whole number of cache lines apart. A record is complete once its mark
/// is what it must be at this position: a number that comes nowhere else, so that neither what was there one
/// round earlier nor anybody's payload can be taken for it. Thus the reader finds out with the cache line
/// that brings the message itself, and a writer that dies in the middle leaves nothing half-written to be
/// read.
struct RecordHeader {
  std::atomic<std::uint64_t> mark;
  std::uint32_t bytes;  // of the whole record
  RecordKind kind;
  std::uint16_t head_bytes;
  std::uint64_t part_bytes;
};

struct Record {
  RecordKind kind = RecordKind::kPad;
  std::span<const std::byte> payload;
  std::size_t head_bytes = 0;
  std::uint64_t part_bytes = 0;
  std::size_t bytes = 0;
};

namespace ring {
constexpr std::size_t kHeaderBytes = 4096;
constexpr std::size_t kBytes = std::size_t{128} << 10;  ///< of records
constexpr std::size_t kSegmentBytes = kHeaderBytes + kBytes;
constexpr std::size_t kAlign = 64;
static_assert(sizeof(RingHeader) <= kHeaderBytes && sizeof(RecordHeader) <= kAlign);
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

/// Parts in more pieces than this are not lent: their list would be too long for the ring.
constexpr std::size_t kMostPieces = 256;

constexpr std::size_t record_bytes(std::size_t payload) {
  return (sizeof(RecordHeader) + payload + kAlign - 1) / kAlign * kAlign;
}
constexpr std::size_t aligned_head(std::size_t head) {
  return (head + 7) / 8 * 8;
}

/// Tells the processor to move what we have just written to the cache that all cores share, where the reader
/// finds it sooner than in ours: a call's round trip is a tenth shorter where cores are far apart. (CLDEMOTE;
/// a processor that does not know it does nothing.)
inline void hand_out([[maybe_unused]] const std::byte* data, [[maybe_unused]] std::size_t bytes) {
#if defined(__x86_64__)
  for (std::size_t at = 0; at < bytes; at += kAlign) asm volatile("cldemote %0" : : "m"(data[at]));
#endif
}
/// Has a cache line brought here to be written. (GCC's own __builtin_prefetch() for writing only reads unless
/// it compiles for newer processors than we do; then writing has to ask the other core again.)
inline void fetch_to_write(const std::byte* line) {
#if defined(__x86_64__)
  asm volatile("prefetchw %0" : : "m"(*line) : "memory");
#else
  __builtin_prefetch(line, 1);
#endif
}
}  // namespace ring

/// The writing end. Loop only.
class RingWriter {
 public:
  static constexpr std::size_t kFetchedAhead = 6;  ///< cache lines

  explicit RingWriter(const Segment& segment)
      : header_(*reinterpret_cast<RingHeader*>(segment.data())), data_(segment.data() + ring::kHeaderBytes) {}

  RingHeader& header() const { return header_; }

  /// Where to write a record's payload; null: there is no room. Precondition: a record of so much takes no
  /// more than half of the ring.
  std::byte* reserve(std::size_t payload) {
    const std::size_t bytes = ring::record_bytes(payload);
    const std::size_t left = ring::kBytes - offset();
    const std::size_t pad = left < bytes ? left : 0;
    if (!has_room(bytes + pad)) return nullptr;
    if (pad > 0) {
      reserved_ = pad;
      publish(RecordKind::kPad, 0, 0);
    }
    reserved_ = bytes;
    return data_ + offset() + sizeof(RecordHeader);
  }
  /// Makes what was reserved visible.
  void publish(RecordKind kind, std::size_t head_bytes, std::uint64_t part_bytes) {
    auto& record = *reinterpret_cast<RecordHeader*>(data_ + offset());
    record.bytes = static_cast<std::uint32_t>(reserved_);
    record.kind = kind;
    record.head_bytes = static_cast<std::uint16_t>(head_bytes);
    record.part_bytes = part_bytes;
    record.mark.store(header_.cookie ^ position_, std::memory_order_release);
    ring::hand_out(data_ + offset(), reserved_);
    position_ += reserved_;
    // The next records' lines are the reader's still, who has read them one round earlier. Not the first:
    // there it looks for the next mark all the time.
    for (std::size_t line = 1; line <= kFetchedAhead; ++line)
      ring::fetch_to_write(data_ + (position_ + line * ring::kAlign) % ring::kBytes);
  }
  /// Bytes that could be written now, at least.
  std::size_t room() {
    has_room(ring::kBytes);
    return ring::kBytes - static_cast<std::size_t>(position_ - consumed_);
  }

 private:
  std::size_t offset() const { return position_ % ring::kBytes; }
  bool has_room(std::size_t bytes) {
    if (position_ + bytes - consumed_ <= ring::kBytes) return true;
    const std::uint64_t consumed = header_.consumed.load(std::memory_order_seq_cst);
    if (consumed > position_ || consumed < consumed_) return false;  // nonsense: it never moves again
    consumed_ = consumed;
    return position_ + bytes - consumed_ <= ring::kBytes;
  }

  RingHeader& header_;
  std::byte* data_;
  std::uint64_t position_ = 0;
  std::uint64_t consumed_ = 0;
  std::size_t reserved_ = 0;
};

/// The reading end. Loop only.
class RingReader {
 public:
  enum class Found { kNothing, kRecord, kNonsense };

  explicit RingReader(const Segment& segment)
      : header_(*reinterpret_cast<RingHeader*>(segment.data())),
        cookie_(header_.cookie),
        data_(segment.data() + ring::kHeaderBytes) {}

  RingHeader& header() const { return header_; }
  bool empty() const { return mark().load(std::memory_order_seq_cst) != (cookie_ ^ position_); }

  /// The next record, which stays until pop(). After a pad, which leads to the ring's beginning, comes no
  /// other: whoever writes nothing else keeps us no longer for it.
  Found next(Record& record) {
    for (;;) {
      if (mark().load(std::memory_order_acquire) != (cookie_ ^ position_)) return Found::kNothing;
      const auto& header = *reinterpret_cast<const RecordHeader*>(data_ + offset());
      record.bytes = once(header.bytes);
      record.kind = once(header.kind);
      record.head_bytes = once(header.head_bytes);
      record.part_bytes = once(header.part_bytes);
      if (record.bytes < ring::kAlign || record.bytes % ring::kAlign != 0 ||
          record.bytes > ring::kBytes - offset())
        return Found::kNonsense;
      record.payload = {data_ + offset() + sizeof(RecordHeader), record.bytes - sizeof(RecordHeader)};
      if (record.kind != RecordKind::kPad) {
        fetch_following(record);
        return Found::kRecord;
      }
      if (offset() == 0 || record.bytes != ring::kBytes - offset()) return Found::kNonsense;
      pop(record);
    }
  }
  /// Bytes read since the beginning.
  std::uint64_t position() const { return position_; }
  /// Returns whether the writer has been told how far we are.
  bool pop(const Record& record) {
    position_ += record.bytes;
    if (position_ - told_ < ring::kBytes / 4) return false;
    told_ = position_;
    header_.consumed.store(position_, std::memory_order_seq_cst);
    return true;
  }

 private:
  /// What the writer may change at any moment is read one time, and then checked.
  template <class T>
  static T once(const T& field) {
    return *static_cast<const volatile T*>(&field);
  }
  std::size_t offset() const { return position_ % ring::kBytes; }
  const std::atomic<std::uint64_t>& mark() const {
    return reinterpret_cast<const RecordHeader*>(data_ + offset())->mark;
  }

  /// When messages come faster than they are read, the next one is on its way while this one is dealt with.
  /// Only if it is complete: lines that are still being written must not be taken from the writer. The mark
  /// after that is looked at in any case.
  void fetch_following(const Record& record) const {
    const std::uint64_t next = position_ + record.bytes;
    const auto& there = *reinterpret_cast<const RecordHeader*>(data_ + next % ring::kBytes);
    if (there.mark.load(std::memory_order_acquire) != (cookie_ ^ next)) return;
    for (std::size_t line = 1; line <= 3; ++line)
      __builtin_prefetch(data_ + (next + line * ring::kAlign) % ring::kBytes);
    __builtin_prefetch(data_ + (next + there.bytes) % ring::kBytes);
  }

  RingHeader& header_;
  const std::uint64_t cookie_;  // ours: the copy in the segment can be overwritten
  std::byte* data_;
  std::uint64_t position_ = 0;
  std::uint64_t told_ = 0;
};

}  // namespace troupe::rpc::shm
