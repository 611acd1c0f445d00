#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>

#include <troupe/rpc/coroutine.hpp>
#include <troupe/rpc/endpoint.hpp>
#include <troupe/rpc/gather.hpp>

namespace troupe::rpc {

namespace detail {

/// What only the caller can say of an error: the types it called with, the name it may have meant.
/// `signature` gives those types as text.
Error explain(Error error, std::string_view method, std::string (*signature)());

/// The name of a method by itself, if `what` ends with it.
inline std::string_view method_in(std::string_view what) {
  return what.substr(what.rfind('.') + 1);
}

/// The typed value of an answer.
template <class R>
Result<R> decode_reply(
    Result<std::unique_ptr<InMessage>>&& reply, const auto& what,
    std::string (*signature)() = [] { return std::string("another"); }) {
  if (!reply) return with_context(std::move(reply).error(), std::string(what));
  const InMessage& message = **reply;
  if (message.is_error()) {
    const auto named = [&](const std::string& name) {
      return with_context(explain(message.error(), method_in(name), signature), name);
    };
    return named(std::string(what));
  }
  if constexpr (std::is_void_v<R>) {
    return {};
  } else {
    try {
      Result<R> value{R{}};
      if (message.value_count() != 1 || !Codec<R>::decode(message.value(0), *value))
        return Error{Code::kInvalidArgument,
                     std::string(what) + ": its answer is not of type " + Codec<R>::name() +
                         (message.value_count() == 1 ? ", but " + describe(message.value(0)) : "")};
      return value;
    } catch (...) {
      return with_context(current_exception_error("decoding the answer"), std::string(what));
    }
  }
}

template <class... Args>
auto arguments_writer(const Args&... args) {
  return [&](OutMessage& out) {
    out.values(sizeof...(Args));
    [[maybe_unused]] std::uint32_t i = 0;
    (Codec<WireType<Args>>::encode(out.value(i++), args), ...);
  };
}

/// The arguments of a call whose result is to be an R: they can be written into a message, or copied as they
/// are for a callee of the same node.
template <class R, class... Args>
class TypedArguments {
  static constexpr bool kDirect =
      std::is_same_v<R, StoredType<R>> && (std::is_copy_constructible_v<StoredType<Args>> && ...);

 public:
  explicit TypedArguments(const Args&... args) : args_(args...) {}

  void operator()(OutMessage& out) const {
    std::apply([&](const Args&... args) { arguments_writer(args...)(out); }, args_);
  }
  static const void* type() {
    if constexpr (kDirect)
      return direct_type<R, Args...>();
    else
      return nullptr;
  }
  std::unique_ptr<DirectCall> copy(const MessageHeader& header) const {
    if constexpr (kDirect)
      return std::apply(
          [&](const Args&... args) -> std::unique_ptr<DirectCall> {
            return std::make_unique<DirectArguments<StoredType<Args>...>>(header, args...);
          },
          args_);
    else
      return nullptr;
  }

 private:
  std::tuple<const Args&...> args_;
};

template <class R, class... Args>
TypedArguments<R, Args...> typed_arguments(const Args&... args) {
  return TypedArguments<R, Args...>(args...);
}

template <class R, class What>
class SyncCall final : public ReplySink {
 public:
  SyncCall(What what, std::string (*signature)()) : what_(what), signature_(signature) {}
  void on_reply(Result<std::unique_ptr<InMessage>> reply) override {
    result.emplace(decode_reply<R>(std::move(reply), what_, signature_));
  }
  void on_value(void* value) override { result.emplace(std::move(*static_cast<Result<R>*>(value))); }
  std::string called() const override { return std::string(what_); }
  std::optional<Result<R>> result;

 private:
  What what_;
  std::string (*signature_)();
};

/// The future of a call: once begun, keeps itself alive until the answer has come.
template <class R, class What>
class AsyncCall final : public FutureState<R>, public ReplySink {
 public:
  AsyncCall(Endpoint& endpoint, TimePoint deadline, What&& what, std::string (*signature)())
      : FutureState<R>(&endpoint.loop(), deadline),
        endpoint_(endpoint),
        what_(std::move(what)),
        signature_(signature) {}
  void on_reply(Result<std::unique_ptr<InMessage>> reply) override {
    auto self = std::move(self_);
    this->complete(decode_reply<R>(std::move(reply), what_, signature_));
  }
  void on_value(void* value) override {
    auto self = std::move(self_);
    this->complete(std::move(*static_cast<Result<R>*>(value)));
  }
  std::string called() const override { return std::string(what_); }
  const What& what() const { return what_; }
  void cancel() override {
    if (self_)
      endpoint_.cancel(call_id_);
    else
      FutureState<R>::cancel();  // not begun
  }
  /// Sets the deadline. Before anybody else has the call.
  void expect_by(TimePoint deadline) { this->set_loop(endpoint_.loop(), deadline); }
  /// Begins the call, `start(sink)`, unless it was cancelled before. With the turn.
  template <class F>
  static void begin(const std::shared_ptr<AsyncCall>& call, F&& start) {
    if (call->ready()) return;
    call->self_ = call;
    try {
      call->call_id_ = start(*call);
    } catch (...) {
      call->self_.reset();  // there is no call
      throw;
    }
  }

 private:
  Endpoint& endpoint_;
  std::uint64_t call_id_ = 0;
  std::shared_ptr<AsyncCall> self_;
  What what_;
  std::string (*signature_)();
};

/// What a call ends with in a child of the process in which the endpoint was made.
template <class R>
Future<R> refused_in_fork(const std::string& what) {
  auto state = std::make_shared<FutureState<R>>(nullptr, TimePoint::never());
  state->complete(with_context(HomeProcess::error(), what));
  return Future<R>(std::move(state));
}

/// A call that another thread is to begin. If nobody does because the loop ends first, its future ends too.
template <class Call>
class PendingCall {
 public:
  explicit PendingCall(std::shared_ptr<Call> call) : call_(std::move(call)) {}
  PendingCall(PendingCall&&) noexcept = default;
  PendingCall& operator=(PendingCall&&) = delete;
  ~PendingCall() {
    if (call_) call_->complete(Error{Code::kCancelled, "the node has shut down"});
  }
  std::shared_ptr<Call> take() { return std::move(call_); }

 private:
  std::shared_ptr<Call> call_;
};

}  // namespace detail

namespace detail {
/// The end of a call that was not answered in time, or never begun. Apart, so that call_sync_with is short
/// enough to become part of its caller.
template <class R, class What>
[[gnu::noinline, gnu::cold]] Result<R> not_in_time(Endpoint& endpoint, SyncCall<R, What>& call,
                                                   const What& what, const bool& started,
                                                   const std::uint64_t& call_id) {
  Loop& loop = endpoint.loop();
  if (loop.is_forked()) return with_context(HomeProcess::error(), std::string(what));
  const Loop::Turn turn(loop);
  if (started) endpoint.cancel(call_id);
  if (call.result && call.result->ok()) return std::move(*call.result);  // it came just now
  return Error{Code::kDeadlineExceeded, std::string(what) + ": the loop was busy until the deadline"};
}
}  // namespace detail

/// Calls `method` and waits for its answer, doing the loop's work meanwhile. Any thread.
///
/// `start(MethodId, BodyWriter, ReplySink&) -> call id` is run once, with the turn: it finds the callee
/// and makes the call, or gives the sink an error. `what` names the call in errors
/// ("ps0.add"): anything of which a std::string can be made.
template <class R, class What, class Start, class... Args>
Result<R> call_sync_with(Endpoint& endpoint, const CallOptions& options, std::string_view method, What what,
                         Start start, const Args&... args) {
  const Duration timeout = endpoint.timeout_of(options);
  constexpr std::uint64_t kSignature = signature_fingerprint<R, WireType<Args>...>();
  const MethodId id{fnv1a(method), kSignature, method};
  detail::SyncCall<R, What> call(what, &signature_text<R, WireType<Args>...>);
  std::uint64_t call_id = 0;
  bool started = false;
  Loop& loop = endpoint.loop();
  const auto begin = [&] {
    started = true;
    call_id = start(id, detail::typed_arguments<R>(args...), call);
  };
  const auto done = [&] { return call.result.has_value(); };
  // The endpoint ends the call at its deadline; the second is for a turn that was hard to get.
  const Duration patience = timeout > Duration::max() / 2 ? timeout : timeout + std::chrono::seconds(1);
  if (loop.begin_and_wait(std::ref(begin), std::ref(done), patience)) [[likely]]
    return std::move(*call.result);
  return detail::not_in_time(endpoint, call, what, started, call_id);
}

/// Begins a call; its future has the answer. Any thread; the arguments are encoded at once if this
/// thread has the turn or can have it, else copied (tensors share their bytes). `what` and `start`: see
/// call_sync_with; the call keeps both, so `what` owns the names it is made of, and start() is given it last.
template <class R, class What, class Start, class... Args>
Future<R> call_async_with(Endpoint& endpoint, const CallOptions& options, std::string_view method, What what,
                          Start start, const Args&... args) {
  const Duration timeout = endpoint.timeout_of(options);
  using Call = detail::AsyncCall<R, What>;
  constexpr std::uint64_t kSignature = signature_fingerprint<R, WireType<Args>...>();
  MethodId id{fnv1a(method), kSignature, method};
  Loop& loop = endpoint.loop();
  if (loop.is_forked()) [[unlikely]]
    return detail::refused_in_fork<R>(std::string(what));
  const bool in_turn = loop.in_turn();
  auto state = std::make_shared<Call>(endpoint, in_turn ? loop.clock().now() + timeout : TimePoint::never(),
                                      std::move(what), &signature_text<R, WireType<Args>...>);
  const auto begin = [&] {
    if (!in_turn) state->expect_by(loop.now() + timeout);  // by the clock, or little older
    Call::begin(
        state, [&](Call& call) { return start(id, detail::typed_arguments<R>(args...), call, call.what()); });
  };
  if ((!options.help && !in_turn) || !loop.run_if_free(std::ref(begin))) {
    state->expect_by(loop.clock().now() + timeout);
    loop.post([id, text = std::string(method), pending = detail::PendingCall<Call>(state),
               start = std::move(start), leases = detail::leases_of(args...),
               values = std::tuple<detail::StoredType<Args>...>(detail::kept(args)...)]() mutable {
      id.text = text;
      Call::begin(pending.take(), [&](Call& call) {
        return std::apply(
            [&](const auto&... value) {
              return start(id, detail::typed_arguments<R>(value...), call, call.what());
            },
            values);
      });
    });
  }
  return Future<R>(std::move(state));
}

/// call_sync_with for a callee that is known already.
template <class R, class... Args>
Result<R> call_sync(Endpoint& endpoint, CallTarget target, std::string_view method, std::string_view what,
                    const CallOptions& options, const Args&... args) {
  return call_sync_with<R>(
      endpoint, options, method, what,
      [&](MethodId id, const BodyWriter& body, ReplySink& sink) {
        return endpoint.call(target, id, options, body, sink);
      },
      args...);
}

/// call_async_with for a callee that is known already. The endpoint must outlive the call's beginning.
template <class R, class... Args>
Future<R> call_async(Endpoint& endpoint, CallTarget target, std::string_view method, std::string what,
                     const CallOptions& options, const Args&... args) {
  return call_async_with<R>(
      endpoint, options, method, std::move(what),
      [&endpoint, target, options](MethodId id, const BodyWriter& body, ReplySink& sink, const std::string&) {
        return endpoint.call(target, id, options, body, sink);
      },
      args...);
}

}  // namespace troupe::rpc
