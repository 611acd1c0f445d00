// Tensors that are not what a method takes them for: an error at the caller, and the callee goes on.
#include <cstring>
#include <map>
#include <numeric>

#include <troupe/runtime/tensor_of.hpp>

#include "endpoint_support.hpp"

namespace troupe::rpc::testing {

namespace {

using Vector = TensorOf<float, 1>;

struct Named {
  std::string name;
  Tensor tensor;
};

struct Adder {
  int begun = 0;

  static void methods(Methods<Adder>& methods) {
    methods
        .add("sum",
             [](Adder& self, const Vector& a, const Vector& b) {
               ++self.begun;
               require_same_shape(a, b);
               Vector sum = a.clone();
               const auto to = sum.writable();
               for (std::size_t i = 0; i < to.size(); ++i) to[i] += b[i];
               return sum;
             })
        // As one may write it without thinking of what can come.
        .add("careless",
             [](Adder& self, const Tensor& a, const Tensor& b) {
               ++self.begun;
               Tensor sum = a.clone();
               const auto from = b.reshape(a.shape()).as<const float>();
               for (std::size_t i = 0; i < from.size(); ++i) sum.as<float>()[i] += from[i];
               return sum;
             })
        .add("overwrite",
             [](Adder&, const Tensor& a) {
               std::memset(a.as<std::uint8_t>().data(), 1, a.bytes());
               return a.elements();
             })
        .add("first", [](Adder&, const TensorOf<float>& a) { return a[0]; })
        .add("strides",
             [](Adder&, const Tensor& plain, const std::vector<Tensor>& list,
                const std::optional<Tensor>& maybe, const std::map<std::string, Tensor>& by_name,
                const Named& named) {
               bool dense = plain.is_contiguous() && maybe->is_contiguous() && named.tensor.is_contiguous();
               for (const Tensor& each : list) dense = dense && each.is_contiguous();
               for (const auto& [key, each] : by_name) dense = dense && each.is_contiguous();
               return dense;
             })
        .add("strided", [](Adder&) { return transposed(); })
        .add("size", [](Adder&, const Tensor& a) { return a.elements(); });
  }
  static Tensor transposed() {
    Tensor dense = Tensor::empty(DType::kInt32, Shape{3, 2});
    std::iota(dense.as<std::int32_t>().begin(), dense.as<std::int32_t>().end(), 0);
    return {DType::kInt32, Shape{2, 3}, Shape{1, 2}, dense.buffer(), 0};
  }
};

}  // namespace
}  // namespace troupe::rpc::testing

template <>
struct troupe::rpc::Fields<troupe::rpc::testing::Named> {
  using T = troupe::rpc::testing::Named;
  static constexpr std::string_view name = "Named";
  static constexpr auto fields = std::tuple(&T::name, &T::tensor);
};

namespace troupe::rpc::testing {
namespace {

/// One endpoint that calls an Adder: its own, without messages, or another's over shared memory.
class Caller final : public EndpointEvents {
 public:
  explicit Caller(bool remote) : remote_(remote) {
    Methods<Adder> methods;
    Adder::methods(methods);
    table_ = methods.table();
    duo.b.handler = duo.a.handler = [this](InboundCallPtr call) { table_->invoke(&adder, std::move(call)); };
    if (remote) duo.connect();
    own = std::make_unique<Endpoint>(duo.world.a, duo.world.make(duo.world.a, "own"), options_of(3, "own"),
                                     *this);
  }
  ~Caller() override { own.reset(); }
  void on_call(InboundCallPtr call) override {
    if (call->direct()) ++directly;
    table_->invoke(&adder, std::move(call));
  }
  bool takes_directly(std::uint64_t, std::uint64_t method, const void* type) override {
    const auto* entry = table_->find(method);
    return entry && entry->direct_type == type;
  }
  void on_session(SessionId, const Peer&) override {}
  void on_session_closed(SessionId, const Peer&, const Error&) override {}

  template <class R, class... Args>
  Result<R> call(std::string_view method, const Args&... args) {
    Endpoint& from = remote_ ? *duo.a.endpoint : *own;
    auto future =
        call_async<R>(from, {remote_ ? duo.ab : kLocal, 5}, method, std::string(method), {}, args...);
    REQUIRE(duo.until([&] { return future.ready(); }));
    return future.get();
  }
  /// Like a caller that knows no types, or lies.
  template <class... Args>
  Error refusal(std::string_view method, const Args&... args) {
    Endpoint& from = remote_ ? *duo.a.endpoint : *own;
    Answer& answer = duo.answer();
    start_call(from, {remote_ ? duo.ab : kLocal, 5}, method, 10s, answer, args...);
    REQUIRE(duo.until([&] { return answer.count == 1; }));
    return answer.error.value_or(Error{Code::kOk, "no error"});
  }

  Duo<contract::Shm> duo;
  Adder adder;
  std::unique_ptr<Endpoint> own;
  int directly = 0;

 private:
  bool remote_;
  std::shared_ptr<const MethodTable> table_;
};

}  // namespace

TEST_CASE("tensor types: a parameter's dtype and rank are part of the signature, at other nodes and here") {
  for (const bool remote : {true, false}) {
    CAPTURE(remote);
    Caller caller(remote);
    const Vector x{1, 2, 3}, y{10, 20, 30};
    CHECK(caller.call<Vector>("sum", x, y).value()[2] == 33);
    CHECK(caller.adder.begun == 1);
    CHECK(caller.directly == (remote ? 0 : 1));

    // Callers with types that differ hear both.
    const auto plain = caller.call<Tensor>("sum", x.tensor(), y.tensor());
    REQUIRE_FALSE(plain.ok());
    CHECK(plain.error().code == Code::kInvalidArgument);
    CHECK(plain.error().message.find("(tensor<float32, 1>, tensor<float32, 1>) -> tensor<float32, 1>") !=
          std::string::npos);
    CHECK(plain.error().message.find("(tensor, tensor) -> tensor") != std::string::npos);
    const TensorOf<float, 2> square(Tensor::zeros(DType::kFloat32, Shape{2, 2}));
    CHECK(caller.call<Vector>("sum", square, y).error().code == Code::kInvalidArgument);
    const TensorOf<std::int8_t, 1> small{1, 2, 3};
    CHECK(caller.call<Vector>("sum", small, y).error().code == Code::kInvalidArgument);

    // Those that send no types are looked at.
    for (const Tensor& other : {small.tensor(), square.tensor(), Tensor::zeros(DType::kFloat64, Shape{3})}) {
      const Error refused = caller.refusal("sum", x.tensor(), other);
      CHECK(refused.code == Code::kInvalidArgument);
      CHECK(refused.message == "argument 2 is to be tensor<float32, 1>, not " + other.to_string());
    }
    CHECK(caller.refusal("sum", x.tensor(), std::string("y")).message ==
          "argument 2 is to be tensor<float32, 1>, not string");
    CHECK(caller.adder.begun == 1);
    CHECK(caller.call<float>("first", TensorOf<float>(square.tensor())).value() == 0);
  }
}

TEST_CASE("tensor types: a method that meets other tensors than it thinks ends with an error") {
  for (const bool remote : {true, false}) {
    CAPTURE(remote);
    Caller caller(remote);
    const auto zeros = [](DType dtype, const Shape& shape) { return Tensor::zeros(dtype, shape); };
    const Tensor floats = zeros(DType::kFloat32, Shape{1000});
    for (const Tensor& other : {zeros(DType::kInt8, Shape{1000}), zeros(DType::kFloat32, Shape{999}),
                                zeros(DType::kFloat32, Shape{0}), zeros(DType::kFloat64, Shape{1000})}) {
      CAPTURE(other.to_string());
      for (const auto& [a, b] : {std::pair(floats, other), std::pair(other, floats)}) {
        const auto refused = caller.call<Tensor>("careless", a, b);
        REQUIRE_FALSE(refused.ok());
        CHECK(refused.error().code == Code::kInvalidArgument);
      }
    }
    const Error said = caller.refusal("careless", floats, zeros(DType::kInt8, Shape{1000}));
    CHECK(said.message == "a tensor int8[1000] is not of float32");
    const auto unequal = caller.call<Vector>("sum", Vector{1, 2, 3}, Vector{1, 2});
    REQUIRE_FALSE(unequal.ok());
    CHECK(unequal.error().code == Code::kInvalidArgument);
    CHECK(unequal.error().message.find("float32[3] and float32[2]") != std::string::npos);
    CHECK(caller.call<float>("first", TensorOf<float>()).error().code == Code::kInvalidArgument);
    CHECK(caller.call<Tensor>("careless", floats, floats).ok());
  }
}

TEST_CASE("tensor types: a caller checks the answer's type as well") {
  Caller caller(true);
  CHECK(caller.call<TensorOf<std::int32_t, 2>>("strided").error().code == Code::kInvalidArgument);
  // Past the signature, as a callee that lies would answer.
  caller.duo.b.handler = [](InboundCallPtr call) { call->reply(Tensor::zeros(DType::kInt8, Shape{3})); };
  const auto other = caller.call<Vector>("sum", Vector{1}, Vector{2});
  REQUIRE_FALSE(other.ok());
  CHECK(other.error().code == Code::kInvalidArgument);
  CHECK(other.error().message == "sum: its answer is not of type tensor<float32, 1>, but int8[3]");
}

TEST_CASE("tensor types: another process's memory is read, and writing into it is refused") {
  Caller caller(true);
  const Tensor shared = Tensor::empty(DType::kUInt8, Shape{1 << 20}, caller.duo.a.endpoint->shared_pool());
  std::memset(shared.data(), 0, shared.bytes());
  REQUIRE(SharedPool::locate(shared.buffer()));
  const auto refused = caller.call<std::int64_t>("overwrite", shared);
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.error().code == Code::kInvalidArgument);
  CHECK(refused.error().message.find("another process's memory") != std::string::npos);
  CHECK(caller.call<std::int64_t>("overwrite", shared.clone()).value() == 1 << 20);
  CHECK(shared.data()[0] == std::byte{0});
}

TEST_CASE("tensor types: strided tensors come dense, from here as from other nodes") {
  for (const bool remote : {true, false}) {
    CAPTURE(remote);
    Caller caller(remote);
    const Tensor strided = Adder::transposed();
    REQUIRE_FALSE(strided.is_contiguous());
    const auto dense = caller.call<bool>("strides", strided, std::vector<Tensor>{strided, strided},
                                         std::optional<Tensor>(strided),
                                         std::map<std::string, Tensor>{{"a", strided}}, Named{"n", strided});
    REQUIRE_MESSAGE(dense.ok(), dense.error().to_string());
    CHECK(*dense);
    CHECK(caller.directly == (remote ? 0 : 1));
    const Tensor answer = caller.call<Tensor>("strided").value();
    CHECK(answer.is_contiguous());
    CHECK(answer.as<const std::int32_t>()[1] == 2);
  }
}

TEST_CASE(
    "tensor types: device memory passes on its own node, if it is dense; others need to be given its GPU") {
  static std::byte memory[64];
  const Tensor device(DType::kUInt8, Shape{64},
                      Buffer::adopt(memory, sizeof memory, {MemoryKind::kDevice, 0}, [] {}));
  const Tensor strided(DType::kUInt8, Shape{8, 8}, Shape{1, 8}, device.buffer(), 0);
  std::vector<std::string> texts;
  for (const bool remote : {true, false}) {
    Caller caller(remote);
    const auto refused = caller.call<std::int64_t>("size", strided);
    REQUIRE_FALSE(refused.ok());
    CHECK(refused.error().code == Code::kUnimplemented);
    texts.push_back(refused.error().message);
    const auto dense = caller.call<std::int64_t>("size", device);
    CHECK(dense.ok() == !remote);
    if (remote) CHECK(dense.error().code == Code::kFailedPrecondition);
  }
  CHECK(texts[0] == texts[1]);
}

}  // namespace troupe::rpc::testing
