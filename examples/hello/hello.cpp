// Two processes, one named worker in each: alice calls bob, synchronously and not, to add tensors.
#include <cstdio>
#include <span>
#include <string>

#include <troupe/actors/node.hpp>
#include <troupe/runtime/tensor_of.hpp>

#include "examples/support/two_processes.hpp"

using namespace troupe;

// [listing]
using Vector = TensorOf<float, 1>;  // a tensor of float32 with one axis: what else comes is refused

struct Adder {
  Vector add(const Vector& a, const Vector& b) {
    require_same_shape(a, b);
    Vector sum = a.clone();
    const std::span<float> to = sum.writable();
    for (std::size_t i = 0; i < to.size(); ++i) to[i] += b[i];
    return sum;
  }
  static void methods(rpc::Methods<Adder>& methods) { methods.add("add", &Adder::add); }
};

void bob(const std::string& address) {
  auto node = Node::start({.name = "bob", .registry = address}).value();
  node->spawn<Adder>("adder").value();
  (void)node->run();  // until alice, who keeps the registry, has gone
}

void alice(Node& node) {
  node.wait_for_actor("adder", std::chrono::seconds(10)).value();
  const Vector x{1, 2, 3}, y{10, 20, 30};
  const Vector sum = node.rpc_sync<Vector>("adder", "add", x, y).value();
  rpc::Future<Vector> later = node.rpc_async<Vector>("adder", "add", sum, sum);
  const Vector twice = later.get().value();
  std::printf("bob says: %s, the last element is %g\n", sum.to_string().c_str(), sum[2]);
  std::printf("and twice that: %g\n", twice[2]);
}
// [listing]

int main(int argc, char** argv) {
  return examples::two_processes(
      argc, argv,
      "hello: two named workers in two processes add tensors for each other; it takes no arguments",
      [](const std::string& address) { bob(address); },
      [](const auto& tell) {
        auto node = Node::start({.name = "alice"}).value();
        tell(node->address());
        alice(*node);
      });
}
