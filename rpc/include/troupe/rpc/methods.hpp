#pragma once

#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <troupe/rpc/by_hash.hpp>
#include <troupe/rpc/call_context.hpp>
#include <troupe/rpc/coroutine.hpp>
#include <troupe/rpc/function.hpp>
#include <troupe/rpc/off_loop.hpp>

namespace troupe::rpc {

/// The methods of an actor whose state's type is forgotten. Immutable once built; share it freely.
class MethodTable : public std::enable_shared_from_this<MethodTable> {
 public:
  MethodTable() = default;
  MethodTable(const MethodTable&) = delete;
  MethodTable& operator=(const MethodTable&) = delete;

  /// What a method runs on. Who answers later keeps both until then.
  struct Target {
    const std::shared_ptr<void>& state;
    const MethodTable& table;
    MethodPool* pool = nullptr;  ///< null: all methods run on the loop
  };
  /// Of a method that takes whatever comes and looks at the types itself.
  static constexpr std::uint64_t kAnySignature = 0;
  struct Entry {
    std::string name;
    std::string signature_text;
    std::uint64_t signature;
    const void* direct_type;  ///< what callers within the process mean who need no message
    std::function<void(const Target& target, InboundCallPtr call)> invoke;
  };

  /// Precondition: no method of this name yet.
  void add(Entry entry);
  /// Runs the method that the call names on `state`, unless the call is cancelled already or its deadline has
  /// passed. kUnimplemented: there is none, the message lists those there are. kInvalidArgument: other types
  /// than the method's, the message says which it wants. Methods that are marked so run in `pool`.
  void invoke(const std::shared_ptr<void>& state, InboundCallPtr call, MethodPool* pool = nullptr) const;
  /// The same on a state that outlives every answer.
  void invoke(void* state, InboundCallPtr call) const {
    invoke(std::shared_ptr<void>(std::shared_ptr<void>(), state), std::move(call));
  }
  /// Null if there is none.
  const Entry* find(std::uint64_t name_hash) const { return by_name_.find(name_hash); }
  std::string names() const;  ///< "add, pull, push"
  std::vector<std::string_view> sorted_names() const;

 private:
  std::deque<Entry> entries_;
  detail::ByHash<const Entry> by_name_;
};

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

/// The methods of an actor with a state of type State, typed from C++ signatures.
///
///     Methods<Counter> methods;
///     methods.add("add", &Counter::add)
///            .add("reset", [](Counter& c) { c.value = 0; });
///
/// A method returns a value, nothing, a Result, or a Future for an answer that comes later (it may be a
/// coroutine). Its parameters are taken by value or const reference; what they refer to, views too, lives
/// until the call is answered. Exceptions it throws become kInternal errors. Calls that it makes are part of
/// the one it answers: docs/calls.md. `run`, the last argument of add(), says where it runs: a method that
/// computes for long belongs on the pool (kOnPool), which docs/thread-model.md tells of.
template <class State>
class Methods {
 public:
  template <class R, class C, class... P, class Where = OnLoop>
  requires std::is_base_of_v<C, State> Methods& add(std::string name, R (C::*method)(P...), Where run = {}) {
    return add_member<R, std::tuple<P...>>(std::move(name), method, run);
  }
  template <class R, class C, class... P, class Where = OnLoop>
  requires std::is_base_of_v<C, State> Methods& add(std::string name, R (C::*method)(P...) const,
                                                    Where run = {}) {
    return add_member<R, std::tuple<P...>>(std::move(name), method, run);
  }
  /// A lambda whose first parameter is State&.
  template <class F, class Where = OnLoop>
  requires(!std::is_member_function_pointer_v<F>) Methods& add(std::string name, F handler, Where run = {}) {
    using Traits = detail::HandlerTraits<F>;
    add_lambda<typename Traits::Return>(std::move(name), std::move(handler), run,
                                        static_cast<typename Traits::Parameters*>(nullptr));
    return *this;
  }

  /// Under a declared name; compiles only for the declared types.
  template <class Signature, class F, class Where = OnLoop>
  Methods& add(const Function<Signature>& declared, F handler, Where run = {}) {
    using Traits = detail::HandlerTraits<F>;
    if constexpr (std::is_member_function_pointer_v<F>)
      check_types<Signature, typename Traits::Return, typename Traits::Parameters>();
    else
      check_types<Signature, typename Traits::Return,
                  typename detail::WithoutState<typename Traits::Parameters>::Type>();
    return add(std::string(declared.name), std::move(handler), run);
  }

  std::shared_ptr<const MethodTable> table() const { return table_; }

 private:
  template <class Signature, class R, class Parameters>
  static void check_types() {
    static_assert(detail::HandlerSignature<R, Parameters>::kValue == Function<Signature>::kSignature,
                  "the method has other types than those declared");
  }
  template <class R, class Parameters, class Method, class Where>
  Methods& add_member(std::string name, Method method, Where run) {
    table_->add(detail::entry_for<detail::Entries<R, Parameters>>(
        std::move(name), run, [method](void* state, const CallContext& context, auto&&... arguments) -> R {
          auto& self = *static_cast<State*>(state);
          if constexpr (detail::takes_context<Parameters>)
            return (self.*method)(context, std::forward<decltype(arguments)>(arguments)...);
          else
            return (self.*method)(std::forward<decltype(arguments)>(arguments)...);
        }));
    return *this;
  }
  template <class R, class F, class Where, class First, class... P>
  void add_lambda(std::string name, F handler, Where run, std::tuple<First, P...>*) {
    static_assert(std::is_same_v<std::remove_cvref_t<First>, State>,
                  "a handler's first parameter is the state");
    table_->add(detail::entry_for<detail::Entries<R, std::tuple<P...>>>(
        std::move(name), run, [handler](void* state, const CallContext& context, auto&&... arguments) -> R {
          auto& self = *static_cast<State*>(state);
          if constexpr (detail::takes_context<std::tuple<P...>>)
            return handler(self, context, std::forward<decltype(arguments)>(arguments)...);
          else
            return handler(self, std::forward<decltype(arguments)>(arguments)...);
        }));
  }

  std::shared_ptr<MethodTable> table_ = std::make_shared<MethodTable>();
};

}  // namespace troupe::rpc
