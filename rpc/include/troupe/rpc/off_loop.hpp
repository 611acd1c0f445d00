#pragma once

#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

#include <troupe/rpc/call_context.hpp>
#include <troupe/rpc/future.hpp>

/// Methods that compute for long, and so do it on a thread of a pool, beside the loop.
namespace troupe::rpc {

// Where a method runs: the last argument of Methods::add() and Functions::add().
struct OnLoop {};  ///< with the turn, as all that do not say otherwise
struct OnPool {
  bool alone = true;
};
/// On a thread of the node's pool. Nothing else of its actor runs meanwhile: other calls to it wait.
inline constexpr OnPool kOnPool{};
/// The same, but other methods of its actor may run at the same time, this one too: they lock what they
/// share.
inline constexpr OnPool kOnPoolAtOnce{.alone = false};

/// A call of such a method. Made, answered and destroyed with the turn.
class PoolJob {
 public:
  PoolJob() = default;
  virtual ~PoolJob() = default;
  PoolJob(const PoolJob&) = delete;
  PoolJob& operator=(const PoolJob&) = delete;
  /// Runs the method, unless nobody waits for it any more. Once, without the turn, on a thread that does
  /// nothing else meanwhile; does not throw.
  virtual void work() = 0;
  /// Answers, after work().
  virtual void finish() = 0;
  /// Answers in place of both.
  virtual void refuse(Error why) = 0;
};

/// Has jobs done. With the turn.
class MethodPool {
 public:
  /// Sees to it that work() and then finish() are run, or refuse(). `alone`: see kOnPool.
  virtual void begin(std::unique_ptr<PoolJob> job, bool alone) = 0;

 protected:
  ~MethodPool() = default;
};

namespace detail {

/// `Kept` is a KeptCall whose arguments have been decoded; `handler(context, arguments)` runs the method.
template <class T, class Kept, class Handler>
class PoolJobOf final : public PoolJob {
 public:
  PoolJobOf(InboundCallPtr call, std::unique_ptr<Kept> kept, Handler handler)
      : loop_(*call->loop()), call_(std::move(call)), kept_(std::move(kept)), handler_(std::move(handler)) {
    const CallContext own(*call_);
    kept_->context = own;  // a copy refers to the call no more, only to its scope
  }

  void work() override {
    const CallContext& context = kept_->context;
    if (context.cancelled()) {
      result_.emplace(Error{Code::kCancelled, "nobody waited for it any more when a thread was free"});
      return;
    }
    const Loop::OnBehalf own(loop_, context.active());
    try {
      if constexpr (std::is_void_v<T>) {
        if constexpr (std::is_void_v<decltype(handler_(context, kept_->arguments))>) {
          handler_(context, kept_->arguments);
          result_.emplace();
        } else {
          result_.emplace(handler_(context, kept_->arguments));
        }
      } else {
        result_.emplace(handler_(context, kept_->arguments));
      }
    } catch (...) {
      result_.emplace(current_exception_error("the handler"));
    }
  }
  void finish() override {
    if (!*result_)
      call_->reply_error(result_->error());
    else if constexpr (std::is_void_v<T>)
      call_->reply_void();
    else
      call_->reply(**result_);
  }
  void refuse(Error why) override { call_->refuse(std::move(why)); }

 private:
  Loop& loop_;
  InboundCallPtr call_;
  std::unique_ptr<Kept> kept_;
  Handler handler_;
  std::optional<Result<T>> result_;
};

}  // namespace detail
}  // namespace troupe::rpc
