#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <troupe/runtime/result.hpp>
#include <troupe/training/weight_stream.hpp>

namespace troupe::training {

/// Where the tensors of a version lie in its memory, one after the other.
struct WeightLayout {
  static constexpr std::size_t kMostTensors = 65'536;
  static constexpr std::size_t kLongestName = 1024;
  static constexpr std::uint64_t kMostBytes = std::uint64_t{1} << 40;
  static constexpr std::uint64_t kAlignment = 64;
  static constexpr std::uint64_t kMostPieces = std::uint64_t{1} << 21;

  std::vector<WeightSpec> specs;
  std::vector<std::uint64_t> offsets;  ///< of each tensor
  std::uint64_t bytes = 0;

  /// kInvalidArgument: what can be no stream's.
  static Result<std::shared_ptr<const WeightLayout>> of(std::vector<WeightSpec> specs);

  /// How many pieces of so many bytes a version has; 0 if they are not counted, or too many.
  std::uint64_t pieces(std::uint64_t piece_bytes) const;
  std::uint64_t bytes_of(std::size_t tensor) const;
  /// kNotFound.
  Result<std::size_t> find(std::string_view name) const;
  /// BadTensor: no such index. Precondition: `slab` has `bytes`.
  Tensor tensor(std::size_t index, const Buffer& slab) const;
};

/// One version: memory that is not written any more.
struct WeightVersion {
  std::shared_ptr<const WeightLayout> layout;
  std::uint64_t generation = 0;
  std::uint64_t number = 0;
  std::map<std::string, std::string> metadata;
  Buffer slab;
  /// In which version each piece was changed last, or later; empty: nobody has looked.
  std::vector<std::uint64_t> changed_in;
};

using WeightVersionPtr = std::shared_ptr<const WeightVersion>;

}  // namespace troupe::training
