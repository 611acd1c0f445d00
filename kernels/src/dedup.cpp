#include "troupe/kernels/dedup.hpp"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstddef>
#include <cstdlib>
#include <new>
#include <utility>

#include "mix.hpp"

namespace troupe::kernels {
namespace {

// Keys hashed ahead of their look-up, so that their cache misses overlap.
constexpr std::size_t kBlock = 32;

}  // namespace

void Dedup::Release::operator()(Entry* entries) const {
  std::free(entries);
}

Dedup::Dedup(std::uint64_t seed) : offset_(mix_bits(seed)) {}

void Dedup::begin(std::size_t count) {
  assert(count < (1ULL << 31U));
  const std::size_t wanted = std::bit_ceil(std::max<std::size_t>(2 * count, 16));
  if (places_ < wanted) {
    // Large memory comes as zeros from the system, page by page when it is used: nothing is filled here.
    std::unique_ptr<Entry[], Release> entries(static_cast<Entry*>(std::calloc(wanted, sizeof(Entry))));
    if (entries == nullptr) throw std::bad_alloc();
    auto unique = std::make_unique_for_overwrite<std::uint64_t[]>(wanted / 2);
    auto inverse = std::make_unique_for_overwrite<std::uint64_t[]>(wanted / 2);
    entries_ = std::move(entries), unique_ = std::move(unique), inverse_ = std::move(inverse);
    places_ = wanted;
    run_ = 0;
  }
  if (++run_ == 0) {  // the counter went round: entries of 2^32 runs ago would look current
    std::fill_n(entries_.get(), places_, Entry{0, 0, 0});
    run_ = 1;
  }
  mask_ = wanted - 1;  // a small batch uses only the start of a large table, which then stays in cache
  added_ = 0;
  unique_count_ = 0;
}

void Dedup::add(std::span<const std::uint64_t> keys) {
  assert(2 * (added_ + keys.size()) <= mask_ + 1);
  Entry* const entries = entries_.get();
  std::uint64_t* const unique = unique_.get();
  std::uint64_t* const inverse = inverse_.get() + added_;
  const std::size_t mask = mask_;
  const std::uint32_t run = run_;
  const std::uint64_t offset = offset_;
  std::uint32_t unique_count = static_cast<std::uint32_t>(unique_count_);
  for (std::size_t begin = 0; begin < keys.size(); begin += kBlock) {
    const std::size_t size = std::min(kBlock, keys.size() - begin);
    std::size_t slots[kBlock];
    for (std::size_t i = 0; i < size; ++i) {
      slots[i] = mix_bits(keys[begin + i] + offset) & mask;
      __builtin_prefetch(&entries[slots[i]], 1);
    }
    for (std::size_t i = 0; i < size; ++i) {
      const std::uint64_t key = keys[begin + i];
      std::size_t slot = slots[i];
      while (entries[slot].run == run && entries[slot].key != key) slot = (slot + 1) & mask;
      if (entries[slot].run != run) {
        entries[slot] = Entry{key, run, unique_count};
        unique[unique_count++] = key;
      }
      inverse[begin + i] = entries[slot].position;
    }
  }
  unique_count_ = unique_count;
  added_ += keys.size();
}

Dedup::Result Dedup::run(std::span<const std::uint64_t> keys) {
  begin(keys.size());
  add(keys);
  return result();
}

void Dedup::release() {
  entries_ = nullptr, unique_ = nullptr, inverse_ = nullptr;
  places_ = 0;
}

}  // namespace troupe::kernels
