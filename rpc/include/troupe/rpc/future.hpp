#pragma once

#include <atomic>
#include <cassert>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

#include <troupe/rpc/scope.hpp>
#include <troupe/runtime/loop.hpp>
#include <troupe/runtime/result.hpp>
#include <troupe/runtime/task.hpp>

namespace troupe::rpc {

template <class T>
class Future;

namespace detail {
/// The value type that a function's return type stands for: T of T, Result<T> and Future<T>.
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
class CoroutinePromise;

/// What a Future and its Promise share. Completed once, with the loop's turn.
template <class T>
class FutureState : public Cancellable {
 public:
  FutureState(Loop* loop, TimePoint deadline) : loop_(loop), deadline_(deadline) {}
  virtual ~FutureState() = default;
  FutureState(const FutureState&) = delete;
  FutureState& operator=(const FutureState&) = delete;

  /// Not after ready(): the loop may have gone since. Null: it was ready before it had a loop.
  Loop* loop() const { return loop_; }
  TimePoint deadline() const { return deadline_; }
  /// Any thread.
  bool ready() const { return stage_.load(std::memory_order_acquire) != Stage::kPending; }
  /// With the turn; only the first completion counts. May end this object, through the continuation.
  void complete(Result<T>&& value) {
    if (ready()) return;
    assert(!loop_ || loop_->in_turn());
    value_.emplace(std::move(value));
    stage_.store(Stage::kReady, std::memory_order_release);
    if (!continuation_) return;
    // Whoever completes it, the continuation is the work of the call in which it was given.
    ActiveCall active{nullptr, std::move(scope_)};
    const Loop::Context context(*loop_, active.scope ? &active : nullptr);
    auto continuation = std::exchange(continuation_, nullptr);
    Loop& loop = *loop_;  // this object may go
    try {
      continuation(take());
    } catch (...) {
      loop.report_exception("a continuation");  // whoever gives the value has nothing to do with it
    }
  }
  /// With the turn.
  void then(UniqueFunction<void(Result<T>)> continuation) {
    if (ready()) return continuation(take());
    continuation_ = std::move(continuation);
    scope_ = current_scope(*loop_);
  }
  /// Any thread. Precondition: ready(). Only the first taker gets the value. `alone`: nobody else has this
  /// state, so that the first is found out without an instruction that waits for all earlier stores.
  Result<T> take(bool alone = false) {
    const Stage before = alone ? stage_.load(std::memory_order_acquire)
                               : stage_.exchange(Stage::kTaken, std::memory_order_acq_rel);
    if (before != Stage::kReady)
      return Error{Code::kFailedPrecondition, "the value of this future has been taken already"};
    stage_.store(Stage::kTaken, std::memory_order_relaxed);
    Result<T> value = std::move(*value_);
    value_.reset();
    return value;
  }
  void cancel() override { complete(Error{Code::kCancelled, "cancelled by the caller"}); }

 protected:
  /// Before anybody else has it.
  void set_loop(Loop& loop, TimePoint deadline) {
    loop_ = &loop;
    deadline_ = deadline;
  }

 private:
  enum class Stage : std::uint8_t { kPending, kReady, kTaken };
  Loop* loop_;
  TimePoint deadline_;
  std::atomic<Stage> stage_{Stage::kPending};
  std::optional<Result<T>> value_;
  UniqueFunction<void(Result<T>)> continuation_;
  std::shared_ptr<CallScope> scope_;  // of whoever gave the continuation
};

/// The state of a Promise's future.
template <class T>
class PromiseState final : public FutureState<T> {
 public:
  using FutureState<T>::FutureState;
  void cancel() override {
    if (this->ready()) return;
    // An answer made from another one ends with that: what makes it may still use the call's arguments.
    if (const auto source = source_.lock()) return source->cancel();
    auto told = std::exchange(on_cancel_, nullptr);
    Loop* const loop = this->loop();
    FutureState<T>::cancel();
    try {
      if (told) told();
    } catch (...) {
      loop->report_exception("who is told of a cancellation");
    }
  }
  void on_cancel(UniqueFunction<void()> told) { on_cancel_ = std::move(told); }
  void made_from(std::weak_ptr<Cancellable> source) { source_ = std::move(source); }

 private:
  UniqueFunction<void()> on_cancel_;
  std::weak_ptr<Cancellable> source_;
};
}  // namespace detail

/// A value that is still to come: the answer of a call, usually. Copies share it, one for each thread; its
/// value is taken once, by get(), then() or co_await. It always comes: a call's future ends at the call's
/// deadline at the latest.
template <class T>
class Future {
 public:
  /// A function that returns a Future may be a coroutine: see coroutine.hpp.
  using promise_type = detail::CoroutinePromise<T>;

  Future() = default;
  explicit Future(std::shared_ptr<detail::FutureState<T>> state) : state_(std::move(state)) {}

  bool valid() const { return state_ != nullptr; }
  /// Any thread.
  bool ready() const { return state_->ready(); }
  /// Waits, doing the loop's work meanwhile, and takes the value. Any thread, also the loop's own; of
  /// several that wait one gets the value, the others kFailedPrecondition.
  Result<T> get() {
    assert(valid());
    if (state_->ready()) return state_->take(state_.use_count() == 1);
    auto state = state_;
    if (state->loop()->is_forked()) [[unlikely]]
      return HomeProcess::error();
    // The loop itself ends the call at its deadline; the second is for a loop that is busy elsewhere.
    const TimePoint limit = state->deadline() + std::chrono::seconds(1);
    if (!state->loop()->wait_until([&] { return state->ready(); }, limit))
      return Error{Code::kDeadlineExceeded, "no answer in time"};
    return state->take();
  }
  /// Calls `continuation(Result<T>)` on the loop once the value is there; at once if it is there
  /// already and this is the loop. Any thread, while the loop lives. A future has one continuation, which
  /// must not throw unless it returns something. Given within a handler, it goes on in that call's name: its
  /// calls are part of that one.
  ///
  /// What the continuation returns, if anything, is a new future's value: then() of a continuation that
  /// returns U, Result<U> or Future<U> is a Future<U>; cancelling that one cancels this one.
  template <class F>
  auto then(F continuation) {
    assert(valid());
    using Return = std::invoke_result_t<F&, Result<T>>;
    if constexpr (std::is_void_v<Return>)
      when_ready(std::move(continuation));
    else
      return chain(std::move(continuation));
  }
  /// Nobody wants the value any more: it becomes kCancelled unless it has come. The callee of a call is told,
  /// and what is done in the name of the call ends likewise. Any thread, while the loop lives; does nothing
  /// to a future that is ready().
  void cancel() {
    assert(valid());
    if (state_->ready()) return;
    state_->loop()->run_or_post([state = state_] { state->cancel(); });
  }
  /// For those who are to be told when nobody wants a value.
  std::weak_ptr<detail::Cancellable> cancellable() const { return state_; }
  Loop* loop() const { return state_->loop(); }
  TimePoint deadline() const { return state_->deadline(); }

 private:
  template <class F>
  void when_ready(F continuation) {
    if (!state_->loop()) return state_->then(std::move(continuation));  // it is ready
    state_->loop()->run_or_post([state = state_, continuation = std::move(continuation)]() mutable {
      state->then(std::move(continuation));
    });
  }
  template <class F>
  auto chain(F continuation);

  std::shared_ptr<detail::FutureState<T>> state_;
};

/// The other end of a Future, for handlers that answer later. If the last Promise goes without a value
/// the future gets kCancelled. With the loop's turn only.
template <class T>
class Promise {
 public:
  explicit Promise(Loop& loop, TimePoint deadline = TimePoint::never()) : Promise(&loop, deadline) {}
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
  /// `told` is run if the future is cancelled before it has its value, which it then cannot get any more.
  void on_cancel(UniqueFunction<void()> told) { state_->on_cancel(std::move(told)); }
  /// Cancelling the future cancels `source` instead, whose end is to give it its value.
  template <class U>
  void made_from(const Future<U>& source) {
    state_->made_from(source.cancellable());
  }

 private:
  template <class U>
  friend class Future;
  Promise(Loop* loop, TimePoint deadline)
      : state_(std::make_shared<detail::PromiseState<T>>(loop, deadline)) {}

  std::shared_ptr<detail::PromiseState<T>> state_;
};

template <class T>
template <class F>
auto Future<T>::chain(F continuation) {
  using Return = std::invoke_result_t<F&, Result<T>>;
  using Value = typename detail::ReturnValue<Return>::Type;
  constexpr bool kGoesOn = std::is_same_v<Return, Future<Value>>;  // for as long as the next one takes
  Promise<Value> promise(state_->loop(), kGoesOn ? TimePoint::never() : state_->deadline());
  promise.made_from(*this);
  auto result = promise.future();
  when_ready([promise = std::move(promise), continuation = std::move(continuation)](Result<T> value) mutable {
    try {
      if constexpr (kGoesOn) {
        Future<Value> next = continuation(std::move(value));
        promise.made_from(next);
        next.then(
            [promise = std::move(promise)](Result<Value> last) mutable { promise.set(std::move(last)); });
      } else {
        promise.set(continuation(std::move(value)));
      }
    } catch (...) {
      promise.set(detail::current_exception_error("a continuation"));
    }
  });
  return result;
}

}  // namespace troupe::rpc
