#pragma once

#include <cstddef>
#include <cstdint>
#include <random>

namespace troupe::shards {

/// A bijection of 64-bit numbers in which every bit of the input changes every bit of the output with
/// probability near one half: two rounds of xor-shift and multiply with the constants that Stafford found
/// by search (2011, "Better bit mixing", variant 13).
constexpr std::uint64_t mix64(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
  return x ^ (x >> 31);
}

/// For tables of keys that somebody else chooses, who might choose them to collide. Nothing that can be seen
/// depends on it, but for the time that it takes.
inline std::uint64_t secret_seed() {
  std::random_device device;
  return (std::uint64_t{device()} << 32) | device();
}

/// Of keys that somebody else chooses, for the standard's tables.
struct KeyHash {
  std::uint64_t seed = 0;
  std::size_t operator()(std::uint64_t key) const { return mix64(mix64(key ^ seed) + seed); }
};

/// Added before mixing, so that 0 is not mapped to itself and so that slots have nothing to do with the
/// buckets of a hash index that mixes the plain key.
inline constexpr std::uint64_t kSlotSalt = 0x9e3779b97f4a7c15U;

/// The slot of an embedding key: the top `bits` bits of its mix.
constexpr std::uint32_t hash_slot(std::uint64_t key, unsigned bits) {
  return bits == 0 ? 0 : static_cast<std::uint32_t>(mix64(key + kSlotSalt) >> (64 - bits));
}

}  // namespace troupe::shards
