// What the first server of a table does for all of them: routes, workers' clocks, rounds.
#include <algorithm>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include <troupe/actors/node.hpp>

#include "shard_deciding.hpp"
#include "shard_saving.hpp"

namespace troupe {

namespace {

/// A shard that cannot be told what to do is told again after so long; a round waits for it.
constexpr Duration kOrderAgain{std::chrono::milliseconds(500)};
constexpr Duration kOrderTimeout{std::chrono::seconds(10)};
constexpr std::uint32_t kNoPlace = UINT32_MAX;

std::uint32_t place_of(const TableRoute& route, const std::string& server) {
  const auto at = std::find(route.servers.begin(), route.servers.end(), server);
  return at == route.servers.end() ? kNoPlace : static_cast<std::uint32_t>(at - route.servers.begin());
}

std::string list_of(const std::vector<std::string>& names) {
  std::string list;
  for (const std::string& name : names) (list += list.empty() ? "" : ", ") += name;
  return list;
}

}  // namespace

// ---- Routes -------------------------------------------------------------------------------------

TableRoute TableRoute::balanced(const shards::TableSpec& spec, std::vector<std::string> servers) {
  const auto map = shards::SlotMap::balanced(spec.slots, static_cast<std::uint32_t>(servers.size()));
  return {1, std::move(servers), {map.owners().begin(), map.owners().end()}};
}

Result<shards::SlotMap> TableRoute::map(const shards::TableSpec& spec) const {
  if (owners.size() != spec.slots) {
    return Error{Code::kInvalidArgument, "table '" + spec.name + "': a route for " +
                                             std::to_string(owners.size()) + " slots, the table has " +
                                             std::to_string(spec.slots)};
  }
  return shards::SlotMap::from_owners(owners, static_cast<std::uint32_t>(servers.size()));
}

Result<std::uint64_t> ShardServer::take_route(const std::string& name, const TableRoute& route,
                                              std::uint32_t place) {
  auto table = find(name);
  if (!table) return table.error();
  shards::TableShard& shard = (*table)->shard;
  auto map = route.map(shard.spec());
  if (!map) return map.error();
  for (std::uint32_t slot = 0; place != kNoPlace && slot < map->slots(); ++slot) {
    if (map->shard_of(slot) != place || shard.slots().contains(slot)) continue;
    return Error{Code::kFailedPrecondition, "table '" + name + "': a route gives slot " +
                                                std::to_string(slot) +
                                                " to this server, which does not hold its rows"};
  }
  if (route.version > (*table)->route.version) {
    shard.set_active_groups(shards::groups_of(map->slots_of(place)));
    (*table)->route = route;
  }
  return (*table)->generation;
}

rpc::Future<std::uint64_t> ShardServer::host_table(const rpc::CallContext& context,
                                                   const std::string& spec_text, const TableRoute& route,
                                                   std::uint32_t place) {
  rpc::Promise<std::uint64_t> promise(node_.loop(), context.deadline);
  auto future = promise.future();
  auto spec = shards::TableSpec::from_json(spec_text, shore_->known());
  auto map = spec ? route.map(*spec) : spec.error();
  if (!map) {
    promise.set(map.error());
    return future;
  }
  make_if_missing(context, *spec, map->slots_of(place))
      .then([this, alive = std::weak_ptr<int>(alive_), name = spec->name, route, place,
             promise = std::move(promise)](const Result<void>& made) mutable {
        if (alive.expired()) return;
        promise.set(made ? take_route(name, route, place) : made.error());
      });
  return future;
}

void ShardServer::host_all(const std::string& spec, const TableRoute& route,
                           const std::vector<std::string>& servers, TimePoint deadline,
                           const std::function<void(Result<std::vector<std::uint64_t>>)>& last) {
  struct Hosts {
    std::vector<std::uint64_t> generations;
    std::size_t missing;
    std::optional<Error> error;
  };
  auto hosts = std::make_shared<Hosts>(Hosts{std::vector<std::uint64_t>(servers.size()), servers.size(), {}});
  const rpc::CallOptions call{.timeout = deadline - node_.loop().clock().now()};
  for (std::size_t i = 0; i < servers.size(); ++i) {
    node_
        .rpc_async_with<std::uint64_t>(call, servers[i], "host_table", spec, route,
                                       place_of(route, servers[i]))
        .then([hosts, i, last](Result<std::uint64_t> generation) {
          if (generation) hosts->generations[i] = *generation;
          if (!generation && !hosts->error) hosts->error = generation.error();
          if (--hosts->missing > 0) return;
          last(hosts->error ? Result<std::vector<std::uint64_t>>(*hosts->error)
                            : std::move(hosts->generations));
        });
  }
}

rpc::Future<TableEntry> ShardServer::open_table(const rpc::CallContext& context, const std::string& spec_text,
                                                const std::vector<std::string>& servers) {
  auto promise = std::make_shared<rpc::Promise<TableEntry>>(node_.loop(), context.deadline);
  auto future = promise->future();
  auto spec = shards::TableSpec::from_json(spec_text, shore_->known());
  if (!spec || servers.empty()) {
    promise->set(spec ? Error{Code::kInvalidArgument, "table '" + spec->name + "' needs at least one server"}
                      : spec.error());
    return future;
  }
  const auto known = deciding_.find(spec->name);
  if (known != deciding_.end() && known->second->route.version == 1 &&
      known->second->route.servers != servers) {
    promise->set(Error{Code::kFailedPrecondition, "table '" + spec->name + "' exists on other servers: " +
                                                      list_of(known->second->route.servers)});
    return future;
  }
  TableRoute route = known != deciding_.end() ? known->second->route : TableRoute::balanced(*spec, servers);
  const std::vector<std::string> asked = route.servers;
  host_all(spec_text, route, asked, context.deadline,
           [this, alive = std::weak_ptr<int>(alive_), spec = *spec, route,
            promise](Result<std::vector<std::uint64_t>> generations) {
             if (!generations) return promise->set(generations.error());
             if (alive.expired()) return;
             auto& deciding = deciding_[spec.name];
             if (!deciding) deciding = std::make_shared<Deciding>(spec, route);
             promise->set(TableEntry{route, std::move(*generations)});
           });
  return future;
}

rpc::Future<void> ShardServer::change_route(const rpc::CallContext& context, const std::string& table,
                                            const TableRoute& route) {
  auto promise = std::make_shared<rpc::Promise<void>>(node_.loop(), context.deadline);
  auto future = promise->future();
  auto deciding = find_deciding(table);
  if (!deciding) {
    promise->set(deciding.error());
    return future;
  }
  const TableRoute& present = (*deciding)->route;
  if (route.version != present.version + 1 || route.servers.empty() ||
      route.servers.front() != present.servers.front()) {
    promise->set(Error{Code::kInvalidArgument,
                       "table '" + table + "': a route of version " + std::to_string(route.version) +
                           ", expected " + std::to_string(present.version + 1) + ", with '" +
                           present.servers.front() + "', which decides for the table, as its first server"});
    return future;
  }
  // Those that gain slots first, so that whoever is sent on is answered; then those that have lost theirs.
  std::vector<std::string> gone;
  for (const std::string& server : present.servers)
    if (place_of(route, server) == kNoPlace) gone.push_back(server);
  host_all((*deciding)->spec.to_json(), route, route.servers, context.deadline,
           [this, alive = std::weak_ptr<int>(alive_), table, route, gone, promise,
            deadline = context.deadline](const Result<std::vector<std::uint64_t>>& taken) {
             if (!taken) return promise->set(taken.error());
             if (alive.expired()) return;
             auto at = find_deciding(table);
             if (!at) return promise->set(at.error());
             (*at)->route = route;
             if (gone.empty()) return promise->set(Result<void>());
             host_all((*at)->spec.to_json(), route, gone, deadline,
                      [promise](const Result<std::vector<std::uint64_t>>& told) {
                        promise->set(told ? Result<void>() : Result<void>(told.error()));
                      });
           });
  return future;
}

Result<std::shared_ptr<ShardServer::Deciding>> ShardServer::find_deciding(const std::string& table) const {
  const auto at = deciding_.find(table);
  if (at != deciding_.end()) return at->second;
  return Error{Code::kNotFound, "this server does not decide for a table '" + table +
                                    "': open it first, and ask the first of its servers"};
}

Result<TableRoute> ShardServer::route(const std::string& table) const {
  auto deciding = find_deciding(table);
  if (!deciding) return deciding.error();
  return (*deciding)->route;
}

// ---- Workers ------------------------------------------------------------------------------------

Result<std::uint64_t> ShardServer::join_worker(const std::string& table, std::uint64_t worker,
                                               std::uint64_t node_id) {
  auto deciding = find_deciding(table);
  if (!deciding) return deciding.error();
  (*deciding)->worker_nodes[worker] = node_id;
  return (*deciding)->clocks.join(worker);
}

Result<void> ShardServer::leave_worker(const std::string& table, std::uint64_t worker) {
  auto deciding = find_deciding(table);
  if (!deciding) return deciding.error();
  const std::weak_ptr<int> alive = alive_;
  (*deciding)->worker_nodes.erase(worker);
  (*deciding)->clocks.leave(worker);
  if (!alive.expired()) give_orders(table);
  return {};
}

/// Whoever is let go on may put other tables in place of these, or end this server.
void ShardServer::node_gone(std::uint64_t node_id) {
  std::vector<std::pair<std::string, std::uint64_t>> gone;
  for (const auto& [name, deciding] : deciding_)
    for (const auto& [worker, node] : deciding->worker_nodes)
      if (node == node_id) gone.emplace_back(name, worker);
  const std::weak_ptr<int> alive = alive_;
  for (const auto& [name, worker] : gone)
    if (!alive.expired()) (void)leave_worker(name, worker);
}

Result<void> ShardServer::advance(const std::string& table, const WorkerClock& clock) {
  auto deciding = find_deciding(table);
  if (!deciding) return deciding.error();
  const std::weak_ptr<int> alive = alive_;
  auto advanced = (*deciding)->clocks.advance(clock.worker, clock.clock);
  if (!alive.expired()) give_orders(table);
  return advanced;
}

// ---- Rounds -------------------------------------------------------------------------------------

rpc::Future<shards::Verdict> ShardServer::offer(const rpc::CallContext& context, const std::string& table,
                                                const OfferHead& head) {
  auto promise = std::make_shared<rpc::Promise<shards::Verdict>>(node_.loop(), context.deadline);
  auto future = promise->future();
  auto deciding = find_deciding(table);
  auto found = find(table);
  if (!deciding || !found) {
    promise->set(deciding ? found.error() : deciding.error());
    return future;
  }
  if (head.generation != 0 && head.generation != (*found)->generation) {
    promise->set(shards::Verdict{
        .applied = false, .lost = true, .staleness = 0, .next_clock = (*deciding)->clocks.round()});
    return future;
  }
  const std::weak_ptr<int> alive = alive_;
  auto offered =
      (*deciding)->clocks.offer({head.clock.worker, head.sequence}, head.clock.clock, head.samples,
                                [promise](const shards::Verdict& verdict) { promise->set(verdict); });
  if (!offered) promise->set(offered.error());
  if (!alive.expired()) give_orders(table);
  return future;
}

void ShardServer::give_orders(const std::string& table) {
  auto found = find_deciding(table);
  if (!found || (*found)->ordering || (*found)->clocks.order() == nullptr) return;
  Deciding& deciding = **found;
  deciding.ordering = true;
  node_.loop().cancel(deciding.again);
  struct Order {
    std::size_t missing;
    std::optional<Error> error;
  };
  auto order = std::make_shared<Order>(Order{deciding.route.servers.size(), {}});
  auto told = [this, alive = std::weak_ptr<int>(alive_), table, order,
               of = std::weak_ptr(*found)](const Result<void>& done) {
    if (!done) order->error = done.error();
    const auto at = of.lock();
    if (--order->missing > 0 || alive.expired() || !at || at->closed) return;
    at->ordering = false;
    if (!order->error) {
      at->clocks.carried_out();
      if (!alive.expired()) give_orders(table);
      return;
    }
    // A round is never given up: until the shard is back, those who wait for it have their deadlines.
    at->again.set([this, table] { give_orders(table); });
    node_.loop().schedule_after(at->again, kOrderAgain);
  };
  // Copies: the last answer may come at once, and others be ordered then.
  const shards::StepOrder step = *deciding.clocks.order();
  const std::vector<std::string> servers = deciding.route.servers;
  for (const std::string& server : servers)
    node_.rpc_async_with<void>({.timeout = kOrderTimeout}, server, "carry_out", table, step).then(told);
}

}  // namespace troupe
