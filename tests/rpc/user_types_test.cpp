// Every kind of argument and result in one round trip through a message, and as a method's types.
#include <troupe/rpc/capnp.hpp>
#include <troupe/rpc/functions.hpp>

#include "endpoint_support.hpp"
#include "wire/capnp_support.hpp"

namespace troupe::rpc::testing {

enum class Mode : std::uint8_t { kSlow = 1, kFast = 200 };

struct Task {
  std::string name;
  Mode mode = Mode::kSlow;
  std::optional<double> weight;
  std::map<std::string, std::vector<std::int64_t>> ranges;
  std::vector<Tensor> tensors;
  bool operator==(const Task& other) const {
    return name == other.name && mode == other.mode && weight == other.weight && ranges == other.ranges &&
           tensors.size() == other.tensors.size();
  }
};

}  // namespace troupe::rpc::testing

template <>
struct troupe::rpc::Fields<troupe::rpc::testing::Task> {
  using Task = troupe::rpc::testing::Task;
  static constexpr std::string_view name = "Task";
  static constexpr auto fields =
      std::tuple(&Task::name, &Task::mode, &Task::weight, &Task::ranges, &Task::tensors);
};

namespace troupe::rpc::testing {

namespace {

std::int64_t twice(std::int64_t value) {
  return 2 * value;
}
double half(double value) noexcept {
  return value / 2;
}

inline constexpr Function<std::string(std::string, std::int64_t)> kRepeat{"repeat", 3s};

template <class T>
T same(T value) {
  return value;
}

/// Calls functions through an endpoint to itself.
struct Local {
  explicit Local(const Functions& functions) {
    duo.a.handler = [table = functions.table()](InboundCallPtr call) {
      table->invoke(nullptr, std::move(call));
    };
  }
  template <class R, class... Args>
  Result<R> call(std::string_view method, const Args&... args) {
    return call_async<R>(*duo.a.endpoint, {kLocal, 1}, method, "f." + std::string(method), {}, args...).get();
  }
  Duo<contract::Sim> duo;
};

}  // namespace

TEST_CASE("functions: free functions, lambdas and declared ones are called by name") {
  Functions functions;
  functions.add("twice", &twice)
      .add("half", half)
      .add("who", [](const CallContext& context, bool yes) { return yes && context.session == kLocal; })
      .add(kRepeat,
           [](const std::string& text, std::int64_t times) {
             std::string all;
             for (std::int64_t i = 0; i < times; ++i) all += text;
             return all;
           })
      .add("later", [](std::int64_t value) -> Future<std::int64_t> { co_return value + 1; })
      .add("nothing", [] {});
  Local local(functions);
  CHECK(local.call<std::int64_t>("twice", 21).value() == 42);
  CHECK(local.call<double>("half", 3.0).value() == 1.5);
  CHECK(local.call<bool>("who", true).value());
  CHECK(local.call<std::string>(kRepeat.name, "ab", 3).value() == "ababab");
  CHECK(local.call<std::int64_t>("later", 1).value() == 2);
  CHECK(local.call<void>("nothing").ok());
  Methods<int> methods;  // declared ones, of a state
  methods.add(kRepeat, [](int& state, const std::string& text, int times) -> Result<std::string> {
    return text + std::to_string(state + times);
  });
  CHECK(methods.table()->find(fnv1a("repeat"))->signature ==
        Function<std::string(std::string, std::int64_t)>::kSignature);
  CHECK(kRepeat.options({}).timeout == Duration(3s));
  CHECK(kRepeat.options({.timeout = 1s}).timeout == Duration(1s));
  CHECK(local.call<std::int64_t>("twise", 21).error().message ==
        "f.twise: there is no such method; there are: half, later, nothing, repeat, twice, who; did you mean "
        "'twice'?");
}

TEST_CASE("functions: values of every kind come back as they went") {
  Functions functions;
  functions.add("mode", &same<Mode>)
      .add("task", &same<Task>)
      .add("maybe", &same<std::optional<std::string>>)
      .add("tensors", &same<std::vector<Tensor>>)
      .add("map", &same<std::unordered_map<std::int64_t, std::pair<bool, std::string>>>)
      .add("flags", &same<std::vector<bool>>)
      .add("deep", &same<std::vector<std::optional<std::map<std::string, std::vector<double>>>>>)
      .add("bytes", &same<std::vector<std::byte>>);
  Local local(functions);
  CHECK(local.call<Mode>("mode", Mode::kFast).value() == Mode::kFast);
  Task task{"t", Mode::kFast, 0.5, {{"a", {1, 2}}, {"b", {}}}, {}};
  task.tensors = {Tensor::of<float>({1, 2, 3}), Tensor::zeros(DType::kInt64, {0}), Tensor::of<float>({4})};
  const auto back = local.call<Task>("task", task).value();
  CHECK(back == task);
  CHECK(back.tensors[0].as<float>()[2] == 3);
  CHECK(back.tensors[1].elements() == 0);
  CHECK(back.tensors[2].as<float>()[0] == 4);
  CHECK(local.call<std::optional<std::string>>("maybe", std::optional<std::string>("x")).value() == "x");
  CHECK_FALSE(local.call<std::optional<std::string>>("maybe", std::optional<std::string>()).value());
  CHECK(local.call<std::vector<Tensor>>("tensors", std::vector<Tensor>{}).value().empty());
  CHECK(local.call<std::vector<Tensor>>("tensors", std::vector(300, task.tensors[2])).value().size() == 300);
  const std::unordered_map<std::int64_t, std::pair<bool, std::string>> map{{-1, {true, "m"}},
                                                                           {5, {false, ""}}};
  CHECK(local.call<std::decay_t<decltype(map)>>("map", map).value() == map);
  const std::vector<bool> flags{true, false, true};
  CHECK(local.call<std::vector<bool>>("flags", flags).value() == flags);
  const std::vector<std::optional<std::map<std::string, std::vector<double>>>> deep{
      std::nullopt, std::map<std::string, std::vector<double>>{{"k", {1.5}}}};
  CHECK(local.call<std::decay_t<decltype(deep)>>("deep", deep).value() == deep);
  const std::vector<std::byte> bytes{std::byte{1}, std::byte{0}};
  CHECK(local.call<std::vector<std::byte>>("bytes", bytes).value() == bytes);
}

TEST_CASE("functions: Cap'n Proto structs travel as they are") {
  using Info = Capnp<wire::ErrorInfo>;
  Functions functions;
  functions.add("swap", [](const Info& info) {
    return Info::build([&](wire::ErrorInfo::Builder out) {
      out.setMessage(info.reader().getNode());
      out.setNode(info.reader().getMessage());
      out.setTraceId(info.reader().getTraceId() + 1);
    });
  });
  Local local(functions);
  const auto sent = Info::build([](wire::ErrorInfo::Builder out) {
    out.setMessage("left");
    out.setNode("right");
    out.setTraceId(41);
  });
  const Info copy(sent.reader());
  const auto swapped = local.call<Info>("swap", copy).value();
  CHECK(std::string(swapped.reader().getMessage().cStr()) == "right");
  CHECK(std::string(swapped.reader().getNode().cStr()) == "left");
  CHECK(swapped.reader().getTraceId() == 42);
  CHECK(local.call<Info>("swap", Info()).value().reader().getTraceId() == 1);
  const auto other = local.call<Info>("swap", Capnp<wire::Hello>());
  CHECK(other.error().message ==
        "f.swap: called with other types than swap(ErrorInfo) -> ErrorInfo, namely as (Hello) -> ErrorInfo");
}

TEST_CASE("functions: bytes that are no Cap'n Proto message are refused or fail when read, and harm nobody") {
  using Info = Capnp<wire::ErrorInfo>;
  Functions functions;
  functions.add("length", [](const Info& info) { return info.reader().getMessage().size(); });
  Local local(functions);
  const auto good = Info::build([](wire::ErrorInfo::Builder out) { out.setMessage("0123456789"); });
  const std::vector<std::byte> whole(good.bytes().begin(), good.bytes().end());
  for (std::size_t at = 0; at < whole.size(); ++at) {
    for (const std::byte mask : {std::byte{0xff}, std::byte{1}, std::byte{0x80}}) {
      auto bytes = whole;
      bytes[at] ^= mask;
      // As a caller without types: a typed one would be refused.
      Answer answer;
      start_call(*local.duo.a.endpoint, {kLocal, 1}, "length", 1s, answer, bytes);
      CHECK(answer.count == 1);
    }
  }
  for (const std::size_t length : {std::size_t{0}, std::size_t{7}, std::size_t{8}, whole.size() - 8}) {
    Answer answer;
    start_call(*local.duo.a.endpoint, {kLocal, 1}, "length", 1s, answer,
               std::vector<std::byte>(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length)));
    CHECK(answer.count == 1);
  }
}

}  // namespace troupe::rpc::testing
