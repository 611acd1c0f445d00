#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <troupe/runtime/tensor.hpp>

namespace troupe::shards {

/// How many numbers a state field keeps for a row.
enum class Extent : std::uint8_t {
  kOne,  ///< one for the whole row
  kDim,  ///< one for each weight
};

/// What an optimizer keeps beside a row's weights under one name.
struct StateField {
  std::string name;  ///< as checkpoints call it
  Extent extent = Extent::kDim;
  float first_value = 0;          ///< of every number in a new row
  DType dtype = DType::kFloat32;  ///< float32 is all that there is: sums of squares need its range
  friend bool operator==(const StateField&, const StateField&) = default;
};

/// A row and its optimizer state as one record: [weights, dim][field 0][field 1]... Weights of two bytes are
/// padded to a multiple of four, so that the state is aligned. Read, stepped, moved and saved together.
struct RowLayout {
  DType weights = DType::kFloat32;  ///< float32, float16 or bfloat16
  std::uint64_t dim = 0;
  std::vector<StateField> state;

  /// Numbers of field `index` in a row.
  std::uint64_t extent(std::size_t index) const { return state[index].extent == Extent::kDim ? dim : 1; }
  std::size_t weight_bytes() const { return static_cast<std::size_t>(dim) * size_of(weights); }
  /// Where the state begins in a record.
  std::size_t state_offset() const { return (weight_bytes() + 3) / 4 * 4; }
  std::uint64_t state_floats() const;
  /// Where field `index` begins in a record.
  std::size_t field_offset(std::size_t index) const;
  /// Of a record.
  std::size_t bytes() const {
    return state_offset() + static_cast<std::size_t>(state_floats()) * sizeof(float);
  }

  friend bool operator==(const RowLayout&, const RowLayout&) = default;
};

/// Rows on their way between stores, shards and files.
struct RowBatch {
  std::vector<std::uint64_t> keys;
  std::vector<std::byte> records;  ///< [keys, layout.bytes()]

  void clear() {
    keys.clear();
    records.clear();
  }
};

}  // namespace troupe::shards
