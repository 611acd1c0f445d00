#pragma once

#include <array>
#include <cassert>
#include <cmath>
#include <cstdint>
#include <span>
#include <utility>

namespace troupe {

/// A seeded source of randomness, the same numbers on every machine: xoshiro256++ (Blackman and Vigna,
/// "Scrambled linear pseudorandom number generators", 2021), its state filled by splitmix64 (Steele, Lea
/// and Flood 2014). Not for secrets. One thread; give each thread its own by split(). Satisfies
/// std::uniform_random_bit_generator.
class Random {
 public:
  using result_type = std::uint64_t;

  explicit Random(std::uint64_t seed) {
    for (std::uint64_t& word : state_) word = splitmix(seed);
  }

  static constexpr result_type min() { return 0; }
  static constexpr result_type max() { return UINT64_MAX; }
  /// 64 random bits.
  result_type operator()() {
    const std::uint64_t result = rotate(state_[0] + state_[3], 23) + state_[0];
    const std::uint64_t shifted = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= shifted;
    state_[3] = rotate(state_[3], 45);
    return result;
  }

  /// Uniform in [0, bound), without bias (Lemire, "Fast random integer generation in an interval", 2019).
  /// Precondition: bound > 0.
  std::uint64_t below(std::uint64_t bound) {
    assert(bound > 0);
    Wide product = static_cast<Wide>((*this)()) * bound;
    if (static_cast<std::uint64_t>(product) < bound) {
      const std::uint64_t threshold = (0 - bound) % bound;
      while (static_cast<std::uint64_t>(product) < threshold) product = static_cast<Wide>((*this)()) * bound;
    }
    return static_cast<std::uint64_t>(product >> 64);
  }
  /// Uniform in [low, high]. Precondition: low <= high.
  std::int64_t between(std::int64_t low, std::int64_t high) {
    assert(low <= high);
    const std::uint64_t extent = static_cast<std::uint64_t>(high) - static_cast<std::uint64_t>(low) + 1;
    const std::uint64_t offset = extent == 0 ? (*this)() : below(extent);
    return static_cast<std::int64_t>(static_cast<std::uint64_t>(low) + offset);
  }
  /// Uniform in [0, 1), with all 53 bits.
  double uniform() { return static_cast<double>((*this)() >> 11) * 0x1p-53; }
  /// Uniform in [0, 1), with all 24 bits.
  float uniform_float() { return static_cast<float>((*this)() >> 40) * 0x1p-24F; }
  /// Uniform in [low, high).
  double uniform(double low, double high) { return low + (high - low) * uniform(); }
  bool chance(double probability) { return uniform() < probability; }

  /// Normal with mean 0 and deviation 1 (Marsaglia's polar method, 1964).
  double normal() {
    if (has_spare_) {
      has_spare_ = false;
      return spare_;
    }
    for (;;) {
      const double x = uniform(-1.0, 1.0);
      const double y = uniform(-1.0, 1.0);
      const double square = x * x + y * y;
      if (square >= 1.0 || square == 0.0) continue;
      const double scale = std::sqrt(-2.0 * std::log(square) / square);
      spare_ = y * scale;
      has_spare_ = true;
      return x * scale;
    }
  }

  /// Brings `items` into a random order, each equally likely (Fisher and Yates).
  template <class T>
  void shuffle(std::span<T> items) {
    for (std::size_t left = items.size(); left > 1; --left) std::swap(items[left - 1], items[below(left)]);
  }

  /// A stream independent of this one and of all others split from it.
  Random split() { return Random((*this)() ^ kSplit); }
  /// The stream number `key` of this state, which stays as it is: the same key gives the same stream.
  Random split(std::uint64_t key) const {
    std::uint64_t mixed = state_[0] ^ rotate(state_[2], 32);
    const std::uint64_t own = splitmix(mixed);
    mixed = own ^ (key * 0xd1342543de82ef95U);
    return Random(splitmix(mixed));
  }

 private:
  __extension__ using Wide = unsigned __int128;
  static constexpr std::uint64_t kSplit = 0x6a09e667f3bcc909U;  // so that split() is not Random(seed())

  static constexpr std::uint64_t rotate(std::uint64_t value, int bits) {
    return (value << bits) | (value >> (64 - bits));
  }
  static constexpr std::uint64_t splitmix(std::uint64_t& state) {
    std::uint64_t z = state += 0x9e3779b97f4a7c15U;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
  }

  std::array<std::uint64_t, 4> state_{};
  double spare_ = 0.0;
  bool has_spare_ = false;
};

}  // namespace troupe
