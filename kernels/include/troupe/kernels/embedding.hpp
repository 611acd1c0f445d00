#pragma once

#include <cstddef>
#include <cstdint>

#include <troupe/kernels/place.hpp>

/// A dense embedding: rows of a table, by number, and their gradients. Without gaps; ids are below `rows`.
namespace troupe::kernels {

/// out[i, :] = row ids[i] of the table [rows, dim], as float32. ids are not negative.
Launch embedding(Place place, Element element, const void* table, const std::int64_t* ids, std::int64_t count,
                 std::int64_t dim, float* out);

/// Bytes that embedding_backward() needs, given the same; 0 on the host.
std::size_t embedding_workspace(Place place, const float* out_gradients, std::int64_t count,
                                std::int64_t rows, std::int64_t dim, const float* table_gradients);

/// table_gradients[ids[i], :] += out_gradients[i, :]; what comes more than once is added up in an order that
/// depends on the arguments alone. ids are not negative. `workspace` is 512-byte aligned.
Launch embedding_backward(Place place, const std::int64_t* ids, const float* out_gradients,
                          std::int64_t count, std::int64_t rows, std::int64_t dim, float* table_gradients,
                          void* workspace, std::size_t workspace_bytes);

}  // namespace troupe::kernels
