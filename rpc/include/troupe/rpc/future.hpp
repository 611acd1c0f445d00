#pragma once

#include <atomic>
#include <cassert>
#include <cstdint>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include <troupe/runtime/loop.hpp>
#include <troupe/runtime/result.hpp>
#include <troupe/runtime/task.hpp>

namespace troupe::rpc {

template <class T>
class Future;

namespace detail {
/// What a Future and its Promise share. Completed once, with the loop's turn.
template <class T>
class FutureState {
 public:
  explicit FutureState(Loop& loop, TimePoint deadline) : loop_(&loop), deadline_(deadline) {}
  virtual ~FutureState() = default;
  FutureState(const FutureState&) = delete;
  FutureState& operator=(const FutureState&) = delete;

  /// Not after ready(): the loop may have gone since.
  Loop& loop() const { return *loop_; }
  TimePoint deadline() const { return deadline_; }
  /// Any thread.
  bool ready() const { return stage_.load(std::memory_order_acquire) != Stage::kPending; }
  /// With the turn; only the first completion counts. May end this object, through the continuation.
  void complete(Result<T> value) {
    if (ready()) return;
    assert(loop_->in_turn());
    value_.emplace(std::move(value));
    stage_.store(Stage::kReady, std::memory_order_release);
    if (continuation_) {
      auto continuation = std::exchange(continuation_, nullptr);
      continuation(take());
    }
  }
  /// With the turn.
  void then(UniqueFunction<void(Result<T>)> continuation) {
    if (ready())
      continuation(take());
    else
      continuation_ = std::move(continuation);
  }
  /// Any thread. Precondition: ready(). Only the first taker gets the value.
  Result<T> take() {
    if (stage_.exchange(Stage::kTaken, std::memory_order_acq_rel) != Stage::kReady)
      return Error{Code::kFailedPrecondition, "the value of this future has been taken already"};
    Result<T> value = std::move(*value_);
    value_.reset();
    return value;
  }

 private:
  enum class Stage : std::uint8_t { kPending, kReady, kTaken };
  Loop* loop_;
  TimePoint deadline_;
  std::atomic<Stage> stage_{Stage::kPending};
  std::optional<Result<T>> value_;
  UniqueFunction<void(Result<T>)> continuation_;
};
}  // namespace detail

/// A value that is still to come: the answer of a call, usually. Copies share it; its value is taken
/// once, by get() or then(). It always comes: a call's future ends at the call's deadline at the latest.
template <class T>
class Future {
 public:
  Future() = default;
  explicit Future(std::shared_ptr<detail::FutureState<T>> state) : state_(std::move(state)) {}

  bool valid() const { return state_ != nullptr; }
  /// Any thread.
  bool ready() const { return state_->ready(); }
  /// Waits, doing the loop's work meanwhile, and takes the value. Any thread, also the loop's own; of
  /// several that wait one gets the value, the others kFailedPrecondition.
  Result<T> get() {
    assert(valid());
    auto state = state_;
    if (state->ready()) return state->take();
    // The loop itself ends the call at its deadline; the second is for a loop that is busy elsewhere.
    const TimePoint limit = state->deadline() + std::chrono::seconds(1);
    if (!state->loop().wait_until([&] { return state->ready(); }, limit))
      return Error{Code::kDeadlineExceeded, "no answer in time"};
    return state->take();
  }
  /// Calls `continuation(Result<T>)` on the loop once the value is there; at once if it is there
  /// already and this is the loop. Any thread, while the loop lives. A future has one continuation, which
  /// must not throw.
  template <class F>
  void then(F continuation) {
    assert(valid());
    state_->loop().run_or_post([state = state_, continuation = std::move(continuation)]() mutable {
      state->then(std::move(continuation));
    });
  }

 private:
  std::shared_ptr<detail::FutureState<T>> state_;
};

/// The other end of a Future, for handlers that answer later. If the last Promise goes without a value
/// the future gets kCancelled. With the loop's turn only.
template <class T>
class Promise {
 public:
  explicit Promise(Loop& loop, TimePoint deadline = TimePoint::never())
      : state_(std::make_shared<detail::FutureState<T>>(loop, deadline)) {}
  Promise(Promise&&) noexcept = default;
  Promise& operator=(Promise&&) = delete;
  ~Promise() {
    if (state_) state_->complete(Error{Code::kCancelled, "the promise of this answer was dropped"});
  }

  Future<T> future() const { return Future<T>(state_); }
  void set(Result<T> value) {
    const auto state = state_;  // the continuation may end this promise
    state->complete(std::move(value));
  }

 private:
  std::shared_ptr<detail::FutureState<T>> state_;
};

namespace detail {
/// Waits for several futures of one loop; with the turn only.
template <class T>
struct Gather {
  using All = std::conditional_t<std::is_void_v<T>, void, std::vector<T>>;

  Promise<All> promise;
  std::vector<std::optional<Result<T>>> values;
  std::size_t missing;

  void finish() {
    for (auto& value : values)
      if (!value->ok()) return promise.set(std::move(*value).error());
    if constexpr (std::is_void_v<T>) {
      promise.set({});
    } else {
      std::vector<T> all;
      all.reserve(values.size());
      for (auto& value : values) all.push_back(std::move(**value));
      promise.set(std::move(all));
    }
  }
};
}  // namespace detail

/// All values in order, or the first error in order, once every one has come: a Future<std::vector<T>>,
/// for Future<void> a Future<void>. All futures are of `loop`. Any thread. `futures` may be empty.
template <class T>
Future<typename detail::Gather<T>::All> when_all(Loop& loop, std::vector<Future<T>> futures,
                                                 TimePoint deadline = TimePoint::never()) {
  using Gather = detail::Gather<T>;
  auto gather =
      std::make_shared<Gather>(Gather{Promise<typename Gather::All>(loop, deadline), {}, futures.size()});
  auto result = gather->promise.future();
  gather->values.resize(futures.size());
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

}  // namespace troupe::rpc
