#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <troupe/actors/node.hpp>

/// States of the actors that tests call.
namespace troupe::test {

struct Calculator {
  std::int64_t count = 0;

  static void methods(rpc::Methods<Calculator>& methods) {
    methods
        .add("add",
             [](Calculator&, const Tensor& x, const Tensor& y) {
               Tensor sum = Tensor::empty(DType::kFloat32, x.shape());
               for (std::size_t i = 0; i < sum.as<float>().size(); ++i)
                 sum.as<float>()[i] = x.as<const float>()[i] + y.as<const float>()[i];
               return sum;
             })
        .add("plus", [](Calculator&, std::int64_t a, std::int64_t b) { return a + b; })
        .add("count", [](Calculator& self) { return ++self.count; })
        .add("greet", [](Calculator&, const std::string& name) { return "hello " + name; })
        .add("nothing", [](Calculator&) {})
        .add("refuse",
             [](Calculator&, const std::string& why) -> Result<std::int64_t> {
               return Error{Code::kFailedPrecondition, why};
             })
        .add("explode",
             [](Calculator&, const std::string& why) -> std::int64_t { throw std::runtime_error(why); });
  }
};

/// Answers when told to.
struct Holder {
  explicit Holder(Node& own_node) : node(own_node) {}
  Node& node;
  std::vector<rpc::Promise<std::int64_t>> held;

  static void methods(rpc::Methods<Holder>& methods) {
    methods
        .add("hold",
             [](Holder& self, const rpc::CallContext& context) {
               self.held.emplace_back(self.node.loop(), context.deadline);
               return self.held.back().future();
             })
        .add("held", [](Holder& self) { return static_cast<std::int64_t>(self.held.size()); })
        .add("release", [](Holder& self, std::int64_t value) {
          for (auto& promise : std::exchange(self.held, {})) promise.set(value);
        });
  }
};

/// Calls another actor from inside its own handler and waits.
struct Relay {
  explicit Relay(Node& own_node) : node(own_node) {}
  Node& node;

  static void methods(rpc::Methods<Relay>& methods) {
    methods
        .add("ask", [](Relay& self, const std::string& actor,
                       const std::string& method) { return self.node.rpc_sync<std::int64_t>(actor, method); })
        .add("kill", [](Relay& self, const std::string& actor) { return self.node.kill(actor); });
  }
};

}  // namespace troupe::test
