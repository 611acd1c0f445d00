// An application of CAF's, with its own actor system, scheduler and actors, that keeps parameters in a shard
// in another process. To its actors the shard is an ordinary caf::actor: they request, they get errors as
// caf::error, they monitor it, and hear when its process dies.
#include <signal.h>
#include <unistd.h>

#include <caf/all.hpp>
#include <cstdio>
#include <functional>
#include <stdexcept>
#include <string>

#include <troupe/actors/caf.hpp>
#include <troupe/actors/node.hpp>
#include <troupe/actors/shard_server.hpp>
#include <troupe/shards/table_spec.hpp>

#include "examples/support/two_processes.hpp"

using namespace troupe;
using namespace std::chrono_literals;

// The other process: one shard server, holding everything.
void keep_shard(const std::string& address) {
  auto node = Node::start({.name = "ps", .role = "server", .registry = address}).value();
  node->spawn<ShardServer>("shard", 0U, 1U, *node).value();
  (void)node->run();
}

/// What the application had before: an actor that, on each "step", does one step of training. Now the
/// weights live in the shard.
caf::behavior trainer(caf::event_based_actor* self, const caf::actor& shard, const caf::actor& boss) {
  self->monitor(shard);
  self->set_down_handler([=](const caf::down_msg&) {
    self->send(boss, caf::atom("gone"));
    self->quit();
  });
  return {[=](caf::atom_value, std::uint64_t sequence) {
    const Tensor keys = Tensor::of<std::uint64_t>({7, 8});
    Tensor gradients = Tensor::zeros(DType::kFloat32, {2, 3});
    for (float& gradient : gradients.as<float>()) gradient = 1;
    // table, keys, gradients, worker, clock, sequence, version pulled (none)
    self->request(shard, 5s, "push", std::string("weights"), keys, gradients, std::uint64_t{1},
                  std::uint64_t{0}, sequence, UINT64_MAX)
        .then([=](std::uint64_t version, std::uint64_t,
                  bool) { self->send(boss, caf::atom("stepped"), version); },
              [=](const caf::error& error) {
                self->send(boss, caf::atom("failed"), self->system().render(error));
              });
  }};
}

/// The application's main: a blocking actor, as before. Three lines are new: the node, and the handle.
void application(const std::function<void(const std::string&)>& tell, pid_t other) {
  caf::actor_system_config config;
  caf::actor_system system(config);
  auto node = Node::start({.name = "app", .system = &system}).value();
  tell(node->address());
  node->wait_for_actor("shard", 10s).value();
  const caf::actor shard = node->actor("shard").value();

  shards::TableSpec spec;
  spec.name = "weights";
  spec.dim = 3;
  spec.optimizer = shards::Sgd{0.5F, 0};
  caf::scoped_actor self(system);
  const auto fail = [&](const caf::error& error) { throw std::runtime_error(system.render(error)); };
  self->request(shard, 5s, "create_table", spec.to_json()).receive([] {}, fail);

  const caf::actor worker = self->spawn(trainer, shard, caf::actor_cast<caf::actor>(self));
  for (std::uint64_t step = 0; step < 3; ++step) {
    self->send(worker, caf::atom("step"), step);
    self->receive([](caf::atom_value, std::uint64_t version) {
      std::printf("stepped; the shard is at version %llu\n", static_cast<unsigned long long>(version));
    });
  }
  self->request(shard, 5s, "peek", std::string("weights"), Tensor::of<std::uint64_t>({7}))
      .receive([](const Tensor& rows, std::uint64_t) { std::printf("row 7: %g\n", rows.as<float>()[0]); },
               fail);
  self->request(shard, 5s, "peek", std::string("wieghts"), Tensor::of<std::uint64_t>({7}))
      .receive([](const Tensor&, std::uint64_t) {},
               [&](const caf::error& error) {
                 std::printf("an error: %s\n", from_caf(system, error).message.c_str());
               });

  kill(other, SIGKILL);  // as a machine would fail
  self->receive(
      [](caf::atom_value) { std::printf("the shard's process died, and the trainer heard of it\n"); },
      caf::after(10s) >> [] { throw std::runtime_error("nobody told of the shard's death"); });
  node->shutdown();
}

int main(int argc, char** argv) {
  return examples::two_processes(
      argc, argv,
      "caf_embed: a CAF application uses a shard in another process as a caf::actor; it takes no arguments",
      [](const std::string& address) { keep_shard(address); },
      [](const auto& tell, pid_t other) { application(tell, other); });
}
