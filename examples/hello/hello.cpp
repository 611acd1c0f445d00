// Two processes, one named worker in each: alice calls bob, synchronously and not, to add tensors.
#include <cstdio>
#include <string>

#include <troupe/actors/node.hpp>
#include <troupe/runtime/tensor.hpp>

#include "examples/support/two_processes.hpp"

using namespace troupe;

// [listing]
struct Adder {
  Tensor add(const Tensor& a, const Tensor& b) {
    Tensor sum = a.clone();
    for (std::size_t i = 0; i < sum.as<float>().size(); ++i) sum.as<float>()[i] += b.as<float>()[i];
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
  const Tensor x = Tensor::of<float>({1, 2, 3}), y = Tensor::of<float>({10, 20, 30});
  const Tensor sum = node.rpc_sync<Tensor>("adder", "add", x, y).value();
  rpc::Future<Tensor> later = node.rpc_async<Tensor>("adder", "add", sum, sum);
  const Tensor twice = later.get().value();
  std::printf("bob says: %s, the last element is %g\n", sum.to_string().c_str(), sum.as<float>()[2]);
  std::printf("and twice that: %g\n", twice.as<float>()[2]);
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
