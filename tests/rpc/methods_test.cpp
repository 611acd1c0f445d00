#include <stdexcept>

#include "endpoint_support.hpp"

namespace troupe::rpc::testing {

namespace {

struct Calculator {
  std::int64_t total = 0;
  std::vector<Promise<std::int64_t>> later;
  const Loop* loop = nullptr;

  std::int64_t add(std::int64_t value) { return total += value; }
  std::int64_t get() const noexcept { return total; }
  void reset() { total = 0; }
  Result<double> divide(double a, double b) {
    if (b == 0) return Error{Code::kInvalidArgument, "division by zero"};
    return a / b;
  }
  bool in_time(const CallContext& context, const std::string&) {
    return context.deadline > TimePoint{} && context.session == kLocal && context.trace.span_id == 5;
  }
};

struct Base {
  int inherited() { return 11; }
};
struct Derived : Base {};

/// Calls a table's methods through an endpoint to itself, so that the answers are those of the wire.
class Caller {
 public:
  explicit Caller(const std::shared_ptr<const MethodTable>& table, void* state) {
    duo.a.handler = [table, state](InboundCallPtr call) { table->invoke(state, std::move(call)); };
  }
  template <class R, class... Args>
  Result<R> call(std::string_view method, const Args&... args) {
    auto future = call_async<R>(*duo.a.endpoint, {kLocal, 1}, method, "c", {.trace = {1, 1, 5, 0}}, args...);
    if (!future.ready()) return Error{Code::kUnknown, "pending"};
    return future.get();
  }
  Duo<contract::Sim> duo;
};

Methods<Calculator> calculator_methods(Loop* loop) {
  Methods<Calculator> methods;
  methods.add("add", &Calculator::add)
      .add("get", &Calculator::get)
      .add("reset", &Calculator::reset)
      .add("divide", &Calculator::divide)
      .add("in_time", &Calculator::in_time)
      .add("later",
           [loop](Calculator& self) {
             self.later.emplace_back(*loop);
             return self.later.back().future();
           })
      .add("throws", [](Calculator&, const std::string& what) -> int { throw std::runtime_error(what); })
      .add("throws_int", [](Calculator&) -> void { throw 5; })
      .add("no_memory", [](Calculator&) -> void { throw std::bad_alloc(); })
      .add("bad_result",
           [](Calculator&) {
             return Result<int>(Error{Code::kNotFound, "a row"}).value();
           })
      .add("view",
           [](Calculator&, std::string_view text, std::span<const std::byte> bytes) {
             return std::string(text) + std::to_string(bytes.size());
           })
      .add("lambda_context", [](Calculator&, const CallContext& context, int value) {
        return context.session == kLocal ? value : 0;
      });
  return methods;
}

}  // namespace

TEST_CASE("methods: members, const members, void, Result and lambdas are called") {
  Calculator state;
  Loop* loop = nullptr;
  Caller caller(calculator_methods(loop).table(), &state);
  CHECK(caller.call<std::int64_t>("add", 5).value() == 5);
  CHECK(caller.call<std::int64_t>("add", std::int8_t{-2}).value() == 3);
  CHECK(caller.call<std::int64_t>("get").value() == 3);
  CHECK(caller.call<void>("reset").ok());
  CHECK(state.total == 0);
  CHECK(caller.call<double>("divide", 3.0, 2.0f).value() == 1.5);
  const auto by_zero = caller.call<double>("divide", 1.0, 0.0);
  CHECK(by_zero.error().code == Code::kInvalidArgument);
  CHECK(by_zero.error().message == "c: division by zero");
  CHECK(caller.call<bool>("in_time", "literal").value());
  CHECK(caller.call<int>("lambda_context", 9).value() == 9);
  const std::vector<std::byte> bytes(3);
  CHECK(caller.call<std::string>("view", "ab", bytes).value() == "ab3");
  CHECK(caller.call<std::string>("view", std::string_view("ab"), std::span<const std::byte>(bytes)).value() ==
        "ab3");
}

TEST_CASE("methods: wrong names and types get errors that say what would be right") {
  Calculator state;
  Caller caller(calculator_methods(nullptr).table(), &state);
  const auto unknown = caller.call<int>("subtract", 1);
  CHECK(unknown.error().code == Code::kUnimplemented);
  CHECK(
      unknown.error().message ==
      "c: there is no such method; there are: add, bad_result, divide, get, in_time, lambda_context, later, "
      "no_memory, reset, throws, throws_int, view");
  const std::string expected = "c: called with other types than add(int64) -> int64, namely as ";
  for (const auto& [wrong, came] :
       {std::pair(caller.call<std::int64_t>("add", 1.5), "(float64) -> int64"),
        std::pair(caller.call<std::int64_t>("add"), "() -> int64"),
        std::pair(caller.call<std::int64_t>("add", 1, "x"), "(int32, string) -> int64")}) {
    CHECK(wrong.error().code == Code::kInvalidArgument);
    CHECK(wrong.error().message == expected + came);
  }
  // The caller knows what it called, the callee what there is.
  auto meant =
      call_async<double>(*caller.duo.a.endpoint, {kLocal, 1}, "divdie", "c.divdie", {}, 1.0, 2.0).get();
  CHECK(meant.error().code == Code::kUnimplemented);
  CHECK(meant.error().message.ends_with("view; did you mean 'divide'?"));
  CHECK(caller.call<void>("add", 1).error().code == Code::kInvalidArgument);
  CHECK(state.total == 0);
}

TEST_CASE("methods: a caller without a signature is checked argument by argument") {
  Calculator state;
  Caller caller(calculator_methods(nullptr).table(), &state);
  Answer text, count, right, range;
  Endpoint& endpoint = *caller.duo.a.endpoint;
  start_call(endpoint, {kLocal, 1}, "divide", 1s, text, 1.0, std::string("x"));
  CHECK(text.error->message == "argument 2 is to be float64, not string");
  start_call(endpoint, {kLocal, 1}, "divide", 1s, count, 1.0);
  CHECK(count.error->message == "takes 2 arguments, not 1");
  start_call(endpoint, {kLocal, 1}, "divide", 1s, right, 6, 3);
  CHECK(right.code() == Code::kOk);
  start_call(endpoint, {kLocal, 1}, "add", 1s, range, UINT64_MAX);
  CHECK(range.error->message == "argument 1 is to be int64, not integer");
}

TEST_CASE("methods: exceptions become errors") {
  Calculator state;
  Caller caller(calculator_methods(nullptr).table(), &state);
  const auto thrown = caller.call<int>("throws", "oh");
  CHECK(thrown.error().code == Code::kInternal);
  CHECK(thrown.error().message == "c: the handler threw: oh");
  CHECK(thrown.error().node == "alice");
  CHECK(caller.call<void>("throws_int").error().code == Code::kInternal);
  CHECK(caller.call<void>("no_memory").error().code == Code::kResourceExhausted);
  const auto bad = caller.call<int>("bad_result");
  CHECK(bad.error().code == Code::kNotFound);
  CHECK(bad.error().message == "c: a row");
}

TEST_CASE("methods: a Future answers later, or with an error when it is dropped") {
  Calculator state;
  Duo<contract::Sim> other;
  Caller caller(calculator_methods(&other.world.a).table(), &state);
  Answer first, second;
  start_call(*caller.duo.a.endpoint, {kLocal, 1}, "later", 100s, first);
  start_call(*caller.duo.a.endpoint, {kLocal, 1}, "later", 100s, second);
  CHECK(first.count == 0);
  state.later[0].set(77);
  REQUIRE(first.message);
  std::int64_t value = 0;
  CHECK(first.message->value(0).read_integer(value));
  CHECK(value == 77);
  state.later.clear();
  CHECK(second.code() == Code::kCancelled);
}

TEST_CASE("methods: those of a base class can be a state's") {
  Methods<Derived> methods;
  methods.add("inherited", &Base::inherited);
  Derived state;
  Caller caller(methods.table(), &state);
  CHECK(caller.call<int>("inherited").value() == 11);
}

TEST_CASE("methods: a call that was cancelled before it began does not begin") {
  Calculator state;
  Duo<contract::Sim> duo;
  duo.connect();
  const auto table = calculator_methods(nullptr).table();
  duo.b.handler = [&](InboundCallPtr call) { duo.b.service.kept.push_back(std::move(call)); };
  Answer& answer = duo.answer();
  const auto id = start_call(*duo.a.endpoint, {duo.ab, 1}, "add", 10s, answer, 5);
  REQUIRE(duo.until([&] { return duo.b.service.kept.size() == 1; }));
  duo.a.endpoint->cancel(id);
  REQUIRE(duo.until([&] { return duo.b.service.kept[0]->cancelled(); }));
  table->invoke(&state, std::move(duo.b.service.kept[0]));
  CHECK(state.total == 0);
}

}  // namespace troupe::rpc::testing
