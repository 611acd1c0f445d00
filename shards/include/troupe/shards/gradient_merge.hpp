#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include <troupe/runtime/result.hpp>
#include <troupe/shards/table_spec.hpp>

namespace troupe::shards {

/// What is refused of a push: kInvalidArgument naming the table, the key, the column and the number. `row`:
/// numbers [dim] of which one is NaN or larger than kLargestGradient. `sum`: of several gradients of the key.
Error gradient_error(const TableSpec& spec, std::uint64_t key, const float* row, bool sum);

/// Writes the gradients of rows `first` and up, `rows` of them, to to[rows, dim]. gradient_error() for the
/// first that a table would refuse; what was written then means nothing.
Result<void> copy_gradients(const TableSpec& spec, std::uint64_t first, std::uint64_t rows,
                            const float* gradients, float* to);

/// Makes one gradient of each distinct key of a push, in memory of the caller's, and finds what a table would
/// refuse, in one pass: only keys that come more than once cost a sum. It keeps its scratch: once it has seen
/// its largest push it allocates nothing. One thread at a time.
class GradientMerge {
 public:
  explicit GradientMerge(const TableSpec& spec);
  GradientMerge(GradientMerge&&) noexcept;
  GradientMerge& operator=(GradientMerge&&) noexcept;
  ~GradientMerge();

  /// The distinct ones of `keys`, in order of first occurrence. Valid, as `keys` must be, until run().
  std::span<const std::uint64_t> distinct(std::span<const std::uint64_t> keys);
  /// The gradient of distinct key number `i` is to go to to[dim]. All of them, before run().
  void place(std::size_t i, float* to);
  /// Writes them: gradients[keys, dim], those of one key added in their order. gradient_error() for the first
  /// that is refused, or for a sum; what was written then means nothing.
  Result<void> run(const float* gradients);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace troupe::shards
