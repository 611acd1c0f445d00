#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace troupe::kernels {

/// Finds the distinct keys of a batch. The object is scratch memory to keep and use again: once it has seen
/// the largest batch it allocates no more. For one thread at a time.
class Dedup {
 public:
  /// Views into the Dedup, valid until its next run() or its end.
  struct Result {
    std::span<const std::uint64_t> unique;   ///< the distinct keys, in order of first occurrence
    std::span<const std::uint64_t> inverse;  ///< keys[i] == unique[inverse[i]], as long as the keys
  };

  /// Any keys are legal; fewer than 2^31 of them. `keys` must not be a view into this object. Expected
  /// time is linear, whatever the keys' pattern.
  Result run(std::span<const std::uint64_t> keys);

 private:
  struct Entry {
    std::uint64_t key;
    std::uint32_t run;       // the run that wrote this entry; of another run means empty
    std::uint32_t position;  // in unique_
  };

  void prepare(std::size_t count);

  std::vector<Entry> entries_;  // size 0 or a power of two
  std::vector<std::uint64_t> unique_;
  std::vector<std::uint64_t> inverse_;
  std::uint32_t run_ = 0;
};

}  // namespace troupe::kernels
