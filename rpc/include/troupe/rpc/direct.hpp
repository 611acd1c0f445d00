#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

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
StoredType<T> stored(const T& value) {
  if constexpr (std::is_same_v<T, std::span<const std::byte>>)
    return {value.begin(), value.end()};
  else
    return StoredType<T>(value);
}

template <class... T>
struct DirectTag {
  static constexpr char kTag = 0;
};

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
/// (but tensors share their elements, as they do in all copies).
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
