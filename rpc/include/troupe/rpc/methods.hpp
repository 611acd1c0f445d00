#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <unordered_map>
#include <utility>

#include <troupe/rpc/call.hpp>
#include <troupe/rpc/future.hpp>

namespace troupe::rpc {

/// What a handler may want to know of the call it answers; a handler gets it by taking a
/// `const CallContext&` as its first parameter.
struct CallContext {
  SessionId session = kLocal;  ///< who calls
  TimePoint deadline;          ///< when the caller stops waiting, in the loop's clock
  TraceContext trace;
};

/// The methods of an actor whose state's type is forgotten. Immutable once built; share it freely.
class MethodTable {
 public:
  struct Entry {
    std::string name;
    std::string signature_text;
    std::uint64_t signature;
    std::function<void(void* state, InboundCallPtr call)> invoke;
  };

  /// Precondition: no method of this name yet.
  void add(Entry entry);
  /// Runs the method that the call names on `state`, unless the call is cancelled already.
  /// kUnimplemented: there is none, the message lists
  /// those there are. kInvalidArgument: other types than the method's, the message says which it wants.
  void invoke(void* state, InboundCallPtr call) const;
  const Entry* find(std::uint64_t name_hash) const;
  std::string names() const;  ///< "add, pull, push"

 private:
  std::unordered_map<std::uint64_t, Entry> entries_;
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

/// The value type that a handler's return type stands for: T of T, Result<T> and Future<T>.
template <class R>
struct ReturnValue {
  using Type = R;
};
template <class T>
struct ReturnValue<Result<T>> {
  using Type = T;
};
template <class T>
struct ReturnValue<Future<T>> {
  using Type = T;
};

template <class T>
void reply_result(InboundCall& call, const Result<T>& result) {
  if (!result)
    call.reply_error(result.error());
  else if constexpr (std::is_void_v<T>)
    call.reply_void();
  else
    call.reply(*result);
}

template <class T>
void reply_return(InboundCallPtr call, const T& value) {
  call->reply(value);
}
template <class T>
void reply_return(InboundCallPtr call, const Result<T>& result) {
  reply_result(*call, result);
}
template <class T>
void reply_return(InboundCallPtr call, Future<T> future) {
  future.then([call = std::move(call)](Result<T> result) { reply_result(*call, result); });
}

/// Decodes a call's arguments, runs `handler(context?, arguments...)`, answers.
template <class R, class... P>
struct Invoker {
  template <class Handler>
  static void run(Handler&& handler, InboundCallPtr call) {
    try {
      std::tuple<std::decay_t<P>...> arguments{};
      if (auto decoded = decode(*call, arguments, std::index_sequence_for<P...>{}); !decoded)
        return call->reply_error(decoded.error());
      if constexpr (std::is_void_v<R>) {
        std::apply(handler, std::move(arguments));
        call->reply_void();
      } else {
        decltype(auto) value = std::apply(handler, std::move(arguments));
        reply_return(std::move(call), value);
      }
    } catch (...) {
      if (call) call->reply_error(current_exception_error("the handler"));
    }
  }

 private:
  template <class Tuple, std::size_t... I>
  static Result<void> decode(const InboundCall& call, Tuple& arguments, std::index_sequence<I...>) {
    const InMessage& message = call.message();
    if (message.value_count() != sizeof...(P))
      return Error{Code::kInvalidArgument, "takes " + std::to_string(sizeof...(P)) + " arguments, not " +
                                               std::to_string(message.value_count())};
    int wrong = -1;
    (void)((Codec<std::decay_t<P>>::decode(message.value(I), std::get<I>(arguments)) || (wrong = I, false)) &&
           ...);
    if (wrong < 0) return {};
    const std::string names[] = {Codec<std::decay_t<P>>::name()..., ""};
    return Error{Code::kInvalidArgument,
                 "argument " + std::to_string(wrong + 1) + " is to be " + names[wrong] + ", not " +
                     std::string(to_string(message.value(static_cast<std::uint32_t>(wrong)).kind()))};
  }
};

template <class R, class Parameters>
struct Entries;
template <class R, class... P>
struct Entries<R, std::tuple<P...>> {
  template <class Bind>
  static MethodTable::Entry make(std::string name, Bind bind) {
    using Value = typename ReturnValue<R>::Type;
    return {std::move(name), signature_text<Value, std::decay_t<P>...>(),
            signature_fingerprint<Value, std::decay_t<P>...>(), [bind](void* state, InboundCallPtr call) {
              const CallContext context{call->session(), call->deadline(), call->header().trace};
              Invoker<R, P...>::run(
                  [&](auto&&... arguments) -> R { return bind(state, context, std::move(arguments)...); },
                  std::move(call));
            }};
  }
};
template <class R, class... P>
struct Entries<R, std::tuple<const CallContext&, P...>> : Entries<R, std::tuple<P...>> {};

template <class Tuple>
inline constexpr bool takes_context = false;
template <class... P>
inline constexpr bool takes_context<std::tuple<const CallContext&, P...>> = true;

}  // namespace detail

/// The methods of an actor with a state of type State, typed from C++ signatures.
///
///     Methods<Counter> methods;
///     methods.add("add", &Counter::add)
///            .add("reset", [](Counter& c) { c.value = 0; });
///
/// A method returns a value, nothing, a Result, or a Future for an answer that comes later. Its
/// parameters are taken by value or const reference; exceptions it throws become kInternal errors.
template <class State>
class Methods {
 public:
  template <class R, class C, class... P>
  requires std::is_base_of_v<C, State> Methods& add(std::string name, R (C::*method)(P...)) {
    return add_member<R, std::tuple<P...>>(std::move(name), method);
  }
  template <class R, class C, class... P>
  requires std::is_base_of_v<C, State> Methods& add(std::string name, R (C::*method)(P...) const) {
    return add_member<R, std::tuple<P...>>(std::move(name), method);
  }
  /// A lambda whose first parameter is State&.
  template <class F>
  requires(!std::is_member_function_pointer_v<F>) Methods& add(std::string name, F handler) {
    using Traits = detail::HandlerTraits<F>;
    add_lambda<typename Traits::Return>(std::move(name), std::move(handler),
                                        static_cast<typename Traits::Parameters*>(nullptr));
    return *this;
  }

  std::shared_ptr<const MethodTable> table() const { return table_; }

 private:
  template <class R, class Parameters, class Method>
  Methods& add_member(std::string name, Method method) {
    table_->add(detail::Entries<R, Parameters>::make(
        std::move(name), [method](void* state, const CallContext& context, auto&&... arguments) -> R {
          auto& self = *static_cast<State*>(state);
          if constexpr (detail::takes_context<Parameters>)
            return (self.*method)(context, std::move(arguments)...);
          else
            return (self.*method)(std::move(arguments)...);
        }));
    return *this;
  }
  template <class R, class F, class First, class... P>
  void add_lambda(std::string name, F handler, std::tuple<First, P...>*) {
    static_assert(std::is_same_v<std::remove_cvref_t<First>, State>,
                  "a handler's first parameter is the state");
    table_->add(detail::Entries<R, std::tuple<P...>>::make(
        std::move(name), [handler](void* state, const CallContext& context, auto&&... arguments) -> R {
          auto& self = *static_cast<State*>(state);
          if constexpr (detail::takes_context<std::tuple<P...>>)
            return handler(self, context, std::move(arguments)...);
          else
            return handler(self, std::move(arguments)...);
        }));
  }

  std::shared_ptr<MethodTable> table_ = std::make_shared<MethodTable>();
};

}  // namespace troupe::rpc
