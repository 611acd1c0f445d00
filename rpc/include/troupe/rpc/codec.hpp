#pragma once

#include <concepts>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

#include <troupe/rpc/value.hpp>
#include <troupe/runtime/tensor_of.hpp>

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

/// Vectors of numbers are one packed blob.
template <Number T>
struct Codec<std::vector<T>> {
  static constexpr DType kWidth = detail::number_dtype<T>();
  static std::string name() { return "vector<" + Codec<T>::name() + ">"; }
  static constexpr std::uint64_t fingerprint() {
    return detail::mix(fnv1a("numbers"), static_cast<std::uint64_t>(kWidth));
  }
  static void encode(ValueWriter out, const std::vector<T>& value) {
    out.numbers(kWidth, std::as_bytes(std::span(value)));
  }
  static bool decode(const ValueReader& in, std::vector<T>& value) {
    std::span<const std::byte> bytes;
    if (!in.read_numbers(kWidth, bytes) || bytes.size() % sizeof(T) != 0) return false;
    value.resize(bytes.size() / sizeof(T));
    if (!bytes.empty()) std::memcpy(value.data(), bytes.data(), bytes.size());
    return true;
  }
};

template <class T>
requires(!Number<T> && !std::is_same_v<T, std::byte>) struct Codec<std::vector<T>> {
  static std::string name() { return "vector<" + Codec<T>::name() + ">"; }
  static constexpr std::uint64_t fingerprint() {
    return detail::mix(fnv1a("vector"), Codec<T>::fingerprint());
  }
  static void encode(ValueWriter out, const std::vector<T>& value) {
    out.list(value.size());
    for (std::uint32_t i = 0; i < value.size(); ++i) Codec<T>::encode(out.item(i), value[i]);
  }
  static bool decode(const ValueReader& in, std::vector<T>& value) {
    ValueList list;
    if (!in.read(list)) return false;
    value.clear();
    for (std::uint32_t i = 0; i < list.size(); ++i) {
      T item{};
      if (!Codec<T>::decode(list[i], item)) return false;
      value.push_back(std::move(item));
    }
    return true;
  }
};

template <class T>
struct Codec<std::optional<T>> {
  static std::string name() { return "optional<" + Codec<T>::name() + ">"; }
  static constexpr std::uint64_t fingerprint() {
    return detail::mix(fnv1a("optional"), Codec<T>::fingerprint());
  }
  static void encode(ValueWriter out, const std::optional<T>& value) {
    if (value)
      Codec<T>::encode(out, *value);
    else
      out.none();
  }
  static bool decode(const ValueReader& in, std::optional<T>& value) {
    if (in.kind() == ValueKind::kNone) {
      value.reset();
      return true;
    }
    return Codec<T>::decode(in, value.emplace());
  }
};

namespace detail {
/// Several values as one list.
template <class... T>
struct ListCodec {
  static std::string names() {
    std::string text;
    ((text += (text.empty() ? "" : ", ") + Codec<T>::name()), ...);
    return text;
  }
  static constexpr std::uint64_t fingerprint(std::uint64_t seed) {
    ((seed = mix(seed, Codec<T>::fingerprint())), ...);
    return seed;
  }
  static void encode(ValueWriter out, const T&... values) {
    out.list(sizeof...(T));
    [[maybe_unused]] std::uint32_t i = 0;
    (Codec<T>::encode(out.item(i++), values), ...);
  }
  static bool decode(const ValueReader& in, T&... values) {
    ValueList list;
    [[maybe_unused]] std::uint32_t i = 0;
    return in.read(list) && list.size() == sizeof...(T) && (Codec<T>::decode(list[i++], values) && ...);
  }
};
}  // namespace detail

template <class A, class B>
struct Codec<std::pair<A, B>> {
  using List = detail::ListCodec<A, B>;
  static std::string name() { return "pair<" + List::names() + ">"; }
  static constexpr std::uint64_t fingerprint() { return List::fingerprint(fnv1a("tuple")); }
  static void encode(ValueWriter out, const std::pair<A, B>& value) {
    List::encode(out, value.first, value.second);
  }
  static bool decode(const ValueReader& in, std::pair<A, B>& value) {
    return List::decode(in, value.first, value.second);
  }
};

template <class... T>
struct Codec<std::tuple<T...>> {
  using List = detail::ListCodec<T...>;
  static std::string name() { return "tuple<" + List::names() + ">"; }
  static constexpr std::uint64_t fingerprint() { return List::fingerprint(fnv1a("tuple")); }
  static void encode(ValueWriter out, const std::tuple<T...>& value) {
    std::apply([&](const T&... items) { List::encode(out, items...); }, value);
  }
  static bool decode(const ValueReader& in, std::tuple<T...>& value) {
    return std::apply([&](T&... items) { return List::decode(in, items...); }, value);
  }
};

namespace detail {
template <class Map>
struct MapCodec {
  using Key = typename Map::key_type;
  using Item = typename Map::mapped_type;
  static std::string name() { return "map<" + Codec<Key>::name() + ", " + Codec<Item>::name() + ">"; }
  static constexpr std::uint64_t fingerprint() {
    return mix(mix(fnv1a("map"), Codec<Key>::fingerprint()), Codec<Item>::fingerprint());
  }
  static void encode(ValueWriter out, const Map& value) {
    out.list(value.size());
    std::uint32_t i = 0;
    for (const auto& [key, item] : value) ListCodec<Key, Item>::encode(out.item(i++), key, item);
  }
  static bool decode(const ValueReader& in, Map& value) {
    ValueList list;
    if (!in.read(list)) return false;
    value.clear();
    for (std::uint32_t i = 0; i < list.size(); ++i) {
      Key key{};
      Item item{};
      if (!ListCodec<Key, Item>::decode(list[i], key, item)) return false;
      value.emplace(std::move(key), std::move(item));
    }
    return true;
  }
};
}  // namespace detail

template <class K, class V>
struct Codec<std::map<K, V>> : detail::MapCodec<std::map<K, V>> {};
template <class K, class V>
struct Codec<std::unordered_map<K, V>> : detail::MapCodec<std::unordered_map<K, V>> {};

template <HasFields T>
struct Codec<T> {
  static std::string name() { return std::string(Fields<T>::name); }
  static constexpr std::uint64_t fingerprint() {
    return std::apply(
        [](auto... field) {
          std::uint64_t seed = fnv1a(Fields<T>::name);
          ((seed = detail::mix(
                seed, Codec<std::remove_cvref_t<decltype(std::declval<T&>().*field)>>::fingerprint())),
           ...);
          return seed;
        },
        Fields<T>::fields);
  }
  static void encode(ValueWriter out, const T& value) {
    std::apply(
        [&](auto... field) {
          detail::ListCodec<std::remove_cvref_t<decltype(value.*field)>...>::encode(out, value.*field...);
        },
        Fields<T>::fields);
  }
  static bool decode(const ValueReader& in, T& value) {
    return std::apply(
        [&](auto... field) {
          return detail::ListCodec<std::remove_cvref_t<decltype(value.*field)>...>::decode(in,
                                                                                           value.*field...);
        },
        Fields<T>::fields);
  }
};

/// The type as which an argument of type T travels: references and const do not matter, literals are
/// strings.
template <class T>
using WireType =
    std::conditional_t<std::is_convertible_v<std::decay_t<T>, const char*>, std::string, std::decay_t<T>>;

/// The fingerprint that caller and callee compare: of the result and parameter types, in order.
template <class R, class... Args>
constexpr std::uint64_t signature_fingerprint() {
  std::uint64_t seed;
  if constexpr (std::is_void_v<R>)
    seed = fnv1a("void");
  else
    seed = Codec<R>::fingerprint();
  seed = detail::ListCodec<Args...>::fingerprint(seed);
  return seed == 0 ? 1 : seed;
}

/// "(tensor, int64) -> tensor".
template <class R, class... Args>
std::string signature_text() {
  std::string result = "void";
  if constexpr (!std::is_void_v<R>) result = Codec<R>::name();
  return "(" + detail::ListCodec<Args...>::names() + ") -> " + result;
}

}  // namespace troupe::rpc
