#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <troupe/rpc/value.hpp>
#include <troupe/runtime/tensor_of.hpp>

/// How single values travel; codec.hpp has what is made of them.
namespace troupe::rpc {

/// FNV-1a, 64 bits (Fowler, Noll, Vo): names of methods and types on the wire.
constexpr std::uint64_t fnv1a(std::string_view text, std::uint64_t seed = 0xcbf29ce484222325ULL) {
  for (char c : text) seed = (seed ^ static_cast<std::uint8_t>(c)) * 0x100000001b3ULL;
  return seed;
}

/// How a C++ type travels. A specialisation has
///     static std::string name();                       // the type's name in signatures
///     static constexpr std::uint64_t fingerprint();    // equal for equal wire types
///     static void encode(ValueWriter, const T&);
///     static bool decode(const ValueReader&, T&);      // false: not a T
/// User structs need none: see Fields below.
template <class T>
struct Codec;

/// A user's struct travels as the list of its fields once this is specialised:
///     template <> struct troupe::rpc::Fields<Point> {
///       static constexpr std::string_view name = "Point";
///       static constexpr auto fields = std::tuple(&Point::x, &Point::y);
///     };
template <class T>
struct Fields;

template <class T>
concept HasFields = requires {
  Fields<T>::fields;
};

template <class T>
concept Number = std::is_arithmetic_v<T> && !std::is_same_v<T, bool> && sizeof(T) <= 8;

namespace detail {
/// Types like long long have no DType of their own; they travel as the equal-sized fixed-width type.
template <Number T>
constexpr DType number_dtype() {
  if constexpr (std::is_floating_point_v<T>)
    return sizeof(T) == 4 ? DType::kFloat32 : DType::kFloat64;
  else if constexpr (std::is_signed_v<T>)
    return sizeof(T) == 1   ? DType::kInt8
           : sizeof(T) == 2 ? DType::kInt16
           : sizeof(T) == 4 ? DType::kInt32
                            : DType::kInt64;
  else
    return sizeof(T) == 1   ? DType::kUInt8
           : sizeof(T) == 2 ? DType::kUInt16
           : sizeof(T) == 4 ? DType::kUInt32
                            : DType::kUInt64;
}
constexpr std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
  return (a ^ (b + 0x9e3779b97f4a7c15ULL + (a << 6) + (a >> 2))) * 0x100000001b3ULL;
}
}  // namespace detail

template <>
struct Codec<bool> {
  static std::string name() { return "bool"; }
  static constexpr std::uint64_t fingerprint() { return fnv1a("bool"); }
  static void encode(ValueWriter out, bool value) { out.boolean(value); }
  static bool decode(const ValueReader& in, bool& value) { return in.read(value); }
};

template <Number T>
struct Codec<T> {
  static constexpr DType kWidth = detail::number_dtype<T>();
  static std::string name() { return std::string(to_string(kWidth)); }
  /// All integers are one type to callers and callees, all floats another: what counts is that the value
  /// fits, which decode() checks.
  static constexpr std::uint64_t fingerprint() {
    return fnv1a(std::is_floating_point_v<T> ? "float" : "integer");
  }
  static void encode(ValueWriter out, T value) {
    if constexpr (std::is_floating_point_v<T>)
      out.real(value, kWidth);
    else if constexpr (std::is_signed_v<T>)
      out.integer(value, kWidth);
    else
      out.unsigned_integer(value, kWidth);
  }
  static bool decode(const ValueReader& in, T& value) {
    if constexpr (std::is_floating_point_v<T>) {
      double wide;
      if (!in.read_real(wide)) return false;
      value = static_cast<T>(wide);
    } else if constexpr (std::is_signed_v<T>) {
      std::int64_t wide;
      if (!in.read_integer(wide) || wide < std::numeric_limits<T>::min() ||
          wide > std::numeric_limits<T>::max())
        return false;
      value = static_cast<T>(wide);
    } else {
      std::uint64_t wide;
      if (!in.read_unsigned(wide) || wide > std::numeric_limits<T>::max()) return false;
      value = static_cast<T>(wide);
    }
    return true;
  }
};

template <class T>
requires std::is_enum_v<T>
struct Codec<T> {
  using Underlying = std::underlying_type_t<T>;
  static std::string name() { return "enum"; }
  static constexpr std::uint64_t fingerprint() { return fnv1a("enum"); }
  static void encode(ValueWriter out, T value) {
    Codec<Underlying>::encode(out, static_cast<Underlying>(value));
  }
  static bool decode(const ValueReader& in, T& value) {
    Underlying raw;
    if (!Codec<Underlying>::decode(in, raw)) return false;
    value = static_cast<T>(raw);
    return true;
  }
};

template <>
struct Codec<std::string> {
  static std::string name() { return "string"; }
  static constexpr std::uint64_t fingerprint() { return fnv1a("string"); }
  static void encode(ValueWriter out, std::string_view value) { out.text(value); }
  static bool decode(const ValueReader& in, std::string& value) {
    std::string_view text;
    if (!in.read(text)) return false;
    value = std::string(text);
    return true;
  }
};

/// For arguments that are only passed on: a string_view or literal is sent as a string. In a handler's
/// parameters it views the message, which lives as long as the handler runs.
template <>
struct Codec<std::string_view> : Codec<std::string> {
  static bool decode(const ValueReader& in, std::string_view& value) { return in.read(value); }
};
template <>
struct Codec<const char*> : Codec<std::string> {};

/// Raw bytes.
template <>
struct Codec<std::vector<std::byte>> {
  static std::string name() { return "bytes"; }
  static constexpr std::uint64_t fingerprint() { return fnv1a("bytes"); }
  static void encode(ValueWriter out, std::span<const std::byte> value) { out.data(value); }
  static bool decode(const ValueReader& in, std::vector<std::byte>& value) {
    std::span<const std::byte> bytes;
    if (!in.read(bytes)) return false;
    value.assign(bytes.begin(), bytes.end());
    return true;
  }
};

/// Like string_view: views of the caller's bytes, or of the message's in a handler.
template <>
struct Codec<std::span<const std::byte>> : Codec<std::vector<std::byte>> {
  static bool decode(const ValueReader& in, std::span<const std::byte>& value) { return in.read(value); }
};

template <>
struct Codec<Tensor> {
  static std::string name() { return "tensor"; }
  static constexpr std::uint64_t fingerprint() { return fnv1a("tensor"); }
  static void encode(ValueWriter out, const Tensor& value) { out.tensor(value); }
  static bool decode(const ValueReader& in, Tensor& value) { return in.read(value); }
};

/// Travels as a tensor; only one of its dtype and rank is decoded.
template <class T, std::size_t Rank>
struct Codec<TensorOf<T, Rank>> {
  static std::string name() { return TensorOf<T, Rank>::type_name(); }
  static constexpr std::uint64_t fingerprint() {
    return detail::mix(detail::mix(fnv1a("tensor of"), static_cast<std::uint64_t>(dtype_of<T>())), Rank);
  }
  static void encode(ValueWriter out, const TensorOf<T, Rank>& value) { out.tensor(value.tensor()); }
  static bool decode(const ValueReader& in, TensorOf<T, Rank>& value) {
    Tensor tensor;
    if (!in.read(tensor) || !TensorOf<T, Rank>::check(tensor)) return false;
    value = std::move(tensor);
    return true;
  }
};

}  // namespace troupe::rpc
