#pragma once

#include <utility>

#include <troupe/rpc/completion_queue.hpp>
#include <troupe/rpc/future.hpp>
#include <troupe/runtime/loop.hpp>

/// Work that ends in a queue without being a call.
namespace troupe::c {

/// For CompletionQueue::start(): runs `begin()`, which returns a Future<R>, on the loop, soon.
template <class R, class Begin>
struct Later {
  Loop& loop;
  Begin begin;

  template <class Same>
  rpc::Future<Same> rpc_async_with(const rpc::CallOptions&) {
    rpc::Promise<R> promise(loop);
    rpc::Future<R> future = promise.future();
    loop.post([promise = std::move(promise), begin = std::move(begin)]() mutable {
      try {
        rpc::Future<R> next = begin();
        promise.made_from(next);
        next.then(
            [promise = std::move(promise)](Result<R> result) mutable { promise.set(std::move(result)); });
      } catch (...) {
        promise.set(rpc::detail::current_exception_error("beginning it"));
      }
    });
    return future;
  }
};

template <class R, class Begin>
Result<void> start_later(rpc::CompletionQueue& queue, std::uint64_t tag, Loop& loop, Begin begin) {
  Later<R, Begin> later{loop, std::move(begin)};
  return queue.start<R>(later, tag, {});
}

}  // namespace troupe::c
