#include <troupe/actors/table_client.hpp>

#include <algorithm>
#include <random>
#include <utility>

#include <troupe/shards/half.hpp>

#include "table_core.hpp"

namespace troupe {

namespace {

std::uint64_t random_worker() {
  std::random_device device;
  std::uint64_t id = 0;
  while (id == 0) id = (std::uint64_t{device()} << 32) | device();
  return id;
}

/// The rows of a dense table that slices `first` and up of its tensor are, as many as `part` has.
Result<shards::RowRange> rows_of(const shards::TableSpec& spec, const Tensor& part, std::uint64_t first) {
  const auto refuse = [&](const std::string& why) {
    return Error{Code::kInvalidArgument, "table '" + spec.name + "': " + why};
  };
  if (spec.kind != shards::TableKind::kDense) return refuse("it is not dense, and so no tensor");
  const std::vector<std::uint64_t> whole = spec.tensor_shape();
  std::vector<std::int64_t> wanted(whole.begin(), whole.end());
  const std::span<const std::int64_t> extents = part.shape().extents();
  const std::int64_t count = extents.empty() ? 1 : extents[0];
  const std::string tensor = Shape(wanted).to_string();
  wanted[0] = count;
  if (part.dtype() != DType::kFloat32 || part.device().kind == MemoryKind::kDevice ||
      (part.shape() != Shape(wanted) && !(extents.empty() && whole == std::vector<std::uint64_t>{1})))
    return refuse("slices of its tensor " + tensor + " are float32" + Shape(wanted).to_string() +
                  " in host memory, not " + part.to_string());
  if (reinterpret_cast<std::uintptr_t>(part.data()) % alignof(float) != 0)
    return refuse("the tensor's memory is not aligned: Tensor::clone() aligns it");
  const auto slices = static_cast<std::uint64_t>(count);
  if (slices == 0 || slices > whole[0] || first > whole[0] - slices)
    return refuse(std::to_string(slices) + " slices from " + std::to_string(first) +
                  " on are not in its tensor " + tensor);
  return shards::RowRange{first * spec.rows_per_slice(), (first + slices) * spec.rows_per_slice()};
}

}  // namespace

TableClient::Core::Core(Node& own_node, shards::TableSpec table, const Options& options)
    : node(own_node),
      spec(std::move(table)),
      timeout(options.timeout),
      repeat_for(options.repeat_for),
      half_pulls(options.half_pulls && shards::is_half(spec.weights)),
      half_pushes(options.half_pushes && shards::is_half(spec.weights)),
      worker(options.worker ? options.worker : random_worker()) {}

std::shared_ptr<const TableClient::Core::Routed> TableClient::Core::routed() {
  const std::lock_guard lock(mutex_);
  return routed_;
}

Result<void> TableClient::Core::take_route(const TableRoute& route,
                                           const std::vector<std::uint64_t>& generations) {
  auto map = route.map(spec);
  if (!map || route.servers.empty())
    return Error{Code::kDataLoss, "table '" + spec.name +
                                      "': a server answered with a route that cannot be: " +
                                      (map ? "it has no servers" : map.error().message)};
  const std::lock_guard lock(mutex_);
  if (routed_ && route.version <= routed_->route.version) return {};
  auto taken = std::make_shared<Routed>(Routed{route, std::move(*map), {}});
  for (std::size_t i = 0; i < route.servers.size(); ++i) {
    const auto at = std::find(known_.begin(), known_.end(), route.servers[i]);
    taken->numbers.push_back(static_cast<std::uint32_t>(at - known_.begin()));
    if (at != known_.end()) continue;
    known_.push_back(route.servers[i]);
    generations_.push_back(i < generations.size() ? generations[i] : 0);
  }
  routed_ = std::move(taken);
  return {};
}

void TableClient::Core::take_generation(std::uint32_t number, std::uint64_t generation) {
  const std::lock_guard lock(mutex_);
  generations_[number] = generation;
}

std::uint64_t TableClient::Core::generation(std::uint32_t number) {
  const std::lock_guard lock(mutex_);
  return generations_[number];
}

void TableClient::Core::raise_clock(std::uint64_t to) {
  std::uint64_t present = clock;
  while (present < to && !clock.compare_exchange_weak(present, to)) {
  }
}

void TableClient::Core::clip(std::vector<Gradients>& parts) const {
  if (spec.clipping.push_norm <= 0) return;
  std::vector<std::span<float>> values;
  values.reserve(parts.size());
  for (Gradients& part : parts) values.push_back(part.values.as<float>());
  shards::clip_push(spec.clipping, spec.dim, values);
}

std::uint64_t TableClient::Core::step_of(const PulledVersions& versions) {
  std::uint64_t step = shards::kNotPulled;
  for (const PulledVersion& each : versions)
    if (each.version != shards::kNotPulled && (step == shards::kNotPulled || each.version > step))
      step = each.version;
  return step;
}

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
  if (core_->in_rounds()) return core_->raise_clock(clock);
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
      new TableClient(std::make_shared<Core>(node, std::move(spec), options)));
  const std::string decider = servers.front();
  auto entry =
      node.rpc_sync_with<TableEntry>({.timeout = options.timeout}, decider, "open_table", text, servers);
  if (!entry) return entry.error();
  if (auto taken = client->core_->take_route(entry->route, entry->generations); !taken) return taken.error();
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
    if (!core.waits() || core.joined.exchange(true)) continue;
    core.open_clock = 0;
    joining.push_back(table);
    joined.push_back(core.node.rpc_async_with<std::uint64_t>({.timeout = core.timeout}, core.decider(),
                                                             "join_worker", core.spec.name, core.worker,
                                                             core.node.id()));
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
  // All deciders hear of the clock now: one that thought this worker further behind than it is would hold
  // others back until its next pull there, which may wait for them.
  std::vector<rpc::Future<void>> told;
  for (TableClient* table : tables) {
    Core& core = *table->core_;
    core.clock = clock;
    if (!core.joined || failed) continue;
    told.push_back(core.node.rpc_async_with<void>({.timeout = core.timeout}, core.decider(), "advance",
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
  // A dead server needs no telling.
  (void)core_->node.rpc_sync_with<void>({.timeout = kPatience}, core_->decider(), "leave_worker",
                                        core_->spec.name, core_->worker);
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
                                           std::optional<PushIdentity> identity, std::uint64_t samples) {
  return core_->push(keys, gradients, versions, identity, samples);
}
rpc::Future<PushPullSummary> TableClient::push_pull(std::span<const std::uint64_t> keys,
                                                    const float* gradients, const PulledVersions& versions,
                                                    std::span<const std::uint64_t> pull_keys, float* out,
                                                    std::optional<PushIdentity> identity,
                                                    std::uint64_t samples) {
  return core_->push_pull(keys, gradients, versions, pull_keys, out, identity, samples);
}

rpc::Future<PulledVersions> TableClient::pull_rows(const shards::RowRange& rows, float* out) {
  return core_->read_range(rows, out, true);
}
rpc::Future<PulledVersions> TableClient::peek_rows(const shards::RowRange& rows, float* out) {
  return core_->read_range(rows, out, false);
}
rpc::Future<PushSummary> TableClient::push_rows(const shards::RowRange& rows, const float* gradients,
                                                const PulledVersions& versions,
                                                std::optional<PushIdentity> identity, std::uint64_t samples) {
  const std::span range(&rows, 1);
  if (auto good = shards::check_ranges(core_->spec, range); !good)
    return core_->refused<PushSummary>(good.error(), core_->deadline());
  return core_->push(shards::RowKeys(range), gradients, versions, identity, samples);
}

rpc::Future<PulledVersions> TableClient::Core::read_range(const shards::RowRange& rows, float* out,
                                                          bool pull) {
  const std::span range(&rows, 1);
  if (auto good = shards::check_ranges(spec, range); !good)
    return refused<PulledVersions>(good.error(), deadline());
  return read(shards::RowKeys(range), out, pull, deadline(), nullptr);
}

rpc::Future<PulledVersions> TableClient::Core::read_tensor(const Tensor& out, std::uint64_t first,
                                                           bool pull) {
  auto rows = rows_of(spec, out, first);
  if (rows && (!out.is_contiguous() || out.read_only()))
    rows = Error{Code::kInvalidArgument, "table '" + spec.name +
                                             "': what is read into is to be contiguous, and memory of this "
                                             "process"};
  if (!rows) return refused<PulledVersions>(rows.error(), deadline());
  auto kept = std::make_shared<const Tensor>(
      out.reshape({static_cast<std::int64_t>(rows->size()), static_cast<std::int64_t>(spec.dim)}));
  float* const to = kept->as<float>().data();
  const Tensor& into = *kept;
  return read(shards::RowKeys(std::span(&*rows, 1)), to, pull, deadline(), kept, &into);
}

rpc::Future<PulledVersions> TableClient::pull_tensor(const Tensor& out, std::uint64_t first) {
  return core_->read_tensor(out, first, true);
}
rpc::Future<PulledVersions> TableClient::peek_tensor(const Tensor& out, std::uint64_t first) {
  return core_->read_tensor(out, first, false);
}
rpc::Future<PushSummary> TableClient::push_tensor(const Tensor& gradients, std::uint64_t first,
                                                  const PulledVersions& versions,
                                                  std::optional<PushIdentity> identity,
                                                  std::uint64_t samples) {
  const auto rows = rows_of(core_->spec, gradients, first);
  if (!rows) return core_->refused<PushSummary>(rows.error(), core_->deadline());
  const Tensor contiguous = gradients.contiguous();
  return core_->push(shards::RowKeys(std::span(&*rows, 1)), contiguous.as<const float>().data(), versions,
                     identity, samples);
}

}  // namespace troupe
