#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <troupe/runtime/result.hpp>
#include <troupe/runtime/tensor.hpp>

/// Types that are known at run time only: those of callers and callees that are not written in C++.
namespace troupe::rpc {

/// A type as Codec<T>::name() writes it: bool; int8 ... uint64; float32, float64; string; bytes; enum;
/// tensor, tensor<float32>, tensor<float32, 2>; vector<T>, optional<T>, pair<A, B>, tuple<...>, map<K, V>. A
/// struct with Fields, which has only its name there, is written with its fields' types: Point{float64,
/// float64}.
struct AnyType {
  enum class Kind : std::uint8_t {
    kVoid,  ///< of results
    kBool,
    kInteger,
    kFloat,
    kString,
    kBytes,
    kEnum,
    kTensor,
    kNumbers,  ///< a vector of numbers, which travels as one packed piece
    kVector,   ///< of anything else
    kOptional,
    kTuple,  ///< pairs, too
    kStruct,
    kMap,
  };
  static constexpr std::size_t kMaxDepth = 8;

  Kind kind = Kind::kVoid;
  /// Of integers, floats and numbers; of tensors, if the type says so.
  std::optional<DType> dtype = {};
  std::optional<std::size_t> rank = {};  ///< of tensors, if the type says so
  std::vector<AnyType> items = {};       ///< what it is made of
  std::string name = {};                 ///< of a struct

  /// What Codec<T>::fingerprint() is of the same type.
  std::uint64_t fingerprint() const;
  std::string to_string() const;

  /// kInvalidArgument: what is wrong, and where.
  static Result<AnyType> parse(std::string_view text);

  friend bool operator==(const AnyType&, const AnyType&) = default;
};

/// "(tensor, int64) -> tensor", as signature_text() writes it.
struct AnySignature {
  std::vector<AnyType> parameters;
  AnyType result;

  /// What signature_fingerprint() is of the same types.
  std::uint64_t fingerprint() const;
  std::string to_string() const;

  static Result<AnySignature> parse(std::string_view text);

  friend bool operator==(const AnySignature&, const AnySignature&) = default;
};

}  // namespace troupe::rpc
