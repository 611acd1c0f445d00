#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <troupe/rpc/codec_values.hpp>

#include "gil.hpp"

namespace troupe::python {

/// What an annotation says of a value: how it travels, as the codec of the C++ type of the same name writes
/// it (troupe/rpc/codec.hpp). Immutable; any thread.
struct Type : std::enable_shared_from_this<Type> {
  enum class Kind : std::uint8_t {
    kVoid,      ///< no result
    kBool,      ///< bool
    kInteger,   ///< an integer of `width`
    kReal,      ///< a float of `width`
    kText,      ///< std::string: str
    kBytes,     ///< std::vector<std::byte>: bytes
    kTensor,    ///< Tensor: whatever has a buffer or speaks DLPack
    kTensorOf,  ///< TensorOf<width, rank>
    kList,      ///< std::vector
    kOptional,  ///< std::optional
    kTuple,     ///< std::pair, std::tuple
    kMap,       ///< std::map: dict
    kStruct,    ///< a struct with rpc::Fields: a dataclass
    kEnum,      ///< an enum, of `width`
    kNatural,  ///< whatever it is, as a C++ callee of that type wants it; signatures with it are not compared
    kPython,   ///< whatever it is, so that Python gets the same back
  };
  static constexpr std::size_t kAnyRank = SIZE_MAX;

  Kind kind = Kind::kNatural;
  DType width = DType::kInt64;
  std::size_t rank = kAnyRank;
  std::string name = {};                          ///< of a struct
  std::vector<std::shared_ptr<Type>> parts = {};  ///< what it is made of, in order
  std::vector<std::string> fields = {};           ///< of a struct, as many as parts
  Held make = {};  ///< of a struct or enum: makes one. Of a tensor: from a Tensor what the annotation says

  bool is_numbers() const;  ///< a list of numbers, which is one packed blob
  /// Whether no part of it is kNatural: then callers of other types are refused.
  bool is_checked() const;
  /// Of the C++ type. Precondition: is_checked().
  std::uint64_t fingerprint() const;
  std::string text() const;
};
using TypePtr = std::shared_ptr<Type>;

/// A method's name and types.
struct Signature : std::enable_shared_from_this<Signature> {
  Signature(std::string method_name, std::vector<TypePtr> parameter_types, TypePtr result_type);
  std::string name;
  std::vector<TypePtr> parameters;
  TypePtr result;
  std::uint64_t fingerprint;  ///< 0: not compared
  std::string text;           ///< "(tensor, int64) -> tensor"
};

/// The type of what no annotation is there for.
const TypePtr& natural_type();
void bind_types(nb::module_& module);

}  // namespace troupe::python
