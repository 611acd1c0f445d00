#pragma once

#include <cassert>
#include <cstddef>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include <troupe/rpc/future.hpp>

/// Waiting for several futures of one loop.
namespace troupe::rpc {

namespace detail {
/// Cancelling the promise's future cancels each of `futures`.
template <class P, class T>
void pass_on_cancel(Promise<P>& promise, const std::vector<Future<T>>& futures) {
  std::vector<std::weak_ptr<Cancellable>> all;
  all.reserve(futures.size());
  for (const Future<T>& future : futures) all.push_back(future.cancellable());
  promise.on_cancel([all = std::move(all)] {
    for (const auto& each : all)
      if (const auto future = each.lock()) future->cancel();
  });
}

/// Waits for several futures of one loop; with the turn only.
template <class T>
struct Gather {
  explicit Gather(Loop& loop, TimePoint deadline) : promise(loop, deadline) {}
  Promise<std::vector<Result<T>>> promise;
  std::vector<std::optional<Result<T>>> values;
  std::size_t missing = 0;

  void finish() {
    std::vector<Result<T>> all;
    all.reserve(values.size());
    for (auto& value : values) all.push_back(std::move(*value));
    promise.set(std::move(all));
  }
};

template <class T>
using AllOf = std::conditional_t<std::is_void_v<T>, void, std::vector<T>>;

/// The values, or the first error in order.
template <class T>
Result<AllOf<T>> all_or_error(Result<std::vector<Result<T>>> settled) {
  if (!settled) return std::move(settled).error();
  for (auto& value : *settled)
    if (!value) return std::move(value).error();
  if constexpr (std::is_void_v<T>) {
    return {};
  } else {
    std::vector<T> all;
    all.reserve(settled->size());
    for (auto& value : *settled) all.push_back(std::move(*value));
    return all;
  }
}
}  // namespace detail

/// What each has brought, in order, once every one is ready. All futures are of `loop`. Any thread. `futures`
/// may be empty. Cancelling the result cancels all of them.
template <class T>
Future<std::vector<Result<T>>> when_all_settled(Loop& loop, std::vector<Future<T>> futures,
                                                TimePoint deadline = TimePoint::never()) {
  auto gather = std::make_shared<detail::Gather<T>>(loop, deadline);
  auto result = gather->promise.future();
  gather->missing = futures.size();
  gather->values.resize(futures.size());
  detail::pass_on_cancel(gather->promise, futures);
  loop.run_or_post([gather = std::move(gather), futures = std::move(futures)]() mutable {
    if (futures.empty()) return gather->finish();
    for (std::size_t i = 0; i < futures.size(); ++i)
      futures[i].then([gather, i](Result<T> value) {
        gather->values[i].emplace(std::move(value));
        if (--gather->missing == 0) gather->finish();
      });
  });
  return result;
}

/// All values in order, or the first error in order, once every one has come: a Future<std::vector<T>>,
/// for Future<void> a Future<void>. As when_all_settled() else.
template <class T>
Future<detail::AllOf<T>> when_all(Loop& loop, std::vector<Future<T>> futures,
                                  TimePoint deadline = TimePoint::never()) {
  return when_all_settled(loop, std::move(futures), deadline).then(&detail::all_or_error<T>);
}

/// Of when_any(): which future was ready first, and what it brought.
template <class T>
struct FirstOf {
  std::size_t index = 0;
  Result<T> result;
};

/// The first of them to be ready, with a value or an error. The others go on: cancel() the copies of those
/// that are not wanted any more; their values are lost. All futures are of `loop`. Any thread. `futures`
/// must not be empty. Cancelling the result cancels all of them.
template <class T>
Future<FirstOf<T>> when_any(Loop& loop, std::vector<Future<T>> futures,
                            TimePoint deadline = TimePoint::never()) {
  assert(!futures.empty());
  auto promise = std::make_shared<Promise<FirstOf<T>>>(loop, deadline);
  auto result = promise->future();
  detail::pass_on_cancel(*promise, futures);
  loop.run_or_post([promise = std::move(promise), futures = std::move(futures)]() mutable {
    for (std::size_t i = 0; i < futures.size(); ++i)
      futures[i].then([promise, i](Result<T> value) { promise->set(FirstOf<T>{i, std::move(value)}); });
  });
  return result;
}

}  // namespace troupe::rpc
