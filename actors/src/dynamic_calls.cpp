#include <troupe/actors/dynamic_calls.hpp>

#include <optional>
#include <utility>

#include <troupe/rpc/client.hpp>

namespace troupe {

namespace {

std::string name_of(std::string_view actor, std::string_view method) {
  return std::string(actor) + "." + std::string(method);
}

std::string no_signature() {
  return "another";
}

/// The answer, or its error with what only the caller can say of it.
Result<DynamicCalls::Answer> opened(Result<DynamicCalls::Answer>&& reply, std::string_view actor,
                                    std::string_view method, const rpc::AnySignature* signature) {
  if (!reply) return with_context(std::move(reply).error(), name_of(actor, method));
  if (!(*reply)->is_error()) return std::move(reply);
  Error error = (*reply)->error();
  if (signature && error.cause == rpc::detail::kTypesDiffer)
    error.message += ", namely as " + signature->to_string();
  else
    error = rpc::detail::explain(std::move(error), method, &no_signature);
  return with_context(std::move(error), name_of(actor, method));
}

}  // namespace

class DynamicCalls::SyncAnswer final : public rpc::ReplySink {
 public:
  explicit SyncAnswer(const Method& method) : method_(method) {}
  void on_reply(Result<Answer> reply) override {
    result.emplace(opened(std::move(reply), method_.actor, method_.name, method_.signature.get()));
  }
  std::string called() const override { return name_of(method_.actor, method_.name); }
  std::optional<Result<Answer>> result;

 private:
  const Method& method_;
};

/// As rpc::detail::AsyncCall.
class DynamicCalls::AsyncAnswer final : public rpc::detail::FutureState<Answer>, public rpc::ReplySink {
 public:
  AsyncAnswer(rpc::Endpoint& endpoint, TimePoint deadline, const Method& method)
      : FutureState<Answer>(&endpoint.loop(), deadline),
        actor(method.actor),
        name(method.name),
        endpoint_(endpoint),
        signature_(method.signature) {}
  void on_reply(Result<Answer> reply) override {
    const auto self = std::move(self_);
    this->complete(opened(std::move(reply), actor, name, signature_.get()));
  }
  std::string called() const override { return name_of(actor, name); }
  void cancel() override {
    if (self_)
      endpoint_.cancel(call_id_);
    else
      FutureState<Answer>::cancel();  // not begun
  }
  void expect_by(TimePoint deadline) { this->set_loop(endpoint_.loop(), deadline); }
  template <class F>
  static void begin(const std::shared_ptr<AsyncAnswer>& call, F&& start) {
    if (call->ready()) return;
    call->self_ = call;
    try {
      call->call_id_ = start(*call);
    } catch (...) {
      call->self_.reset();  // there is no call
      throw;
    }
  }

  const std::string actor, name;

 private:
  rpc::Endpoint& endpoint_;
  const std::shared_ptr<const rpc::AnySignature> signature_;
  std::uint64_t call_id_ = 0;
  std::shared_ptr<AsyncAnswer> self_;
};

Result<DynamicCalls::Answer> DynamicCalls::call(const rpc::CallOptions& options, const Method& method,
                                                const rpc::BodyWriter& body) {
  rpc::Endpoint& endpoint = node_.endpoint();
  Loop& loop = endpoint.loop();
  const Duration timeout = endpoint.timeout_of(options);
  const rpc::MethodId id{rpc::fnv1a(method.name), method.fingerprint, method.name};
  SyncAnswer answer(method);
  std::uint64_t call_id = 0;
  bool started = false;
  const auto begin = [&] {
    started = true;
    call_id = node_.call(method.actor, id, options, body, answer);
  };
  const auto done = [&] { return answer.result.has_value(); };
  // As in rpc::call_sync_with().
  const Duration patience = timeout > Duration::max() / 2 ? timeout : timeout + std::chrono::seconds(1);
  if (loop.begin_and_wait(std::ref(begin), std::ref(done), patience)) [[likely]]
    return std::move(*answer.result);
  const std::string what = name_of(method.actor, method.name);
  if (loop.is_forked()) return with_context(HomeProcess::error(), what);
  const Loop::Turn turn(loop);
  if (started) endpoint.cancel(call_id);
  if (answer.result && answer.result->ok()) return std::move(*answer.result);  // it came just now
  return Error{Code::kDeadlineExceeded, what + ": the loop was busy until the deadline"};
}

rpc::Future<DynamicCalls::Answer> DynamicCalls::call_async(const rpc::CallOptions& options,
                                                           const Method& method, Body body) {
  rpc::Endpoint& endpoint = node_.endpoint();
  Loop& loop = endpoint.loop();
  if (loop.is_forked()) [[unlikely]]
    return rpc::detail::refused_in_fork<Answer>(name_of(method.actor, method.name));
  const Duration timeout = endpoint.timeout_of(options);
  const bool in_turn = loop.in_turn();
  auto call = std::make_shared<AsyncAnswer>(
      endpoint, in_turn ? loop.clock().now() + timeout : TimePoint::never(), method);
  const std::uint64_t name = rpc::fnv1a(method.name), fingerprint = method.fingerprint;
  const auto start = [&node = node_, name, fingerprint](const rpc::CallOptions& how, Body& write,
                                                        AsyncAnswer& sink) {
    const auto writer = [&](rpc::OutMessage& out) { write(out); };
    return node.call(sink.actor, {name, fingerprint, sink.name}, how, writer, sink);
  };
  const auto begin = [&] {
    if (!in_turn) call->expect_by(loop.now() + timeout);
    AsyncAnswer::begin(call, [&](AsyncAnswer& sink) { return start(options, body, sink); });
  };
  if ((!options.help && !in_turn) || !loop.run_if_free(std::ref(begin))) {
    call->expect_by(loop.clock().now() + timeout);
    loop.post([start, options, body = std::move(body),
               pending = rpc::detail::PendingCall<AsyncAnswer>(call)]() mutable {
      AsyncAnswer::begin(pending.take(), [&](AsyncAnswer& sink) { return start(options, body, sink); });
    });
  }
  return rpc::Future<Answer>(std::move(call));
}

Result<void> DynamicCalls::send(const rpc::CallOptions& options, const Method& method,
                                const rpc::BodyWriter& body) {
  return node_.tell(method.actor, method.name, options, body);
}

}  // namespace troupe
