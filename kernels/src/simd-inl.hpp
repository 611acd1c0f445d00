// What every vectorised source here shares. Highway includes such a source once for each instruction set
// (foreach_target), so this guard flips instead of closing.
#if defined(TROUPE_KERNELS_SIMD_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef TROUPE_KERNELS_SIMD_INL
#undef TROUPE_KERNELS_SIMD_INL
#else
#define TROUPE_KERNELS_SIMD_INL
#endif

#include <hwy/highway.h>

#include <cstdint>
#include <cstring>

// Marks a lambda that becomes part of a vector loop: compiled for the current target, always inlined, so
// that accumulators which it captures by reference stay in registers.
#ifndef TROUPE_SIMD_LAMBDA
#define TROUPE_SIMD_LAMBDA HWY_ATTR __attribute__((always_inline))
#endif

HWY_BEFORE_NAMESPACE();
namespace troupe::kernels::HWY_NAMESPACE {

// No function of std may be called in this namespace: its body could be compiled for AVX-512 here and then
// be the one copy that the linker keeps for the whole program.
namespace hn = hwy::HWY_NAMESPACE;
using FloatTag = hn::ScalableTag<float>;
using Floats = hn::Vec<FloatTag>;

/// A whole vector in memory, of any alignment.
struct FullBlock {
  HWY_INLINE Floats load(const float* from) const { return hn::LoadU(FloatTag(), from); }
  HWY_INLINE Floats load_or(const float* from, Floats) const { return load(from); }
  HWY_INLINE void store(Floats value, float* to) const { hn::StoreU(value, FloatTag(), to); }
};

/// The last `count` < Lanes elements: nothing beyond them is read or written; missing lanes load as 0.
class PartialBlock {
 public:
  explicit HWY_INLINE PartialBlock(std::int64_t count) : count_(static_cast<std::size_t>(count)) {}

#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
  HWY_INLINE Floats load(const float* from) const {
    return hn::MaskedLoad(mask(), FloatTag(), from);
  }
  HWY_INLINE void store(Floats value, float* to) const {
    hn::BlendedStore(value, mask(), FloatTag(), to);
  }
#else
  // Other targets' masked accesses may touch the whole vector's memory.
  HWY_INLINE Floats load(const float* from) const {
    HWY_ALIGN float lanes[hn::MaxLanes(FloatTag())] = {};
    memcpy(lanes, from, count_ * sizeof(float));
    return hn::Load(FloatTag(), lanes);
  }
  HWY_INLINE void store(Floats value, float* to) const {
    HWY_ALIGN float lanes[hn::MaxLanes(FloatTag())];
    hn::Store(value, FloatTag(), lanes);
    memcpy(to, lanes, count_ * sizeof(float));
  }
#endif
  HWY_INLINE Floats load_or(const float* from, Floats missing) const {
    return hn::IfThenElse(mask(), load(from), missing);
  }

 private:
  HWY_INLINE hn::Mask<FloatTag> mask() const {
    return hn::FirstN(FloatTag(), count_);
  }

  std::size_t count_;
};

/// Calls body(block, offset, chain) for each vector of n floats, `kUnroll` of them in one turn; `chain` is
/// the place within the turn, a constant after inlining: the index of an independent accumulator.
template <int kUnroll, class Body>
HWY_INLINE void for_blocks(std::int64_t n, const Body& body) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(FloatTag()));
  std::int64_t i = 0;
  if constexpr (kUnroll > 1) {
    for (; i + kUnroll * lanes <= n; i += kUnroll * lanes) {
      body(FullBlock(), i, 0);
      body(FullBlock(), i + lanes, 1);
      if constexpr (kUnroll == 4) {
        body(FullBlock(), i + 2 * lanes, 2);
        body(FullBlock(), i + 3 * lanes, 3);
      }
    }
  }
  for (; i + lanes <= n; i += lanes) body(FullBlock(), i, 0);
  if (i < n) body(PartialBlock(n - i), i, 1 % kUnroll);
}

/// The sum over four accumulators and their lanes.
HWY_INLINE float sum_chains(const Floats (&chains)[4]) {
  const Floats sum = hn::Add(hn::Add(chains[0], chains[1]), hn::Add(chains[2], chains[3]));
  return hn::GetLane(hn::SumOfLanes(FloatTag(), sum));
}

/// Asks for every cache line of `bytes` at `address`; a null address is fine. Into the second-level cache,
/// which may have several times as many lines on their way as the first: rows from memory then come up to
/// twice as fast, while rows that are cached lose a tenth.
HWY_INLINE void prefetch_bytes(const void* address, std::int64_t bytes) {
  const auto* line = static_cast<const char*>(address);
  for (std::int64_t offset = 0; offset < bytes; offset += 64) __builtin_prefetch(line + offset, 0, 2);
}

/// How many rows ahead to prefetch: about 8 KiB, enough to cover a memory access at full bandwidth.
HWY_INLINE std::int64_t prefetch_distance(std::int64_t row_bytes) {
  const std::int64_t rows = 8192 / HWY_MAX(row_bytes, std::int64_t{1});
  return HWY_MIN(HWY_MAX(rows, std::int64_t{1}), std::int64_t{32});
}

}  // namespace troupe::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
