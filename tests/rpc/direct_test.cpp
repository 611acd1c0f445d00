// Calls of an endpoint to itself that need no message: the same as those that do, but for the message.
#include "tracing_support.hpp"

namespace troupe::rpc::testing {

namespace {

struct State {
  Loop* loop = nullptr;
  std::vector<InboundCallPtr> waiting;
  std::vector<Promise<std::string>> promises;
  int direct = 0, encoded = 0;
  bool busy = false;
  bool fail_at_the_end = false;
  std::function<Future<std::int64_t>(std::int64_t)> go_down;
};

/// An endpoint whose actor's methods can be called directly, and which counts how it is called.
class Self final : public EndpointEvents {
 public:
  explicit Self(EndpointOptions bounds = options_of(1, "alice")) {
    Methods<State> methods;
    methods.add("plus", [](State&, std::int64_t a, std::int64_t b) { return a + b; })
        .add("view",
             [](State&, std::string_view text, std::span<const std::byte> bytes) {
               return std::string(text) + std::to_string(bytes.size());
             })
        .add("change",
             [](State&, std::vector<float> values, const Tensor& tensor) {
               values[0] = 9;
               tensor.as<float>()[0] = 9;
               return static_cast<std::int64_t>(values.size());
             })
        .add("fail",
             [](State&, const std::string& why) -> Result<std::int64_t> {
               return Error{Code::kAborted, why};
             })
        .add("throws", [](State&) -> std::int64_t { throw std::runtime_error("oh"); })
        .add("later",
             [](State& own, const CallContext& context) {
               CHECK(context.session == kLocal);
               own.promises.emplace_back(*own.loop);
               return own.promises.back().future();
             })
        .add("down",
             [](State& own, std::int64_t left) {
               if (left > 0)
                 return own.go_down(left - 1).then([](Result<std::int64_t> sum) -> Result<std::int64_t> {
                   if (!sum) return Error{sum.error().code, "below"};
                   return *sum + 1;
                 });
               Promise<std::int64_t> end(*own.loop);
               end.set(own.fail_at_the_end ? Result<std::int64_t>(Error{Code::kAborted, "the end"}) : 0);
               return end.future();
             })
        .add("nothing", [](State&) {});
    table_ = methods.table();
    endpoint = std::make_unique<Endpoint>(world.a, world.make(world.a, "a"), std::move(bounds), *this);
    state.loop = &world.a;
  }
  ~Self() override { endpoint.reset(); }
  Self(const Self&) = delete;
  Self& operator=(const Self&) = delete;

  template <class R, class... Args>
  Future<R> call(std::string_view method, const Args&... args) {
    return call_async<R>(*endpoint, {kLocal, 1}, method, "a." + std::string(method), options, args...);
  }
  void on_call(InboundCallPtr call) override {
    ++(call->direct() ? state.direct : state.encoded);
    if (state.busy) return state.waiting.push_back(std::move(call));
    table_->invoke(&state, std::move(call));
  }
  bool takes_directly(std::uint64_t, std::uint64_t method, const void* type) override {
    const auto* entry = table_->find(method);
    return entry && entry->direct_type == type;
  }
  void on_session(SessionId, const Peer&) override {}
  void on_session_closed(SessionId, const Peer&, const Error&) override {}
  void go_on() {
    state.busy = false;
    for (auto& call : std::exchange(state.waiting, {})) table_->invoke(&state, std::move(call));
  }

  contract::Sim world;
  State state;
  CallOptions options;
  std::unique_ptr<Endpoint> endpoint;

 private:
  std::shared_ptr<const MethodTable> table_;
};

}  // namespace

TEST_CASE("direct: equal types need no message, others get one") {
  Self self;
  CHECK(self.call<std::int64_t>("plus", std::int64_t{1}, std::int64_t{2}).get().value() == 3);
  CHECK(self.call<std::string>("view", "ab", std::vector<std::byte>(3)).get().value() == "ab3");
  CHECK(self.call<std::string>("view", std::string(100, 'x'), std::span<const std::byte>()).get().value() ==
        std::string(100, 'x') + "0");
  CHECK(self.call<void>("nothing").get().ok());
  CHECK(self.state.direct == 4);
  CHECK(self.state.encoded == 0);
  CHECK(self.call<std::int64_t>("plus", 1, 2).get().value() == 3);  // int is not int64
  CHECK(self.call<int>("plus", std::int64_t{1}, std::int64_t{2}).get().value() == 3);
  CHECK(self.call<std::int64_t>("plus", 1.5, 2).get().error().code == Code::kInvalidArgument);
  CHECK(self.call<void>("none").get().error().code == Code::kUnimplemented);
  CHECK(self.state.direct == 4);
  CHECK(self.state.encoded == 4);
  CHECK(self.endpoint->open_calls() == 0);
}

TEST_CASE("direct: traces have the same spans with a message and without") {
  NodeTraces traces(1, 1);
  Self self(traced(options_of(1, "alice"), &traces.tracer));
  traces.clock.clock = &self.world.a.clock();
  CHECK(self.call<std::int64_t>("plus", std::int64_t{1}, std::int64_t{2}).get().ok());
  CHECK(self.call<std::int64_t>("plus", 1, 2).get().ok());
  CHECK(self.call<std::int64_t>("fail", "why").get().error().trace_id != 0);
  CHECK(self.call<std::int64_t>("throws").get().error().trace_id != 0);
  CHECK(self.state.direct == 3);
  const auto spans = traces.take();
  REQUIRE(spans.size() == 8);
  for (std::size_t i = 0; i < spans.size(); i += 2) {
    const Span& server = spans[i];
    const Span& client = spans[i + 1];
    CHECK(server.kind == SpanKind::kServer);
    CHECK(client.kind == SpanKind::kClient);
    CHECK(server.parent_id == client.context.span_id);
    CHECK(lies_within(server, client));
    CHECK(*client.peer == "alice");
    CHECK(client.code == server.code);
    CHECK(server.code == (i < 4 ? Code::kOk : i == 4 ? Code::kAborted : Code::kInternal));
  }
}

TEST_CASE("direct: arguments are values, of which tensors share their elements") {
  Self self;
  std::vector<float> values{1, 2};
  Tensor tensor = Tensor::of<float>({1, 2});
  CHECK(self.call<std::int64_t>("change", values, tensor).get().value() == 2);
  CHECK(self.state.direct == 1);
  CHECK(values[0] == 1);
  CHECK(tensor.as<float>()[0] == 9);

  self.state.busy = true;
  auto waiting = self.call<std::string>("view", std::string_view("before"), std::vector<std::byte>{});
  std::string text = "kept as it was when the call was made";
  auto second = self.call<std::string>("view", text, std::vector<std::byte>{});
  text = "changed";
  self.go_on();
  CHECK(waiting.get().value() == "before0");
  CHECK(second.get().value() == "kept as it was when the call was made0");
}

TEST_CASE("direct: errors and exceptions are those of any call") {
  Self self;
  const auto failed = self.call<std::int64_t>("fail", "why").get();
  CHECK(failed.error().code == Code::kAborted);
  CHECK(failed.error().message == "a.fail: why");
  CHECK(failed.error().node == "alice");
  const auto thrown = self.call<std::int64_t>("throws").get();
  CHECK(thrown.error().code == Code::kInternal);
  CHECK(thrown.error().message == "a.throws: the handler threw: oh");
  CHECK(self.state.encoded == 0);
}

TEST_CASE(
    "direct: a call that is not answered ends at its deadline, or when cancelled, and the callee sees it") {
  Self self;
  self.options.timeout = 100ms;
  auto late = self.call<std::string>("later");
  auto dropped = self.call<std::string>("later");
  auto cancelled = self.call<std::string>("later");
  auto answered = self.call<std::string>("later");
  CHECK(self.state.direct == 4);
  self.state.promises[3].set(std::string("yes"));
  CHECK(answered.get().value() == "yes");
  cancelled.cancel();
  CHECK(cancelled.get().error().code == Code::kCancelled);
  self.state.promises[1].set(Error{Code::kNotFound, "a row"});
  CHECK(dropped.get().error().code == Code::kNotFound);
  CHECK(late.get().error().code == Code::kDeadlineExceeded);
  CHECK(self.state.promises[0].future().ready());  // with kCancelled
  CHECK(self.endpoint->open_calls() == 0);
}

TEST_CASE("direct: calls may lie in one another to any depth") {
  Self self;
  self.state.go_down = [&](std::int64_t left) { return self.call<std::int64_t>("down", left); };
  auto answer = self.call<std::int64_t>("down", std::int64_t{20'000});
  CHECK(answer.get().value() == 20'000);
  self.state.fail_at_the_end = true;
  auto error = self.call<std::int64_t>("down", std::int64_t{20'000});
  CHECK(error.get().error().code == Code::kAborted);
  CHECK(self.state.encoded == 0);
  CHECK(self.endpoint->open_calls() == 0);
}

TEST_CASE("direct: what is open when the endpoint shuts down is cancelled") {
  Self self;
  self.state.busy = true;
  auto waiting = self.call<std::int64_t>("plus", std::int64_t{1}, std::int64_t{2});
  self.state.busy = false;
  auto open = self.call<std::string>("later");
  self.endpoint->shut_down();
  CHECK(waiting.get().error().code == Code::kCancelled);
  CHECK(open.get().error().code == Code::kCancelled);
  CHECK(self.call<void>("nothing").get().error().code == Code::kCancelled);
  self.go_on();
  self.state.promises.clear();
}

TEST_CASE("direct: bounds on open and unanswered calls hold") {
  EndpointOptions options = options_of(1, "alice");
  options.limits.max_open_calls = 2;
  Self self(options);
  auto first = self.call<std::string>("later");
  auto second = self.call<std::string>("later");
  CHECK(self.call<void>("nothing").get().error().code == Code::kResourceExhausted);

  options = options_of(1, "alice");
  options.limits.max_inbound_calls = 1;
  Self other(options);
  auto kept = other.call<std::string>("later");
  CHECK(other.call<void>("nothing").get().error().code == Code::kResourceExhausted);
}

}  // namespace troupe::rpc::testing
