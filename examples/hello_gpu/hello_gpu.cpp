// Two processes with a GPU: alice calls bob with a tensor that stays on the device all the way.
#include <cstdio>
#include <string>

#include <troupe/actors/node.hpp>
#include <troupe/kernels/vector.hpp>
#include <troupe/runtime/gpu_memory.hpp>

#include "examples/support/two_processes.hpp"

using namespace troupe;
using kernels::Element;

// [listing]
struct OwnGpu {
  explicit OwnGpu(const Gpu& opened) : gpu(opened), stream(gpu.make_stream().value()), pool(gpu) {}
  Gpu gpu;
  Stream stream;  // an order of work on it
  GpuPool pool;   // memory that other processes can map
};

struct Halver {  // float32 becomes float16
  explicit Halver(const Gpu& gpu) : own(gpu) {}
  OwnGpu own;
  Result<Tensor> halve(const Tensor& x) {
    Tensor half = own.pool.empty(DType::kFloat16, x.shape(), own.stream).value();
    if (auto begun = begin_read(x.buffer(), own.stream); !begun) return begun.error();
    const auto launch =
        kernels::cast(kernels::Place::gpu(own.stream.native(), x.device().ordinal), Element::kFloat32,
                      x.data(), Element::kFloat16, half.data(), x.elements());
    if (auto given = own.stream.launched(launch.kernel, launch.error); !given) return given.error();
    if (auto written = end_write(half.buffer(), own.stream); !written) return written.error();
    return half;  // sent when the kernel is done, and nobody waits for that
  }
  static void methods(rpc::Methods<Halver>& methods) { methods.add("halve", &Halver::halve); }
};

void bob(const std::string& address) {
  const Gpu gpu = Gpu::open(0).value();
  auto node = Node::start({.name = "bob", .registry = address, .gpus = {gpu}}).value();
  node->spawn<Halver>("halver", gpu).value();
  (void)node->run();  // until alice, who keeps the registry, has gone
}

void alice(Node& node, OwnGpu& device) {
  node.wait_for_actor("halver", std::chrono::seconds(20)).value();
  const Tensor x = device.pool.empty(DType::kFloat32, Shape{1 << 20}, device.stream).value();
  device.stream.fill(x.data(), 0, x.bytes()).value();
  end_write(x.buffer(), device.stream).value();
  const Tensor half = node.rpc_sync<Tensor>("halver", "halve", x).value();
  std::printf("bob says: %s, on GPU %d\n", half.to_string().c_str(), half.device().ordinal);
}
// [listing]

int main(int argc, char** argv) {
  return examples::two_processes(
      argc, argv, "hello_gpu: two processes with a GPU halve a tensor on it; it takes no arguments",
      [](const std::string& address) {
        if (address != "none") bob(address);
      },
      [](const auto& tell) {
        const auto gpu = Gpu::open(0);
        if (!gpu) {
          tell("none");
          std::printf("skipped: %s\n", gpu.error().message.c_str());
          return;
        }
        OwnGpu device(*gpu);
        auto node = Node::start({.name = "alice", .gpus = {*gpu}}).value();
        tell(node->address());
        alice(*node, device);
      });
}
