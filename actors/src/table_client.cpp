#include <troupe/actors/table_client.hpp>

#include <algorithm>
#include <random>
#include <utility>

#include "table_core.hpp"

namespace troupe {

namespace {

std::uint64_t random_worker() {
  std::random_device device;
  std::uint64_t id = 0;
  while (id == 0) id = (std::uint64_t{device()} << 32) | device();
  return id;
}

}  // namespace

TableClient::Core::Core(Node& own_node, shards::TableSpec table, std::vector<std::string> names,
                        const Options& options)
    : node(own_node),
      spec(std::move(table)),
      servers(std::move(names)),
      timeout(options.timeout),
      repeat_for(options.repeat_for),
      worker(options.worker ? options.worker : random_worker()),
      map_(shards::SlotMap::balanced(spec.slots, static_cast<std::uint32_t>(servers.size()))) {}

TableClient::TableClient(std::shared_ptr<Core> core) : core_(std::move(core)) {}

const shards::TableSpec& TableClient::spec() const {
  return core_->spec;
}
std::uint64_t TableClient::worker() const {
  return core_->worker;
}
std::uint64_t TableClient::clock() const {
  return core_->clock;
}
void TableClient::set_clock(std::uint64_t clock) {
  core_->clock = clock;
}

Result<std::unique_ptr<TableClient>> TableClient::open(Node& node, shards::TableSpec spec,
                                                       std::vector<std::string> servers,
                                                       const Options& options) {
  if (auto valid = spec.validate(); !valid) return valid.error();
  if (servers.empty())
    return Error{Code::kInvalidArgument, "table '" + spec.name + "' needs at least one server"};
  const std::string text = spec.to_json();
  std::unique_ptr<TableClient> client(
      new TableClient(std::make_shared<Core>(node, std::move(spec), std::move(servers), options)));
  const rpc::CallOptions call{.timeout = options.timeout};
  std::vector<rpc::Future<void>> made;
  for (const std::string& server : client->core_->servers)
    made.push_back(node.rpc_async_with<void>(call, server, "create_table", text));
  for (auto& each : made)
    if (auto created = each.get(); !created) return created.error();
  if (auto joined = client->join(); !joined) return joined.error();
  return client;
}

Result<void> TableClient::join() {
  return join_together({this});
}

Result<void> TableClient::join_together(const std::vector<TableClient*>& tables) {
  std::vector<TableClient*> joining;
  std::vector<rpc::Future<std::uint64_t>> joined;
  for (TableClient* table : tables) {
    Core& core = *table->core_;
    if (!core.bounded() || core.joined.exchange(true)) continue;  // of some servers at least
    joining.push_back(table);
    for (const std::string& server : core.servers)
      joined.push_back(core.node.rpc_async_with<std::uint64_t>(
          {.timeout = core.timeout}, server, "join_worker", core.spec.name, core.worker, core.node.id()));
  }
  std::uint64_t clock = 0;
  for (const TableClient* table : tables) clock = std::max(clock, table->clock());
  std::optional<Error> failed;
  for (auto& each : joined) {
    auto least = each.get();
    if (least)
      clock = std::max(clock, *least);
    else
      failed = least.error();
  }
  // Every gate hears of the clock now: one that thought this worker further behind than it is would hold
  // others back until its next pull there, which may wait for them.
  std::vector<rpc::Future<void>> told;
  for (TableClient* table : tables) {
    Core& core = *table->core_;
    core.clock = clock;
    if (!core.joined || failed) continue;
    for (const std::string& server : core.servers)
      told.push_back(core.node.rpc_async_with<void>({.timeout = core.timeout}, server, "advance",
                                                    core.spec.name, WorkerClock{core.worker, clock}));
  }
  for (auto& each : told)
    if (auto heard = each.get(); !heard) failed = heard.error();
  if (!failed) return {};
  for (TableClient* table : joining) table->leave();
  return *failed;
}

void TableClient::leave() {
  if (!core_->joined.exchange(false)) return;
  constexpr Duration kPatience{std::chrono::seconds(2)};
  std::vector<rpc::Future<void>> left;
  for (const std::string& server : core_->servers)
    left.push_back(core_->node.rpc_async_with<void>({.timeout = kPatience}, server, "leave_worker",
                                                    core_->spec.name, core_->worker));
  for (auto& each : left) (void)each.get();  // a dead server needs no telling
}

TableClient::~TableClient() {
  leave();
}

rpc::Future<PulledVersions> TableClient::pull(std::span<const std::uint64_t> keys, float* out) {
  return core_->read(keys, out, true, core_->deadline(), nullptr);
}
rpc::Future<PulledVersions> TableClient::peek(std::span<const std::uint64_t> keys, float* out) {
  return core_->read(keys, out, false, core_->deadline(), nullptr);
}
rpc::Future<PushSummary> TableClient::push(std::span<const std::uint64_t> keys, const float* gradients,
                                           const PulledVersions& versions,
                                           std::optional<PushIdentity> identity) {
  return core_->push(keys, gradients, versions, identity);
}
rpc::Future<PushPullSummary> TableClient::push_pull(std::span<const std::uint64_t> keys,
                                                    const float* gradients, const PulledVersions& versions,
                                                    std::span<const std::uint64_t> pull_keys, float* out,
                                                    std::optional<PushIdentity> identity) {
  return core_->push_pull(keys, gradients, versions, pull_keys, out, identity);
}

}  // namespace troupe
