#pragma once

#include <cstddef>

#include <troupe/shards/communicator.hpp>

namespace troupe::shards {

/// out[i] = a[i] combined with b[i], n elements; `out` may be `a` or `b`. The mean's is the sum.
using Combine = void (*)(void* out, const void* a, const void* b, std::size_t n);

/// Null: these elements cannot be combined so (booleans; means of whole numbers).
/// Elements of 16 bits are combined in float32 and rounded each time.
Combine combine_of(DType dtype, ReduceOp op);

/// What the mean still needs after the sum: each element divided by `members`.
void divide(DType dtype, void* data, std::size_t n, int members);

}  // namespace troupe::shards
