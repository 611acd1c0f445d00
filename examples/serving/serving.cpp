// A model that computes for long, and a front door whose thread must not be borrowed: methods on the pool,
// metadata, completions, leaving in order.
//   serving            asks a few questions, and ends
//   serving --forever  goes on until SIGINT or SIGTERM
#include <poll.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <string>

#include <troupe/actors/node.hpp>
#include <troupe/actors/stop_signals.hpp>
#include <troupe/rpc/completion_queue.hpp>

using namespace troupe;
using namespace std::chrono_literals;

namespace {

/// Says how much a tenant may ask for. It hears who that is from the metadata that the model passes on.
struct Limits {
  Result<double> most(const rpc::CallContext& context) const {
    const std::string* tenant = context.metadata.find("tenant");
    if (!tenant) return Error{Code::kInvalidArgument, "say on whose behalf: metadata 'tenant'"};
    return *tenant == "small" ? 10.0 : 1000.0;
  }
  static void methods(rpc::Methods<Limits>& methods) { methods.add("most", &Limits::most); }
};

struct Model {
  double bias = 1;

  Result<double> predict(const rpc::CallContext& context, double input) const {
    auto most = Node::of(context).rpc_sync<double>("limits", "most");
    if (!most) return most.error();
    if (input > *most) return Error{Code::kResourceExhausted, "more than your tenant may ask for"};
    double value = bias;
    for (int step = 0; step < 1'000'000 && !context.cancelled(); ++step) value += input / 1'000'000;
    return value;
  }
  static void methods(rpc::Methods<Model>& methods) {
    methods.add("predict", &Model::predict, rpc::kOnPool);  // the node's loop goes on meanwhile
  }
};

Result<void> ask(Node& node) {
  auto opened = rpc::CompletionQueue::open();
  if (!opened) return opened.error();
  rpc::CompletionQueue& queue = **opened;
  for (std::uint64_t number = 1; number <= 3; ++number) {
    const rpc::CallOptions options{.timeout = 10s, .metadata = {{"tenant", "small", rpc::kPassOn}}};
    auto started =
        queue.start<double>(node, number, options, "model", "predict", 6.0 * static_cast<double>(number));
    if (!started) return started;
  }
  // A program that waits for other things, too, has the descriptor among them.
  pollfd ready{queue.descriptor(), POLLIN, 0};
  for (int open = 3; open > 0;) {
    if (::poll(&ready, 1, 10'000) != 1) return Error{Code::kDeadlineExceeded, "no completion came"};
    while (auto done = queue.pop()) {
      --open;
      const auto answer = done->take<double>();
      if (answer)
        std::printf("%llu: %.0f\n", static_cast<unsigned long long>(done->tag()), *answer);
      else
        std::printf("%llu: %s\n", static_cast<unsigned long long>(done->tag()),
                    answer.error().to_string().c_str());
    }
  }
  return {};
}

Result<void> run(bool forever) {
  StopSignals signals;  // before the node's thread
  auto node = Node::start({.name = "server"});
  if (!node) return node.error();
  Node& server = **node;
  if (auto spawned = server.spawn<Limits>("limits"); !spawned) return spawned;
  if (auto spawned = server.spawn<Model>("model"); !spawned) return spawned;
  signals.start([&](int) { server.stop(); });
  if (auto asked = ask(server); !asked) return asked;
  if (forever)
    if (auto over = server.run(); !over) return over;
  signals.stop();
  return server.leave(5s);
}

}  // namespace

int main(int count, char** arguments) {
  const auto outcome = run(count > 1 && std::strcmp(arguments[1], "--forever") == 0);
  if (outcome) return 0;
  std::fprintf(stderr, "serving: %s\n", outcome.error().to_string().c_str());
  return 1;
}
