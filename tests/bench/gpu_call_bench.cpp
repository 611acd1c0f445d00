// Device tensors through calls between two processes, on one GPU and, if there are two, between them, beside
// a bare copy from the mapped memory, or from pinned memory, in the same processes.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include <troupe/actors/node.hpp>
#include <troupe/runtime/gpu_memory.hpp>
#include <troupe/runtime/gpu_sharing.hpp>

#include "harness.hpp"

using namespace troupe;
using namespace troupe::bench;

namespace {

constexpr auto kPatience = std::chrono::seconds(60);
constexpr int kRounds = 15;

/// GB/s of copies one after the other, each waited for.
double copy_rate(const Stream& stream, void* to, const void* from, std::size_t bytes) {
  std::vector<double> seconds;
  for (int i = 0; i < kRounds; ++i) {
    const auto begin = SteadyClock::now();
    stream.copy(to, from, bytes).value();
    stream.finish(kPatience).value();
    if (i > 2) seconds.push_back(seconds_since(begin));
  }
  return static_cast<double>(bytes) / 1e9 / median(seconds);
}

struct Callee {
  explicit Callee(const Gpu& own) : gpu(own), stream(gpu.make_stream().value()), pool(gpu) {}
  Gpu gpu;
  Stream stream;
  GpuPool pool;

  /// Copies from the caller's memory without any call.
  double bare(std::uint64_t bytes, std::uint64_t offset, const std::vector<std::uint8_t>& handle) {
    GpuSlab slab;
    std::memcpy(slab.handle.data(), handle.data(), std::min(handle.size(), slab.handle.size()));
    const auto mapping = GpuMapping::open(gpu, slab).value();
    const Buffer to = pool.allocate(bytes, stream).value();
    return copy_rate(stream, to.data(), mapping->data() + offset, bytes);
  }
  static void methods(rpc::Methods<Callee>& methods) {
    methods.add("take", [](Callee&, const Tensor& tensor) { return tensor.elements(); })
        .add("echo", [](Callee&, const Tensor& tensor) { return tensor; })
        .add("bare", &Callee::bare);
  }
};

void serve(int ordinal, bool mapped, const Ready& ready) {
  const Gpu gpu = Gpu::open(ordinal).value();
  auto node = Node::start({.name = "callee", .gpus = {gpu}, .map_gpu_memory = mapped}).value();
  node->spawn<Callee>("callee", gpu).value();
  ready(node->address());
  (void)node->run();
}

class CallingProcess {
 public:
  CallingProcess(const std::string& address, bool mapped, std::string where)
      : gpu_(Gpu::open(0).value()),
        stream_(gpu_.make_stream().value()),
        pool_(gpu_),
        mapped_(mapped),
        where_((mapped ? "mapped, " : "staged, ") + std::move(where)),
        node_(Node::start({.name = "caller", .registry = address, .gpus = {gpu_}, .map_gpu_memory = mapped})
                  .value()) {
    node_->wait_for_actor("callee", std::chrono::seconds(20)).value();
  }

  Tensor make(std::size_t bytes) {
    Tensor tensor = pool_.empty(DType::kUInt8, Shape{static_cast<std::int64_t>(bytes)}, stream_).value();
    stream_.fill(tensor.data(), 7, bytes).value();
    end_write(tensor.buffer(), stream_).value();
    stream_.finish(kPatience).value();
    return tensor;
  }
  void take(const Tensor& tensor) {
    if (node_->rpc_sync<std::int64_t>("callee", "take", tensor).value() != tensor.elements()) std::abort();
  }
  std::uint64_t mapped_so_far() {
    const Loop::Turn turn(node_->loop());
    return node_->endpoint().stats().device_mapped;
  }
  /// Until the two know whether they can map each other's memory.
  void meet() {
    const Tensor tensor = make(64);
    const auto begin = SteadyClock::now();
    do take(tensor);
    while (seconds_since(begin) < (mapped_ ? 10 : 0.5) && (!mapped_ || mapped_so_far() == 0));
    if (mapped_ && mapped_so_far() == 0)
      std::fprintf(stderr, "%s: the memory could not be mapped\n", where_.c_str());
  }

  double reference(const Tensor& tensor) {
    if (mapped_) {
      const GpuLocation location = locate_gpu_memory(tensor.buffer()).value();
      std::vector<std::uint8_t> handle(location.slab.handle.size());
      std::memcpy(handle.data(), location.slab.handle.data(), handle.size());
      return node_->rpc_sync<double>("callee", "bare", std::uint64_t{tensor.bytes()}, location.offset, handle)
          .value();
    }
    GpuPool pinned(gpu_, {.kind = MemoryKind::kPinned});
    const Buffer host = pinned.allocate(tensor.bytes(), stream_).value();
    return copy_rate(stream_, tensor.data(), host.data(), tensor.bytes());
  }

  void bandwidth(std::size_t bytes, const std::string& name) {
    const Tensor tensor = make(bytes);
    for (int i = 0; i < 3; ++i) take(tensor);
    std::vector<double> seconds;
    for (int i = 0; i < kRounds; ++i) {
      const auto begin = SteadyClock::now();
      take(tensor);
      seconds.push_back(seconds_since(begin));
    }
    const std::string beside = mapped_ ? "bare copy from the mapping" : "copy from pinned memory";
    const double bare = reference(tensor);
    const auto size = static_cast<double>(bytes);
    print_json("call, " + name + ", " + where_, size / 1e9 / median(seconds), "GB/s", beside, bare);
    seconds.clear();
    constexpr int kWindow = 8;
    for (int i = 0; i < kRounds; ++i) {
      const auto begin = SteadyClock::now();
      std::vector<rpc::Future<std::int64_t>> open;
      for (int k = 0; k < kWindow; ++k)
        open.push_back(node_->rpc_async<std::int64_t>("callee", "take", tensor));
      for (auto& each : open) each.get().value();
      if (i >= kRounds / 3) seconds.push_back(seconds_since(begin));
    }
    print_json("calls, 8 at once, " + name + ", " + where_, kWindow * size / 1e9 / median(seconds), "GB/s",
               beside, bare);
  }

  void latency(std::size_t bytes, const std::string& name) {
    const Tensor tensor = make(bytes);
    const auto timed = [&](const std::function<void()>& once) {
      std::vector<double> seconds;
      for (int i = 0; i < 3000; ++i) {
        const auto begin = SteadyClock::now();
        once();
        if (i >= 500) seconds.push_back(seconds_since(begin));
      }
      return 1e6 * median(seconds);
    };
    const double bare = timed([&] {
      stream_.copy(tensor.data() + bytes / 2, tensor.data(), bytes / 2).value();
      stream_.finish(kPatience).value();
    });
    print_json("rpc_sync, " + name + ", host answer, " + where_, timed([&] { take(tensor); }), "us",
               "copy on the device, and a wait", bare);
    print_json("rpc_sync, " + name + ", device answer, " + where_,
               timed([&] { (void)node_->rpc_sync<Tensor>("callee", "echo", tensor).value(); }), "us",
               "copy on the device, and a wait", bare);
  }

  void run() {
    meet();
    latency(64, "64 B");
    bandwidth(std::size_t{1} << 20, "1 MiB");
    bandwidth(std::size_t{16} << 20, "16 MiB");
    bandwidth(std::size_t{256} << 20, "256 MiB");
  }

 private:
  Gpu gpu_;
  Stream stream_;
  GpuPool pool_;
  const bool mapped_;
  const std::string where_;
  std::unique_ptr<Node> node_;
};

/// A process of its own counts them: who has asked the driver cannot fork any more.
int count_gpus() {
  const Child counting([](int fd) {
    const auto gpus = list_gpus();
    if (!gpus) std::fprintf(stderr, "gpu_call_bench: %s\n", gpus.error().message.c_str());
    say(fd, std::to_string(gpus ? gpus->size() : 0));
  });
  return std::atoi(counting.line().c_str());
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> parts(argv + 1, argv + argc);
  const int count = count_gpus();
  for (int ordinal = 0; ordinal < std::min(count, 2); ++ordinal) {
    const std::string where = ordinal == 0 ? "1 GPU" : "2 GPUs";
    for (const bool mapped : {true, false}) {
      if (!wanted((mapped ? "mapped, " : "staged, ") + where, parts)) continue;
      const Child server([&](int fd) {
        pin_to_core(0);
        serve(ordinal, mapped, [fd](const std::string& address) { say(fd, address); });
      });
      const std::string address = server.line();
      if (address.empty()) return 1;
      const Child client([&](int fd) {
        pin_to_core(1);
        CallingProcess(address, mapped, where).run();
        say(fd, "done");
      });
      if (client.line(std::chrono::seconds(120)).empty()) return 1;
    }
  }
  return 0;
}
