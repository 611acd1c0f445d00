#pragma once

#include <coroutine>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

#include <troupe/rpc/future.hpp>

/// Coroutines: a function that returns a Future may wait for others with co_await, which gives a Result.
///
///     rpc::Future<double> mean(Node& node, std::string table) {
///       auto sum = co_await node.rpc_async<double>("shard", "sum", table);
///       if (!sum) co_return sum.error();
///       co_return *sum / co_await node.rpc_async<double>("shard", "count", table).value();
///     }
///
/// It begins at once, on the caller's thread, and goes on with the loop's turn, in the name of the call in
/// which it waited. All futures that it waits for are of one loop. Cancelling its future cancels the one that
/// it waits for just now; how it ends is up to it then. An exception becomes an error, BadResult the one it
/// holds. Parameters are to be values, since the coroutine outlives its caller's; a handler's own may be
/// references, for they are kept until it has answered.
namespace troupe::rpc {

namespace detail {

/// The state of a coroutine's future.
template <class T>
class CoroutineState final : public FutureState<T> {
 public:
  CoroutineState() : FutureState<T>(nullptr, TimePoint::never()) {}
  void cancel() override {
    if (const auto awaited = awaited_.lock()) awaited->cancel();
  }
  void waits_for(Loop& loop, std::weak_ptr<Cancellable> awaited) {
    if (!this->loop())
      this->set_loop(loop, loop.in_turn() ? deadline_of(current_scope(loop).get()) : TimePoint::never());
    awaited_ = std::move(awaited);
  }

 private:
  std::weak_ptr<Cancellable> awaited_;
};

template <class T>
struct CoroutineReturn {
  std::optional<Result<T>> value;
  void return_value(Result<T> result) { value.emplace(std::move(result)); }
};
template <>
struct CoroutineReturn<void> {
  std::optional<Result<void>> value;
  void return_void() { value.emplace(); }
};

template <class T>
class CoroutinePromise : public CoroutineReturn<T> {
 public:
  CoroutinePromise() = default;
  /// Its locals are gone now: whoever takes the value may end what they referred to.
  ~CoroutinePromise() {
    state_->complete(this->value ? std::move(*this->value)
                                 : Error{Code::kCancelled, "the coroutine was ended while it waited"});
  }
  CoroutinePromise(const CoroutinePromise&) = delete;
  CoroutinePromise& operator=(const CoroutinePromise&) = delete;

  Future<T> get_return_object() const { return Future<T>(state_); }
  static std::suspend_never initial_suspend() noexcept { return {}; }
  static std::suspend_never final_suspend() noexcept { return {}; }
  void unhandled_exception() { this->value.emplace(current_exception_error("the coroutine")); }
  void waits_for(Loop& loop, std::weak_ptr<Cancellable> awaited) {
    state_->waits_for(loop, std::move(awaited));
  }

 private:
  std::shared_ptr<CoroutineState<T>> state_ = std::make_shared<CoroutineState<T>>();
};

/// Waits in a coroutine for a future.
template <class T>
class Awaiter {
 public:
  explicit Awaiter(Future<T> future) : future_(std::move(future)) {}

  bool await_ready() const { return future_.ready(); }
  template <class P>
  void await_suspend(std::coroutine_handle<P> coroutine) {
    // The frame must not own what is to own the frame; and once it is given away, it may be gone.
    Future<T> awaited = std::move(future_);
    if constexpr (requires { coroutine.promise().waits_for(*awaited.loop(), awaited.cancellable()); })
      coroutine.promise().waits_for(*awaited.loop(), awaited.cancellable());
    awaited.then(Resume(coroutine, value_));
  }
  Result<T> await_resume() { return value_ ? std::move(*value_) : future_.get(); }

 private:
  /// Owns the waiting coroutine: goes on with it, or ends it if there is nothing to wait for any more.
  class Resume {
   public:
    Resume(std::coroutine_handle<> coroutine, std::optional<Result<T>>& value)
        : coroutine_(coroutine), value_(&value) {}
    Resume(Resume&& other) noexcept
        : coroutine_(std::exchange(other.coroutine_, nullptr)), value_(other.value_) {}
    Resume& operator=(Resume&&) = delete;
    ~Resume() {
      if (coroutine_) coroutine_.destroy();
    }
    void operator()(Result<T> value) {
      value_->emplace(std::move(value));
      std::exchange(coroutine_, nullptr).resume();
    }

   private:
    std::coroutine_handle<> coroutine_;
    std::optional<Result<T>>* value_;
  };

  Future<T> future_;
  std::optional<Result<T>> value_;
};

}  // namespace detail

template <class T>
detail::Awaiter<T> operator co_await(Future<T> future) {
  return detail::Awaiter<T>(std::move(future));
}

}  // namespace troupe::rpc
