#pragma once

#include <memory>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include <troupe/rpc/call_context.hpp>
#include <troupe/rpc/function.hpp>
#include <troupe/rpc/method_entries.hpp>
#include <troupe/rpc/method_table.hpp>

namespace troupe::rpc {

/// The methods of an actor with a state of type State, typed from C++ signatures.
///
///     Methods<Counter> methods;
///     methods.add("add", &Counter::add)
///            .add("reset", [](Counter& c) { c.value = 0; });
///
/// A method returns a value, nothing, a Result, or a Future for an answer that comes later (it may be a
/// coroutine). Its parameters are taken by value or const reference; what they refer to, views too, lives
/// until the call is answered. What it throws ends here and becomes the answer: std::bad_alloc
/// kResourceExhausted, BadResult (value() of a Result that has none) that error, any other kInternal; the
/// error says the exception's type (Error::exception). Calls that it makes are part of the one it answers:
/// docs/calls.md. `run`, the last argument of add(), says where it runs: a method that computes for long
/// belongs on the pool (kOnPool), which docs/thread-model.md tells of.
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
