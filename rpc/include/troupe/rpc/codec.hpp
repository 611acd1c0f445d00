#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

#include <troupe/rpc/codec_values.hpp>

namespace troupe::rpc {

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
