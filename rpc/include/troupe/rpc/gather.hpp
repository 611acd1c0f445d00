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

/// Of when_all(): ends with the first error, and the others with it; with the turn only.
template <class T>
class GatherAll {
 public:
  GatherAll(Loop& loop, TimePoint deadline, const std::vector<Future<T>>& futures)
      : promise_(loop, deadline), values_(futures.size()), missing_(futures.size()) {
    for (const Future<T>& future : futures) others_.push_back(future.cancellable());
    pass_on_cancel(promise_, futures);
  }
  Future<AllOf<T>> future() const { return promise_.future(); }
  void take(std::size_t index, Result<T> value) {
    if (failed_) return;  // it ends because it was cancelled below, or too late
    if (!value) {
      failed_ = true;
      // First, so that most of them have ended when somebody goes on from the error.
      for (const auto& each : std::exchange(others_, {}))
        if (const auto other = each.lock()) other->cancel();
      return promise_.set(std::move(value).error());
    }
    values_[index].emplace(std::move(value));
    if (--missing_ == 0) finish();
  }
  void finish() {
    if constexpr (std::is_void_v<T>) {
      promise_.set({});
    } else {
      std::vector<T> all;
      all.reserve(values_.size());
      for (auto& value : values_) all.push_back(std::move(**value));
      promise_.set(std::move(all));
    }
  }

 private:
  Promise<AllOf<T>> promise_;
  std::vector<std::optional<Result<T>>> values_;
  std::vector<std::weak_ptr<Cancellable>> others_;
  std::size_t missing_;
  bool failed_ = false;
};
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

/// All values in order, once every one has come: a Future<std::vector<T>>, for Future<void> a Future<void>.
/// Or the first error to come, at once: the others are cancelled then. (A coroutine among them decides itself
/// how it ends, and may be at work still.) As when_all_settled() else.
template <class T>
Future<detail::AllOf<T>> when_all(Loop& loop, std::vector<Future<T>> futures,
                                  TimePoint deadline = TimePoint::never()) {
  auto gather = std::make_shared<detail::GatherAll<T>>(loop, deadline, futures);
  auto result = gather->future();
  loop.run_or_post([gather = std::move(gather), futures = std::move(futures)]() mutable {
    if (futures.empty()) return gather->finish();
    for (std::size_t i = 0; i < futures.size(); ++i)
      futures[i].then([gather, i](Result<T> value) { gather->take(i, std::move(value)); });
  });
  return result;
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
