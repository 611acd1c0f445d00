#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include <troupe/kernels/hash_index.hpp>
#include <troupe/shards/row_store.hpp>

namespace troupe::shards {

/// An embedding table's rows in two stores: as many as may lie in the near one there, the others in the far
/// one. Whatever is read or stepped is brought near first; those that were not used lately make room. Which
/// row lies where is known here, on the host: nothing is asked of a device for it.
///
/// Rows that move keep what they were for a cut in the store that they leave, so that a cut of both is one.
/// But a walk by extract() sees each row once only if nothing is read or stepped meanwhile. Memory that ends
/// in the middle of an update of more rows than half of the near ones, or of a push in slices that has more,
/// leaves a part of them stepped. While a cut is open rows that come near take new places there.
class TieredStore final : public RowStore {
 public:
  /// Precondition: near_rows >= 2; both are empty.
  TieredStore(const TableSpec& spec, const SlotSet& slots, std::unique_ptr<RowStore> near,
              std::unique_ptr<RowStore> far, std::uint64_t near_rows);

  const RowLayout& layout() const override { return near_->layout(); }
  std::uint64_t rows() const override { return keys_.size() - free_.size(); }
  Result<void> wait() override { return near_->wait(); }
  std::uint64_t bytes() const override;
  Result<Buffer> memory_for(std::size_t bytes) override { return near_->memory_for(bytes); }
  Result<Completion> read(const RowKeys& wanted, IfMissing missing, RowsOut out, Stream* stream) override;
  Result<Completion> make(const RowKeys& wanted, Stream* stream) override;
  Result<Completion> update(const RowKeys& pushed, const float* gradients, float scale,
                            Stream* stream) override;
  Result<Completion> insert(const RowBatch& rows, Stream* stream) override;
  Result<void> copy(std::span<const std::uint64_t> keys, RowBatch& into) override;
  Result<ExtractPage> extract(const SlotSet& slots, std::uint64_t cursor, std::uint64_t most,
                              RowBatch& into) const override;
  Result<std::uint64_t> erase(std::span<const std::uint64_t> keys) override;
  Result<std::uint64_t> erase(const SlotSet& slots) override;
  Result<std::uint64_t> evict(std::uint64_t most) override;
  Result<std::uint64_t> open_cut() override;
  Result<ExtractPage> read_cut(std::uint64_t cursor, std::uint64_t most, RowBatch& into) override;
  void close_cut() override;

 private:
  using Keys = std::vector<std::uint64_t>;

  Result<void> check(const RowKeys& keys) const;
  Result<void> check_owned(std::span<const std::uint64_t> keys) const;
  /// Calls work(first, keys) for as many keys at a time as are surely near together, when they are: new ones
  /// as well, if they are to be made.
  template <class Work>
  Result<Completion> in_pieces(std::span<const std::uint64_t> keys, bool make, Work work);
  Result<void> bring_near(std::span<const std::uint64_t> keys, bool make);
  static Result<void> move_rows(RowStore& from, RowStore& to, std::span<const std::uint64_t> keys);
  Result<void> make_room(std::uint64_t incoming);
  /// Numbers of rows that lie near and were not used lately, at most so many.
  std::vector<std::uint64_t> coldest(std::uint64_t count);
  /// Takes up keys that have got a row, near or far. Precondition: reserve_for().
  void reserve_for(std::span<const std::uint64_t> keys);
  void take_up(std::uint64_t key, bool near);
  void set_near(std::uint64_t number);
  void reserve_order(std::size_t more);
  bool is(std::uint64_t number, std::uint8_t flag) const { return (flags_[number] & flag) != 0; }

  TableSpec spec_;
  SlotSet slots_;
  std::unique_ptr<RowStore> near_, far_;
  std::uint64_t near_rows_;
  std::uint64_t near_count_ = 0;
  std::uint64_t seed_;
  // Rows have numbers here, too.
  kernels::HashIndex index_;
  Keys keys_;                              // by number
  std::vector<std::uint8_t> flags_;        // likewise
  std::vector<std::uint64_t> free_;        // numbers of erased rows
  std::vector<std::uint64_t> near_order_;  // numbers of those near, and of some that were; each once
  std::size_t near_hand_ = 0;              // where coldest() looks next
  std::uint64_t hand_ = 0;                 // where evict() looks next
  bool knows_used_ = false;                // whether evict() has been called
  bool cut_ = false;
};

}  // namespace troupe::shards
