#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include <troupe/rpc/call.hpp>
#include <troupe/rpc/future.hpp>
#include <troupe/runtime/clock.hpp>
#include <troupe/runtime/result.hpp>

/// Calls for threads that must not be borrowed: of Python, of Go, of a window on a screen. They begin calls
/// and fetch what came, and all that the loop does is done by the node's own thread.
namespace troupe::rpc {

/// What came of one call.
class Completion {
 public:
  /// As it was given to CompletionQueue::start().
  std::uint64_t tag() const { return tag_; }
  /// Null: there is a value.
  const Error* error() const { return value_->error(); }
  /// Once. Precondition: the call was started with this R.
  template <class R>
  Result<R> take() {
    if (value_->type() != type_of<R>())
      return Error{Code::kInvalidArgument, "the completion of a call with another type of result"};
    return std::move(static_cast<ValueOf<R>&>(*value_).result);
  }

 private:
  friend class CompletionQueue;
  struct Value {
    virtual ~Value() = default;
    virtual const Error* error() const = 0;
    virtual const void* type() const = 0;
  };
  template <class R>
  static const void* type_of() {
    static const char tag = 0;
    return &tag;
  }
  template <class R>
  struct ValueOf final : Value {
    explicit ValueOf(Result<R> r) : result(std::move(r)) {}
    const Error* error() const override { return result ? nullptr : &result.error(); }
    const void* type() const override { return type_of<R>(); }
    Result<R> result;
  };
  Completion(std::uint64_t tag, std::unique_ptr<Value> value) : tag_(tag), value_(std::move(value)) {}

  std::uint64_t tag_;
  std::unique_ptr<Value> value_;
};

/// Calls that are begun with start() end here, each once, in the order in which their answers come. The node
/// needs a thread that drives it (NodeOptions::own_thread); no function here drives a loop or runs a handler.
/// Functions: any thread, at most one of them in the destructor.
///
///     auto queue = rpc::CompletionQueue::open().value();
///     queue->start<double>(*node, 7, {.timeout = 2s}, "shard-0", "mean");
///     // poll(queue->descriptor()), then:
///     while (auto done = queue->pop()) use(done->tag(), done->take<double>());
class CompletionQueue {
 public:
  /// What may be open, or not fetched yet, at once.
  static constexpr std::size_t kMaxCalls = 1 << 16;

  /// The errors of eventfd(2).
  static Result<std::unique_ptr<CompletionQueue>> open(std::size_t max_calls = kMaxCalls);
  /// Cancels what is open. In a process that was forked from the one that opened the queue it only closes the
  /// descriptor: the calls are the parent's.
  ~CompletionQueue();
  CompletionQueue(const CompletionQueue&) = delete;
  CompletionQueue& operator=(const CompletionQueue&) = delete;

  /// Readable while pop() has something to give. To be polled only, not read. Closed in programs that are
  /// executed.
  int descriptor() const;

  /// Calls `where` (a Node: actor, method, arguments; a RemoteRef: method, arguments) under `tag`. The
  /// arguments are copied; the call begins soon. kAlreadyExists: a call of this tag is open;
  /// kResourceExhausted: fetch some first; kFailedPrecondition: the process was forked. Then nothing has
  /// begun.
  template <class R, class Where, class... Args>
  Result<void> start(Where& where, std::uint64_t tag, CallOptions options, const Args&... args) {
    if (auto place = reserve(tag); !place) return place;
    options.help = false;
    deliver<R>(where.template rpc_async_with<R>(options, args...), tag);
    return {};
  }
  /// Nobody wants the answer of this call any more: kCancelled comes, unless it has come already.
  void cancel(std::uint64_t tag);

  /// What has come first of what is here; nothing if there is none.
  std::optional<Completion> pop();
  /// The same, but waits for it until the timeout has passed, by real time.
  std::optional<Completion> wait(Duration timeout);
  /// Calls that are open, and completions that are not fetched yet.
  std::size_t size() const;

 private:
  class Shared;
  /// Fills the place of a call: with kCancelled, if it is dropped because the node has gone.
  template <class R>
  class Filler {
   public:
    Filler(std::shared_ptr<Shared> queue, std::uint64_t tag) : queue_(std::move(queue)), tag_(tag) {}
    Filler(Filler&&) noexcept = default;
    Filler& operator=(Filler&&) = delete;
    ~Filler() {
      if (queue_) (*this)(Error{Code::kCancelled, "the node has shut down"});
    }
    void operator()(Result<R> result) {
      fill(*std::exchange(queue_, nullptr),
           Completion(tag_, std::make_unique<Completion::ValueOf<R>>(std::move(result))));
    }

   private:
    std::shared_ptr<Shared> queue_;
    std::uint64_t tag_;
  };

  explicit CompletionQueue(std::shared_ptr<Shared> shared);
  static void fill(Shared& queue, Completion completion);
  Result<void> reserve(std::uint64_t tag);
  void set_open(std::uint64_t tag, Loop& loop, std::weak_ptr<detail::Cancellable> call);
  template <class R>
  void deliver(Future<R> future, std::uint64_t tag) {
    Filler<R> filler(shared_, tag);
    if (future.ready()) return filler(future.get());
    Loop& loop = *future.loop();
    set_open(tag, loop, future.cancellable());
    // Not from here: then() might have this thread drive.
    loop.post([future, filler = std::move(filler)]() mutable { future.then(std::move(filler)); });
  }

  std::shared_ptr<Shared> shared_;
};

}  // namespace troupe::rpc
