#pragma once

#include <cstdint>
#include <string_view>
#include <tuple>
#include <type_traits>

#include <troupe/rpc/call_context.hpp>
#include <troupe/rpc/future.hpp>

namespace troupe::rpc {

/// A method as both sides know it, written once in a header that they share:
///
///     inline constexpr rpc::Function<double(std::string, std::int64_t)> kMean{"mean", 5s};
///
/// The callee registers it (`methods.add(kMean, &Shard::mean)`, which compiles only for these types), callers
/// call it (`node->rpc_sync("shard", kMean, "weights", 3)`, whose arguments are converted to these types).
/// The timeout is that of calls which say none of their own.
template <class Signature>
struct Function;
template <class R, class... P>
struct Function<R(P...)> {
  static_assert((std::is_same_v<P, std::decay_t<P>> && ...), "parameters travel as values");
  static constexpr std::uint64_t kSignature = signature_fingerprint<R, P...>();

  std::string_view name;
  Duration timeout = kDefaultTimeout;

  CallOptions options(CallOptions own) const {
    if (own.timeout == kDefaultTimeout) own.timeout = timeout;
    return own;
  }
};

namespace detail {

template <class F>
struct HandlerTraits : HandlerTraits<decltype(&F::operator())> {};
template <class C, class R, class... P>
struct HandlerTraits<R (C::*)(P...)> {
  using Return = R;
  using Parameters = std::tuple<P...>;
};
template <class C, class R, class... P>
struct HandlerTraits<R (C::*)(P...) const> : HandlerTraits<R (C::*)(P...)> {};
template <class C, class R, class... P>
struct HandlerTraits<R (C::*)(P...) noexcept> : HandlerTraits<R (C::*)(P...)> {};
template <class C, class R, class... P>
struct HandlerTraits<R (C::*)(P...) const noexcept> : HandlerTraits<R (C::*)(P...)> {};
template <class R, class... P>
struct HandlerTraits<R (*)(P...)> {
  using Return = R;
  using Parameters = std::tuple<P...>;
};
template <class R, class... P>
struct HandlerTraits<R (*)(P...) noexcept> : HandlerTraits<R (*)(P...)> {};

/// The fingerprint of a handler that returns R and takes these parameters.
template <class R, class Parameters>
struct HandlerSignature;
template <class R, class... P>
struct HandlerSignature<R, std::tuple<P...>> {
  static constexpr std::uint64_t kValue =
      signature_fingerprint<typename ReturnValue<R>::Type, std::decay_t<P>...>();
};
template <class R, class... P>
struct HandlerSignature<R, std::tuple<const CallContext&, P...>> : HandlerSignature<R, std::tuple<P...>> {};

/// Parameters without the first, the state.
template <class Parameters>
struct WithoutState;
template <class State, class... P>
struct WithoutState<std::tuple<State, P...>> {
  using Type = std::tuple<P...>;
};

}  // namespace detail
}  // namespace troupe::rpc
