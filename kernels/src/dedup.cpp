#include "troupe/kernels/dedup.hpp"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstddef>

#include "mix.hpp"

namespace troupe::kernels {
namespace {

// Keys hashed ahead of their look-up, so that their cache misses overlap.
constexpr std::size_t kBlock = 32;

}  // namespace

void Dedup::prepare(std::size_t count) {
  assert(count < (1ULL << 31U));
  const std::size_t wanted = std::bit_ceil(std::max<std::size_t>(2 * count, 16));
  if (entries_.size() < wanted) {
    entries_.assign(wanted, Entry{0, 0, 0});
    unique_.resize(wanted / 2);
    inverse_.resize(wanted / 2);
    run_ = 0;
  }
  if (++run_ == 0) {  // the counter went round: entries of 2^32 runs ago would look current
    std::fill(entries_.begin(), entries_.end(), Entry{0, 0, 0});
    run_ = 1;
  }
}

Dedup::Result Dedup::run(std::span<const std::uint64_t> keys) {
  prepare(keys.size());
  // A small batch uses only the start of a large table, which then stays in cache.
  const std::size_t mask = std::bit_ceil(std::max<std::size_t>(2 * keys.size(), 16)) - 1;
  std::uint32_t unique_count = 0;
  for (std::size_t begin = 0; begin < keys.size(); begin += kBlock) {
    const std::size_t size = std::min(kBlock, keys.size() - begin);
    std::size_t slots[kBlock];
    for (std::size_t i = 0; i < size; ++i) {
      slots[i] = mix_bits(keys[begin + i]) & mask;
      __builtin_prefetch(&entries_[slots[i]], 1);
    }
    for (std::size_t i = 0; i < size; ++i) {
      const std::uint64_t key = keys[begin + i];
      std::size_t slot = slots[i];
      while (entries_[slot].run == run_ && entries_[slot].key != key) slot = (slot + 1) & mask;
      if (entries_[slot].run != run_) {
        entries_[slot] = Entry{key, run_, unique_count};
        unique_[unique_count++] = key;
      }
      inverse_[begin + i] = entries_[slot].position;
    }
  }
  return {std::span(unique_.data(), unique_count), std::span(inverse_.data(), keys.size())};
}

}  // namespace troupe::kernels
