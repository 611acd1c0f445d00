#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace troupe::kernels {

/// Finds the distinct keys of a batch. The object is scratch memory to keep and use again: once it has seen
/// the largest batch it allocates no more. For one thread at a time.
class Dedup {
 public:
  /// Who chooses the keys should not know the seed: else keys can be chosen that all meet in one place, each
  /// of which costs as much as all before it. Results do not depend on it.
  explicit Dedup(std::uint64_t seed = 0);

  /// Views into the Dedup, valid until its next run() or its end.
  struct Result {
    std::span<const std::uint64_t> unique;   ///< the distinct keys, in order of first occurrence
    std::span<const std::uint64_t> inverse;  ///< keys[i] == unique[inverse[i]], as long as the keys
  };

  /// Any keys are legal; fewer than 2^31 of them. `keys` must not be a view into this object. Expected
  /// time is linear, whatever the keys' pattern, if that does not come from the seed.
  Result run(std::span<const std::uint64_t> keys);

  // The same in pieces, for batches that take long: begin(), add() until all `count` keys have been given,
  // and result() of those that have.

  void begin(std::size_t count);
  void add(std::span<const std::uint64_t> keys);
  Result result() const { return {{unique_.get(), unique_count_}, {inverse_.get(), added_}}; }
  /// Gives the scratch memory back.
  void release();

 private:
  struct Entry {
    std::uint64_t key;
    std::uint32_t run;       // the run that wrote this entry; of another run means empty
    std::uint32_t position;  // in unique_
  };

  struct Release {
    void operator()(Entry* entries) const;
  };

  std::uint64_t offset_;  // of the seed, added to keys before mixing
  std::unique_ptr<Entry[], Release> entries_;
  std::size_t places_ = 0;  // of entries_: 0 or a power of two; the others have half as many
  std::unique_ptr<std::uint64_t[]> unique_;
  std::unique_ptr<std::uint64_t[]> inverse_;
  std::uint32_t run_ = 0;
  // Of this run:
  std::size_t mask_ = 0;
  std::size_t added_ = 0;
  std::size_t unique_count_ = 0;
};

}  // namespace troupe::kernels
