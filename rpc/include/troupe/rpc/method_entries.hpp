#pragma once

#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

#include <troupe/rpc/call_context.hpp>
#include <troupe/rpc/coroutine.hpp>
#include <troupe/rpc/function.hpp>
#include <troupe/rpc/method_table.hpp>
#include <troupe/rpc/off_loop.hpp>

// Entries of a MethodTable, made of C++ functions: arguments are decoded, the function is run in the call's
// name, its result is the answer. For Methods.
namespace troupe::rpc {

namespace detail {
/// Causes of errors to which the caller has more to say: see explain().
inline constexpr std::string_view kTypesDiffer = "types differ";
inline constexpr std::string_view kNoSuchMethod = "no such method";
inline constexpr std::string_view kThereAre = "; there are: ";

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

/// Of a handler that answers later: what it may refer to until then.
template <class Tuple>
struct KeptCall {
  KeptCall(const MethodTable::Target& target, InboundCall& call)
      : state(target.state), table(target.table.shared_from_this()), context(call) {}
  std::shared_ptr<void> state;
  std::shared_ptr<const MethodTable> table;
  CallContext context;
  Tuple arguments{};
};

template <class T, class Kept>
void reply_later(InboundCallPtr call, Future<T> future, std::unique_ptr<Kept> kept) {
  if (!future.ready()) call->await(future.cancellable());
  future.then(
      [call = std::move(call), kept = std::move(kept)](Result<T> result) { reply_result(*call, result); });
}

/// That the argument of this index is not what the method takes.
Error wrong_argument(const InMessage& message, std::uint32_t index, const std::string& wanted);

template <class R>
inline constexpr bool is_future = false;
template <class T>
inline constexpr bool is_future<Future<T>> = true;

/// Decodes a call's arguments, runs `handler(context, arguments...)` in the call's name, answers.
template <class R, class... P>
struct Invoker {
  using Arguments = std::tuple<std::decay_t<P>...>;

  /// Runs `handler` in the target's pool, which it must be safe to copy it to.
  template <class Handler>
  static void run_in_pool(Handler handler, const MethodTable::Target& target, InboundCallPtr call,
                          bool alone) {
    static_assert(!is_future<R>, "a method that runs on the pool returns its answer, not a Future of it");
    try {
      auto kept = std::make_unique<KeptCall<Arguments>>(target, *call);
      if (auto decoded = decode(*call, kept->arguments); !decoded) return call->reply_error(decoded.error());
      const auto apply_it = [handler = std::move(handler)](const CallContext& context,
                                                           Arguments& arguments) -> R {
        return std::apply([&](auto&... each) -> R { return handler(context, static_cast<P&&>(each)...); },
                          arguments);
      };
      using Value = typename ReturnValue<std::decay_t<R>>::Type;
      using Job = PoolJobOf<Value, KeptCall<Arguments>, std::decay_t<decltype(apply_it)>>;
      target.pool->begin(std::make_unique<Job>(std::move(call), std::move(kept), apply_it), alone);
    } catch (...) {
      if (call) call->reply_error(current_exception_error("the handler"));
    }
  }

  template <class Handler>
  static void run(Handler&& handler, const MethodTable::Target& target, InboundCallPtr call) {
    try {
      if constexpr (is_future<R>) {
        auto kept = std::make_unique<KeptCall<Arguments>>(target, *call);
        if (auto decoded = decode(*call, kept->arguments); !decoded)
          return call->reply_error(decoded.error());
        R future = apply(handler, kept->context, *call, kept->arguments);
        reply_later(std::move(call), std::move(future), std::move(kept));
      } else {
        const CallContext context(*call);
        Arguments arguments{};
        if (auto decoded = decode(*call, arguments); !decoded) return call->reply_error(decoded.error());
        if constexpr (std::is_void_v<R>) {
          apply(handler, context, *call, arguments);
          call->reply_void();
        } else {
          decltype(auto) value = apply(handler, context, *call, arguments);
          reply_return(std::move(call), value);
        }
      }
    } catch (...) {
      if (call) call->reply_error(current_exception_error("the handler"));
    }
  }

 private:
  template <class Handler>
  static R apply(Handler& handler, const CallContext& context, const InboundCall& call,
                 Arguments& arguments) {
    const Loop::Context within(*call.loop(), context.active());
    return std::apply([&](auto&... each) -> R { return handler(context, static_cast<P&&>(each)...); },
                      arguments);
  }
  static Result<void> decode(const InboundCall& call, Arguments& arguments) {
    return decode(call, arguments, std::index_sequence_for<P...>{});
  }
  /// From what is kept: the same, or a view of it, for as long as the call.
  template <class T>
  static void take(T& to, StoredType<T>& from) {
    if constexpr (std::is_same_v<T, StoredType<T>>)
      to = std::move(from);
    else
      to = from;
  }
  template <std::size_t... I>
  static Result<void> decode(const InboundCall& call, Arguments& arguments, std::index_sequence<I...>) {
    if (call.direct()) {
      [[maybe_unused]] auto& values = static_cast<DirectArguments<StoredType<P>...>*>(call.direct())->values;
      (take(std::get<I>(arguments), std::get<I>(values)), ...);
      return {};
    }
    const InMessage& message = call.message();
    if (message.value_count() != sizeof...(P))
      return Error{Code::kInvalidArgument, "takes " + std::to_string(sizeof...(P)) + " arguments, not " +
                                               std::to_string(message.value_count())};
    int wrong = -1;
    (void)((Codec<std::decay_t<P>>::decode(message.value(I), std::get<I>(arguments)) || (wrong = I, false)) &&
           ...);
    if (wrong < 0) return {};
    const std::string names[] = {Codec<std::decay_t<P>>::name()..., ""};
    return wrong_argument(message, static_cast<std::uint32_t>(wrong), names[wrong]);
  }
};

template <class R, class Parameters>
struct Entries;
template <class R, class... P>
struct Entries<R, std::tuple<P...>> {
  template <class Bind>
  static MethodTable::Entry make(std::string name, Bind bind) {
    return entry(std::move(name), [bind](const MethodTable::Target& target, InboundCallPtr call) {
      Invoker<R, P...>::run(on_state(target, bind), target, std::move(call));
    });
  }
  /// The same for one that runs in the pool, if there is one.
  template <class Bind>
  static MethodTable::Entry make_pooled(std::string name, Bind bind, bool alone) {
    return entry(std::move(name), [bind, alone](const MethodTable::Target& target, InboundCallPtr call) {
      if (target.pool)
        Invoker<R, P...>::run_in_pool(on_state(target, bind), target, std::move(call), alone);
      else
        Invoker<R, P...>::run(on_state(target, bind), target, std::move(call));
    });
  }

 private:
  /// `bind` is the table's, which lives as long as the call.
  template <class Bind>
  static auto on_state(const MethodTable::Target& target, const Bind& bind) {
    return [state = target.state.get(), &bind](const CallContext& context, auto&&... arguments) -> R {
      return bind(state, context, std::forward<decltype(arguments)>(arguments)...);
    };
  }
  template <class Invoke>
  static MethodTable::Entry entry(std::string name, Invoke invoke) {
    using Value = typename ReturnValue<R>::Type;
    return {std::move(name), signature_text<Value, std::decay_t<P>...>(),
            signature_fingerprint<Value, std::decay_t<P>...>(), direct_type<Value, std::decay_t<P>...>(),
            std::move(invoke)};
  }
};
template <class R, class... P>
struct Entries<R, std::tuple<const CallContext&, P...>> : Entries<R, std::tuple<P...>> {};

template <class Entries, class Where, class Bind>
MethodTable::Entry entry_for(std::string name, Where run, Bind bind) {
  if constexpr (std::is_same_v<Where, OnPool>)
    return Entries::make_pooled(std::move(name), std::move(bind), run.alone);
  else
    return Entries::make(std::move(name), std::move(bind));
}

template <class Tuple>
inline constexpr bool takes_context = false;
template <class... P>
inline constexpr bool takes_context<std::tuple<const CallContext&, P...>> = true;

}  // namespace detail

}  // namespace troupe::rpc
