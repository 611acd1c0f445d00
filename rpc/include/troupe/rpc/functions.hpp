#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

#include <troupe/rpc/methods.hpp>

namespace troupe::rpc {

/// Functions that need no state, as an actor: free functions and lambdas. What they may return and take is as
/// for Methods.
///
///     rpc::Functions functions;
///     functions.add("hypot", &hypotenuse).add("half", [](double x) { return x / 2; });
///     node->serve("mathematics", functions);
class Functions {
 public:
  template <class F>
  Functions& add(std::string name, F function) {
    using Traits = detail::HandlerTraits<F>;
    return add_as<typename Traits::Return, typename Traits::Parameters>(std::move(name), std::move(function));
  }
  template <class Signature, class F>
  Functions& add(const Function<Signature>& declared, F function) {
    using Traits = detail::HandlerTraits<F>;
    static_assert(detail::HandlerSignature<typename Traits::Return, typename Traits::Parameters>::kValue ==
                      Function<Signature>::kSignature,
                  "the function has other types than those declared");
    return add(std::string(declared.name), std::move(function));
  }

  std::shared_ptr<const MethodTable> table() const { return table_; }

 private:
  template <class R, class Parameters, class F>
  Functions& add_as(std::string name, F function) {
    table_->add(detail::Entries<R, Parameters>::make(
        std::move(name), [function](void*, const CallContext& context, auto&&... arguments) -> R {
          if constexpr (detail::takes_context<Parameters>)
            return function(context, std::forward<decltype(arguments)>(arguments)...);
          else
            return function(std::forward<decltype(arguments)>(arguments)...);
        }));
    return *this;
  }

  std::shared_ptr<MethodTable> table_ = std::make_shared<MethodTable>();
};

}  // namespace troupe::rpc
