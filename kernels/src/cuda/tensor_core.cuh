#pragma once

#include "cuda/device.cuh"

/// Products of small tiles of 16 bits by a warp, mma.m16n8k16 of the PTX manual. Of a tile with 16 rows and 8
/// columns a lane has the elements at rows lane / 4 and lane / 4 + 8, columns 2 * (lane % 4) and one more:
/// v[0], v[1] of the first row, v[2], v[3] of the second.
namespace troupe::kernels::gpu {

struct Accumulator {
  float v[4];
};
/// 16 rows and 16 columns as the left factor.
struct LeftTile {
  unsigned v[4];
};
/// 16 rows and 8 columns as the right factor.
struct RightTile {
  unsigned v[2];
};
struct TwoRightTiles {
  RightTile first, second;
};

template <Element element>
__device__ __forceinline__ void multiply_tiles(Accumulator& sum, const LeftTile& a, const RightTile& b) {
  if constexpr (element == Element::kFloat16)
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(sum.v[0]), "+f"(sum.v[1]), "+f"(sum.v[2]), "+f"(sum.v[3])
        : "r"(a.v[0]), "r"(a.v[1]), "r"(a.v[2]), "r"(a.v[3]), "r"(b.v[0]), "r"(b.v[1]));
  else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(sum.v[0]), "+f"(sum.v[1]), "+f"(sum.v[2]), "+f"(sum.v[3])
        : "r"(a.v[0]), "r"(a.v[1]), "r"(a.v[2]), "r"(a.v[3]), "r"(b.v[0]), "r"(b.v[1]));
}

/// Two numbers of 16 bits, the first in the lower half.
template <Element element>
__device__ __forceinline__ unsigned pack(float low, float high) {
  // One instruction; float16 alone has numbers that a float32 easily is too large for.
  if constexpr (element == Element::kBFloat16) {
    unsigned both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
  }
  return static_cast<unsigned>(float_to_half(element, low)) |
         static_cast<unsigned>(float_to_half(element, high)) << 16;
}

/// A left factor of two accumulators that lie beside each other.
template <Element element>
__device__ __forceinline__ LeftTile left_of(const Accumulator& a, const Accumulator& b) {
  return {{pack<element>(a.v[0], a.v[1]), pack<element>(a.v[2], a.v[3]), pack<element>(b.v[0], b.v[1]),
           pack<element>(b.v[2], b.v[3])}};
}

/// 2^x, to some units in the last place.
__device__ __forceinline__ float power_of_two(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
}

/// Ends what copy_later() has begun since the last one as a group of copies.
__device__ __forceinline__ void end_group() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
/// Waits until all groups but the last are there, for this thread; others' copies are seen after a barrier.
__device__ __forceinline__ void wait_for_all_but_last() {
  asm volatile("cp.async.wait_group 1;" ::: "memory");
}

/// Rows of 16 bits in shared memory, `columns` of them used, with room for eight more so that neither rows
/// nor columns of lanes meet in a bank.
template <int columns>
struct SharedRows {
  static constexpr int kStride = columns + 8;
  std::uint16_t* at;

  static constexpr int bytes(int rows) { return rows * kStride * 2; }

  __device__ __forceinline__ unsigned address(int row, int column) const {
    return static_cast<unsigned>(__cvta_generic_to_shared(at + row * kStride + column));
  }
  // Four matrices of 8 rows and 8 columns are loaded at once: lanes 8 m ... 8 m + 7 say where the rows of the
  // m-th lie, and each lane gets two elements of its row lane / 4, or of the transpose's.

  /// Rows [row, row + 16), columns [column, column + 16).
  __device__ __forceinline__ LeftTile left(int row, int column) const {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    LeftTile tile;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(tile.v[0]), "=r"(tile.v[1]), "=r"(tile.v[2]), "=r"(tile.v[3])
                 : "r"(address(row + lane % 16, column + lane / 16 * 8)));
    return tile;
  }
  /// The transpose of rows [row, row + 8), columns [column, column + 16) and the 16 behind these.
  __device__ __forceinline__ TwoRightTiles right_transposed(int row, int column) const {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    TwoRightTiles two;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(two.first.v[0]), "=r"(two.first.v[1]), "=r"(two.second.v[0]), "=r"(two.second.v[1])
                 : "r"(address(row + lane % 8, column + lane / 8 * 8)));
    return two;
  }
  /// Rows [row, row + 16), columns [column, column + 8) and the 8 behind these.
  __device__ __forceinline__ TwoRightTiles right(int row, int column) const {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    TwoRightTiles two;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(two.first.v[0]), "=r"(two.first.v[1]), "=r"(two.second.v[0]), "=r"(two.second.v[1])
                 : "r"(address(row + lane % 16, column + lane / 16 * 8)));
    return two;
  }
  /// As fill(), but the threads go on meanwhile: end_group() comes after it.
  template <int threads>
  __device__ __forceinline__ void copy_later(const std::uint16_t* from, std::int64_t stride,
                                             std::int64_t first, int rows, std::int64_t length) const {
    constexpr int kPieces = columns / 8;  // of 16 bytes
    for (int i = static_cast<int>(threadIdx.x); i < rows * kPieces; i += threads) {
      const int row = i / kPieces;
      const int column = i % kPieces * 8;
      const bool there = first + row < length;
      const std::uint16_t* const piece = from + (there ? (first + row) * stride : 0) + column;
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address(row, column)), "l"(piece),
                   "r"(there ? 16 : 0)
                   : "memory");
    }
  }
  /// Fills `rows` of them, by all `threads`, from rows [first, first + rows) of a matrix of which there are
  /// `length`; what is past these is zeros.
  template <int threads>
  __device__ __forceinline__ void fill(const std::uint16_t* from, std::int64_t stride, std::int64_t first,
                                       int rows, std::int64_t length) const {
    constexpr int kPieces = columns / 8;  // of 16 bytes
    for (int i = static_cast<int>(threadIdx.x); i < rows * kPieces; i += threads) {
      const int row = i / kPieces;
      const int column = i % kPieces * 8;
      uint4 piece = make_uint4(0, 0, 0, 0);
      if (first + row < length)
        piece = *reinterpret_cast<const uint4*>(from + (first + row) * stride + column);
      *reinterpret_cast<uint4*>(at + row * kStride + column) = piece;
    }
  }
};

}  // namespace troupe::kernels::gpu
