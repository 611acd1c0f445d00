#pragma once

#include <cstdint>

/// Order that is a function of its inputs alone, so that any process can make any batch again.
namespace troupe::training {

/// A bijection of 64-bit integers whose output bits look independent (the finaliser of splitmix64,
/// Steele, Lea and Flood 2014).
constexpr std::uint64_t mix64(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

/// Two integers into one that depends on both and on their order.
constexpr std::uint64_t mix64(std::uint64_t a, std::uint64_t b) {
  return mix64(mix64(a) ^ b);
}

/// A seeded permutation of [0, size) that needs no memory: a Feistel network over the next even power of
/// two, applied again while the result lies outside (cycle walking; Black and Rogaway 2002).
class Permutation {
 public:
  Permutation(std::uint64_t size, std::uint64_t seed) : size_(size), seed_(seed) {
    while (half_bits_ < 32 && (std::uint64_t{1} << (2 * half_bits_)) < size_) ++half_bits_;
    half_mask_ = (std::uint64_t{1} << half_bits_) - 1;
  }

  std::uint64_t size() const { return size_; }

  /// Where position `index` (below size()) comes from.
  std::uint64_t operator()(std::uint64_t index) const {
    do {
      index = rounds(index);
    } while (index >= size_);
    return index;
  }

 private:
  std::uint64_t rounds(std::uint64_t value) const {
    std::uint64_t left = value >> half_bits_;
    std::uint64_t right = value & half_mask_;
    for (std::uint64_t round = 0; round < 5; ++round) {
      const std::uint64_t next = left ^ (mix64(seed_ + round, right) & half_mask_);
      left = right;
      right = next;
    }
    return (left << half_bits_) | right;
  }

  std::uint64_t size_;
  std::uint64_t seed_;
  unsigned half_bits_ = 1;
  std::uint64_t half_mask_ = 1;
};

}  // namespace troupe::training
