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
/// for Methods; so is where they run.
///
///     rpc::Functions functions;
///     functions.add("hypot", &hypotenuse).add("half", [](double x) { return x / 2; });
///     node->serve("mathematics", functions);
class Functions {
 public:
  template <class F, class Where = OnLoop>
  Functions& add(std::string name, F function, Where run = {}) {
    using Traits = detail::HandlerTraits<F>;
    return add_as<typename Traits::Return, typename Traits::Parameters>(std::move(name), std::move(function),
                                                                        run);
  }
  template <class Signature, class F, class Where = OnLoop>
  Functions& add(const Function<Signature>& declared, F function, Where run = {}) {
    using Traits = detail::HandlerTraits<F>;
    static_assert(detail::HandlerSignature<typename Traits::Return, typename Traits::Parameters>::kValue ==
                      Function<Signature>::kSignature,
                  "the function has other types than those declared");
    return add(std::string(declared.name), std::move(function), run);
  }

  std::shared_ptr<const MethodTable> table() const { return table_; }

 private:
  template <class R, class Parameters, class F, class Where>
  Functions& add_as(std::string name, F function, Where run) {
    table_->add(detail::entry_for<detail::Entries<R, Parameters>>(
        std::move(name), run, [function](void*, const CallContext& context, auto&&... arguments) -> R {
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
