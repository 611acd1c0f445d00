// An application of CAF's, with its own actor system, scheduler, typed and event-based actors, and a blocking
// main, that keeps its parameters in a shard in another process. What it had before stands in actors.cpp and
// knows nothing of it. When the shard's process dies the trainer hears so by a down_msg, as of any actor; the
// main starts another one from the last checkpoint, and training goes on.
#include <CLI/CLI.hpp>
#include <caf/all.hpp>
#include <cstdio>
#include <filesystem>
#include <stdexcept>
#include <string>

#include <troupe/actors/caf.hpp>
#include <troupe/actors/node.hpp>
#include <troupe/shards/snapshot.hpp>
#include <troupe/shards/table_spec.hpp>

#include "caf_embed/actors.hpp"
#include "caf_embed/shard_process.hpp"

using namespace caf_embed;
using namespace troupe;
using namespace std::chrono_literals;

namespace {

constexpr std::uint64_t kFirstSteps = 300, kAllSteps = 600;

/// A checkpoint of the only server, committed by one rename.
void save_checkpoint(Node& node, const shards::TableSpec& spec, const std::string& folder) {
  const std::string temporary = folder + ".tmp";
  const auto written =
      node.rpc_sync<std::vector<std::string>>("shard", "save", temporary, std::vector<std::string>{spec.name})
          .value();
  shards::Manifest manifest;
  manifest.tables = {spec};
  for (const std::string& entry : written)
    manifest.files.push_back(shards::file_entry_from_json(entry).value());
  shards::commit(temporary, folder, manifest).value();
}

/// Waits for the trainer's word.
template <class Atom>
std::uint64_t wait_for(caf::scoped_actor& self, const char* what) {
  std::uint64_t step = 0;
  self->receive([&](Atom, std::uint64_t at) { step = at; },
                caf::after(30s) >> [&] { throw std::runtime_error(std::string(what) + " did not come"); });
  return step;
}

double mean_loss(caf::scoped_actor& self, const Ledger& keeper) {
  double mean = 0;
  self->request(keeper, 5s, mean_atom_v)
      .receive([&](double value) { mean = value; },
               [&](const caf::error& error) { throw std::runtime_error(caf::to_string(error)); });
  return mean;
}

void application(const std::filesystem::path& folder) {
  register_caf_types();
  caf::actor_system_config config;
#if TROUPE_CAF < 18
  config.add_message_type<Example>("Example");
#else
  caf::init_global_meta_objects<caf::id_block::caf_embed>();
#endif
  caf::actor_system system(config);
  caf::scoped_actor self(system);
  const Ledger keeper = system.spawn(ledger);

  // The three lines: a node in this system, an actor of its own for the others, and theirs for its own.
  auto node = Node::start({.name = "app", .system = &system}).value();
  node->publish("ledger", caf::actor_cast<caf::actor>(keeper), {"note", "mean"}).value();
  const auto find_shard = [&] {
    node->wait_for_actor("shard", 10s).value();
    return node->actor("shard").value();
  };

  ShardProcess first(node->address(), "");
  caf::actor shard = find_shard();
  shards::TableSpec spec;
  spec.name = "weights";
  spec.dim = 1;
  spec.optimizer = shards::Sgd{0.1F, 0};
  self->request(shard, 5s, "create_table", spec.to_json())
      .receive([] {},
               [&](const caf::error& error) { throw std::runtime_error(from_caf(system, error).message); });

  const caf::actor worker =
      self->spawn(trainer, system.spawn(source), keeper, caf::actor_cast<caf::actor>(self));
  self->send(worker, step_atom_v, kFirstSteps);
  self->send(worker, shard_atom_v, shard);
  wait_for<done_atom>(self, "the first half");
  std::printf("step %llu: mean loss %.4f\n", static_cast<unsigned long long>(kFirstSteps),
              mean_loss(self, keeper));

  const std::string checkpoint = folder / "checkpoint";
  save_checkpoint(*node, spec, checkpoint);
  first.kill();
  std::printf("the shard's process was killed; the trainer heard of it at step %llu\n",
              static_cast<unsigned long long>(wait_for<lost_atom>(self, "the news of the shard's death")));

  const ShardProcess second(node->address(), checkpoint);
  shard = find_shard();
  self->send(worker, step_atom_v, kAllSteps);
  self->send(worker, shard_atom_v, shard);
  wait_for<done_atom>(self, "the second half");
  std::printf("step %llu: mean loss %.4f\n", static_cast<unsigned long long>(kAllSteps),
              mean_loss(self, keeper));
  self->send_exit(worker, caf::exit_reason::user_shutdown);
  node->shutdown();
}

/// Removed at the end.
struct TemporaryFolder {
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "caf_embed-XXXXXX").string();
    if (!mkdtemp(pattern.data())) throw std::runtime_error("cannot make a folder for checkpoints");
    path = pattern;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  std::filesystem::path path;
};

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "A CAF application keeps its parameters in a shard in another process, which dies and is replaced.");
  std::string address, checkpoint;
  CLI::App* keep = app.add_subcommand("shard", "the other process; the application starts it");
  keep->add_option("address", address, "of the application's node")->required();
  keep->add_option("checkpoint", checkpoint, "to begin from");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  try {
    if (*keep)
      keep_shard(address, checkpoint);
    else
      application(TemporaryFolder().path);
  } catch (const std::exception& exception) {
    std::fprintf(stderr, "caf_embed: %s\n", exception.what());
    return 1;
  }
  return 0;
}
