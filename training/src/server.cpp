#include <atomic>
#include <cstdio>
#include <cstdlib>

#include <troupe/actors/node.hpp>
#include <troupe/actors/shard_server.hpp>
#include <troupe/actors/stop_signals.hpp>

#include "roles.hpp"
#include "shard_memory.hpp"

namespace troupe::training {

namespace {

/// Ends the process in good order, when the chief says that the job is over.
struct ProcessEnd {
  Node& node;

  explicit ProcessEnd(Node& of) : node(of) {}
  void end() { node.stop(); }
  static void methods(rpc::Methods<ProcessEnd>& methods) { methods.add("end", &ProcessEnd::end); }
};

int serve(Node& node, const Program& program, const ServerPlan& plan) {
  auto stores = stores_for(plan.device, plan.index, node.loop());
  Result<void> spawned = stores ? Result<void>() : stores.error();
  if (spawned)
    spawned = node.spawn<ShardServer>(node.name(), plan.index, plan.count, node,
                                      program.make_task()->optimizers(), *std::move(stores));
  if (spawned) spawned = node.spawn<ProcessEnd>(process_actor(node.name()), node);
  if (!spawned) {
    std::fprintf(stderr, "%s: %s\n", program.name.c_str(), spawned.error().message.c_str());
    return 2;
  }
  // The end of the chief is the end of the job, in whatever way it came; the chief and the launcher tell how.
  if (node.run()) (void)node.leave(kLeavePatience);
  return 0;
}

}  // namespace

int run_server(const Place& place, const Program& program, const ServerPlan& plan) {
  StopSignals signals;
  std::atomic<Node*> joined{nullptr};
  // Ctrl-C goes to all processes of the job: the chief ends it, and with the chief this one ends.
  signals.start([&](int signal) {
    if (signals.ends_within(joined ? kChiefEndsFirst : kStartsUp)) return;
    if (!joined) std::_Exit(128 + signal);
    joined.load()->stop();
  });
  NodeOptions options;
  options.name = place.name;
  options.role = "server";
  options.registry = place.registry;
  options.transport.transports = place.transport;
  options.metrics_address = place.metrics_address;
  options.silence_limit = kJobSilenceLimit;
  options.own_thread = false;
  auto node = Node::start(options);
  if (!node) {
    std::fprintf(stderr, "%s: %s\n", program.name.c_str(), node.error().message.c_str());
    return node.error().code == Code::kUnavailable ? 1 : 2;
  }
  joined = node->get();
  const int code = serve(**node, program, plan);
  signals.stop();
  return code;
}

}  // namespace troupe::training
