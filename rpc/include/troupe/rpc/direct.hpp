#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <troupe/rpc/codec.hpp>
#include <troupe/rpc/message.hpp>
#include <troupe/runtime/tensor.hpp>

/// Calls to an actor of the same node pass values as they are, if both sides mean exactly the same types.
namespace troupe::rpc {
class ReplySink;
}
namespace troupe::rpc::detail {

/// As what an argument or a result is kept: views own what they saw.
template <class T>
using StoredType =
    std::conditional_t<std::is_convertible_v<std::decay_t<T>, std::string_view>, std::string,
                       std::conditional_t<std::is_same_v<std::decay_t<T>, std::span<const std::byte>>,
                                          std::vector<std::byte>, std::decay_t<T>>>;

template <class T>
inline constexpr bool is_tensor_of = false;
template <class T, std::size_t Rank>
inline constexpr bool is_tensor_of<TensorOf<T, Rank>> = true;
template <class T>
inline constexpr bool is_optional = false;
template <class T>
inline constexpr bool is_optional<std::optional<T>> = true;

/// Calls `visit(Tensor&)`, or const, for each tensor that the value holds, as far as its type shows that it
/// holds any: in containers, tuples and structs with Fields.
template <class T, class Visit>
void for_each_tensor([[maybe_unused]] T& value, [[maybe_unused]] Visit&& visit) {
  using Value = std::remove_const_t<T>;
  if constexpr (std::is_same_v<Value, Tensor>) {
    visit(value);
  } else if constexpr (is_tensor_of<Value>) {
    if constexpr (std::is_invocable_v<Visit&, const Tensor&>) {
      visit(value.tensor());
    } else {
      Tensor tensor = value.tensor();  // dense already: nothing is to be made of it
      visit(tensor);
    }
  } else if constexpr (HasFields<Value>) {
    std::apply([&](auto... field) { (for_each_tensor(value.*field, visit), ...); }, Fields<Value>::fields);
  } else if constexpr (is_optional<Value>) {
    if (value) for_each_tensor(*value, visit);
  } else if constexpr (requires { typename Value::mapped_type; }) {
    for (auto& [key, item] : value) for_each_tensor(item, visit);
  } else if constexpr (requires { value.begin(); }) {
    if constexpr (std::is_class_v<typename Value::value_type>)
      for (auto& item : value) for_each_tensor(item, visit);
  } else if constexpr (requires { std::tuple_size<Value>::value; }) {
    std::apply([&](auto&... each) { (for_each_tensor(each, visit), ...); }, value);
  }
}

/// As it would come from another node: dense. BadResult: strided, in device memory.
void make_as_sent(Tensor& tensor);

/// A copy that owns what the value refers to.
template <class T>
StoredType<T> kept(const T& value) {
  if constexpr (std::is_same_v<T, std::span<const std::byte>>)
    return {value.begin(), value.end()};
  else
    return StoredType<T>(value);
}

/// The same for who is called, or answered, without a message. Errors as of make_as_sent().
template <class T>
StoredType<T> stored(const T& value) {
  StoredType<T> copy = kept(value);
  for_each_tensor(copy, make_as_sent);
  return copy;
}

template <class... T>
struct DirectTag {
  static constexpr char kTag = 0;
};

/// Leases on those tensors of the arguments that lie in a SharedPool.
template <class... Args>
std::vector<SharedLease> leases_of(const Args&... args) {
  std::vector<SharedLease> leases;
  [[maybe_unused]] const auto visit = [&](const Tensor& tensor) {
    if (SharedPool::locate(tensor.buffer())) leases.emplace_back(tensor.buffer());
  };
  (for_each_tensor(args, visit), ...);
  return leases;
}

/// Equal for equal types of result and parameters, and different else, unlike a fingerprint, which stands for
/// what travels. (Types of a shared library may differ from equal ones outside; then a call is encoded.)
template <class R, class... P>
const void* direct_type() {
  return &DirectTag<StoredType<R>, StoredType<P>...>::kTag;
}

/// A call's header and arguments, in place of a message.
struct DirectCall {
  explicit DirectCall(const MessageHeader& call_header) : header(call_header) {}
  virtual ~DirectCall() = default;
  DirectCall(const DirectCall&) = delete;
  DirectCall& operator=(const DirectCall&) = delete;
  virtual std::size_t bytes() const = 0;
  MessageHeader header;
};

/// The memory of a value, for bounds: of containers in containers only what the outermost shows.
template <class T>
std::size_t held_bytes(const T& value) {
  if constexpr (std::is_same_v<T, Tensor>)
    return value.bytes();
  else if constexpr (requires { value.size(), sizeof(*value.data()); })
    return sizeof(T) + value.size() * sizeof(*value.data());
  else
    return sizeof(T);
}

/// Arguments of these types, all of them StoredTypes: copies, so that the callee may do with them as it likes
/// (but dense tensors share their elements, as they do in all copies).
template <class... P>
struct DirectArguments final : DirectCall {
  template <class... Args>
  explicit DirectArguments(const MessageHeader& call_header, const Args&... args)
      : DirectCall(call_header), values(stored(args)...) {}
  std::size_t bytes() const override {
    return std::apply([](const P&... each) { return (sizeof(MessageHeader) + ... + held_bytes(each)); },
                      values);
  }
  std::tuple<P...> values;
};

/// The answer to such a call, on its way to the sink.
class DirectResult {
 public:
  DirectResult() = default;
  virtual ~DirectResult() = default;
  DirectResult(const DirectResult&) = delete;
  DirectResult& operator=(const DirectResult&) = delete;
  /// Once. May end this object.
  virtual void give(ReplySink& sink) = 0;
  virtual Code code() const = 0;
  /// For later: takes what this has.
  virtual std::unique_ptr<DirectResult> keep() = 0;
  /// Null: it is a value.
  virtual const Error* error() const = 0;
};

}  // namespace troupe::rpc::detail
