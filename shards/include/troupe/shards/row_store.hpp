#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <utility>

#include <troupe/runtime/buffer.hpp>
#include <troupe/runtime/clock.hpp>
#include <troupe/runtime/result.hpp>
#include <troupe/runtime/task.hpp>
#include <troupe/shards/partition.hpp>
#include <troupe/shards/row_keys.hpp>
#include <troupe/shards/row_layout.hpp>
#include <troupe/shards/table_spec.hpp>

namespace troupe {
/// An order of work on a device. Host stores take null and ask no more of it than that.
class Stream;
}  // namespace troupe

namespace troupe::shards {

/// When what an operation of a store does is there: at once on the host, when a stream gets there on a
/// device. Errors that can be known beforehand are the operation's Result; what is left to fail is the device
/// itself, for good: kInternal.
class Completion {
 public:
  /// What a store implements whose work is done later. With the loop only, or before it has the store.
  class Pending {
   public:
    virtual ~Pending() = default;
    virtual bool done() = 0;
    /// Blocks. kDeadlineExceeded: it is not done within `timeout`.
    virtual Result<void> wait(Duration timeout) = 0;
    virtual void when_done(UniqueFunction<void(Result<void>)> told) = 0;
  };
  /// So long is waited for a device that has not failed.
  static constexpr Duration kLongest = std::chrono::seconds(60);

  /// Done.
  Completion() = default;
  explicit Completion(std::shared_ptr<Pending> pending) : pending_(std::move(pending)) {}
  bool done() const { return pending_ == nullptr || pending_->done(); }
  /// Blocks until it is done.
  Result<void> wait(Duration timeout = kLongest) const {
    return pending_ ? pending_->wait(timeout) : Result<void>();
  }
  /// Runs `told` on the loop once it is done; at once if it is.
  void then(UniqueFunction<void(Result<void>)> told) const {
    if (pending_ == nullptr) return told({});
    pending_->when_done(std::move(told));
  }

 private:
  std::shared_ptr<Pending> pending_;
};

/// Where rows that are read are to go: memory of the host, or such as a device reaches, which it then writes
/// itself. What lies on a device is of the store's own.
struct RowsOut {
  // NOLINTNEXTLINE(google-explicit-constructor): the host's memory is what most have
  RowsOut(float* to, MemoryKind kind = MemoryKind::kHost) : data(to), memory(kind) {}
  /// Numbers of two bytes, in the host's memory, which a TableShard makes of what its store reads: stores
  /// write float32 only.
  RowsOut(std::uint16_t* to, DType type) : half(to), dtype(type) {}
  float* data = nullptr;
  std::uint16_t* half = nullptr;
  MemoryKind memory = MemoryKind::kHost;
  DType dtype = DType::kFloat32;
};

enum class IfMissing : std::uint8_t {
  kMake,  ///< make the row
  kShow,  ///< make nothing; it reads as it would be made
};

/// Where a walk over a store's rows stands.
struct ExtractPage {
  std::uint64_t rows = 0;  ///< added to the batch
  std::uint64_t next_cursor = 0;
  bool done = false;  ///< there is nothing past this page
};

/// The rows of the slots that a shard owns, with their optimizer state, wherever they lie. Everything goes in
/// batches and no pointer to a row leaves it, so that rows may move, between places and kinds of memory.
///
/// One loop owns it and makes every call. An operation that fails changes nothing, but for rows made on the
/// way. Keys that cannot be: kInvalidArgument for a row number out of a dense table's range, or for ranges of
/// a table that is not dense; kFailedPrecondition for a key of a slot that is not owned. Memory that cannot
/// be had: kResourceExhausted. Ranges are as check_ranges() wants them. `keys`, `gradients` and records are
/// not used after the call has returned; `out` is until the operation's completion. With a `stream` of the
/// store's device, what it had been given before comes before the operation, and what it is given later
/// after.
class RowStore {
 public:
  virtual ~RowStore() = default;
  virtual const RowLayout& layout() const = 0;
  /// Of operations that have ended.
  virtual std::uint64_t rows() const = 0;
  /// Blocks until all operations have ended.
  virtual Result<void> wait() { return {}; }
  /// Of memory for rows and what finds them.
  virtual std::uint64_t bytes() const = 0;
  /// Memory for rows to be read into that suits the store best; an empty Buffer: any of the host's.
  virtual Result<Buffer> memory_for(std::size_t /*bytes*/) { return Buffer(); }

  /// out[i] = the weights of keys[i] as float32, out[keys, dim].
  virtual Result<Completion> read(const RowKeys& keys, IfMissing missing, RowsOut out,
                                  Stream* stream = nullptr) = 0;
  /// Makes the rows of these keys that are missing, so that a read or an update of them cannot fail, also if
  /// a cut is open.
  virtual Result<Completion> make(const RowKeys& keys, Stream* stream = nullptr) = 0;
  /// One optimizer step for each key, with gradients[keys, dim] and the learning rate times `scale`; makes
  /// missing rows. No key may come twice; gradients are as StepBatch says.
  virtual Result<Completion> update(const RowKeys& keys, const float* gradients, float scale,
                                    Stream* stream = nullptr) = 0;
  /// Makes or overwrites whole rows.
  virtual Result<Completion> insert(const RowBatch& rows, Stream* stream = nullptr) = 0;

  /// Appends the whole rows of these keys, in their order. Precondition: each is there.
  virtual Result<void> copy(std::span<const std::uint64_t> keys, RowBatch& into) = 0;
  /// Appends up to `most` rows of `slots` to `into`, from `cursor` (0 to begin) on. Rows made meanwhile come
  /// at the end, or not at all; each row that is there all the time comes once.
  virtual Result<ExtractPage> extract(const SlotSet& slots, std::uint64_t cursor, std::uint64_t most,
                                      RowBatch& into) const = 0;

  /// Forgets these rows; those that are not there are no fault. Returns how many were. A dense table's rows
  /// cannot be erased: kFailedPrecondition.
  virtual Result<std::uint64_t> erase(std::span<const std::uint64_t> keys) = 0;
  /// All rows of these slots.
  virtual Result<std::uint64_t> erase(const SlotSet& slots) = 0;
  /// Erases rows that were not used lately until there are at most `most`; returns how many. From the first
  /// call on the store keeps which rows were used since the one before.
  virtual Result<std::uint64_t> evict(std::uint64_t most) = 0;

  // A cut: all rows as they are at one moment, read in pages while updates go on.

  /// Takes one; kFailedPrecondition while there is one. Until it is closed, rows that change keep a copy of
  /// what they were until it has been read.
  virtual Result<std::uint64_t> open_cut() = 0;
  /// Appends the cut's next rows; done: there is no more. Precondition: a cut is open.
  virtual Result<ExtractPage> read_cut(std::uint64_t cursor, std::uint64_t most, RowBatch& into) = 0;
  virtual void close_cut() = 0;
};

/// Rows in this process's memory. Precondition: a valid spec, slots.slots() == spec.slots. Dense rows are
/// made here; they lie in the order of their numbers, with no key and no index. Throws std::bad_alloc.
std::unique_ptr<RowStore> make_host_store(const TableSpec& spec, const SlotSet& slots);

/// Makes the store for a shard's rows, wherever they are to lie; may throw std::bad_alloc. Any thread.
using MakeRowStore =
    std::function<Result<std::unique_ptr<RowStore>>(const TableSpec& spec, const SlotSet& slots)>;

}  // namespace troupe::shards
