#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <optional>

#include <troupe/actors/node_metrics.hpp>
#include <troupe/runtime/gpu_usage.hpp>

#include "node_impl.hpp"

namespace troupe {

namespace {

/// How long a request over HTTP waits for a loop that a handler holds.
constexpr Duration kPatience{std::chrono::seconds(1)};

LoopMetrics metrics_of(const Loop::Stats& stats) {
  using Spent = Loop::Spent;
  return {stats.time(Spent::kBusy).count(),
          stats.time(Spent::kPolling).count(),
          stats.time(Spent::kAsleep).count(),
          stats.time(Spent::kAbsent).count(),
          stats.rounds,
          stats.events,
          stats.sleeps};
}

EndpointMetrics metrics_of(const rpc::Endpoint& endpoint) {
  const rpc::Endpoint::Stats& stats = endpoint.stats();
  const auto waiting = endpoint.waiting();
  return {stats.bytes_sent,       stats.bytes_received,     stats.messages_waited,
          stats.calls_refused,    stats.deadlines_exceeded, stats.replies_late,
          stats.repeats_answered, stats.exceptions,         stats.requests_held,
          stats.pauses,           endpoint.open_calls(),    waiting.calls,
          waiting.bytes};
}

DeviceCallMetrics device_metrics_of(const rpc::Endpoint& endpoint) {
  const rpc::Endpoint::Stats& stats = endpoint.stats();
  const rpc::Endpoint::DeviceUse use = endpoint.device_use();
  return {stats.device_mapped,       stats.device_mapped_bytes,  stats.device_staged,
          stats.device_staged_bytes, stats.device_arrived_bytes, stats.device_waited,
          stats.device_given_up,     stats.device_fetched,       use.pinned_bytes,
          use.messages_waiting,      use.messages_arriving,      use.slabs_mapped};
}

GpuMetrics metrics_of(const Gpu& gpu) {
  GpuUsage usage = usage_of(gpu);
  return {gpu.device().ordinal, usage.device_bytes, usage.pinned_bytes, std::move(usage.kernels)};
}

/// A snapshot that somebody waits for, perhaps no longer.
class Wanted {
 public:
  void give(NodeMetrics metrics) {
    const std::lock_guard lock(mutex_);
    metrics_ = std::move(metrics);
    given_.notify_all();
  }
  std::optional<NodeMetrics> wait(Duration timeout) {
    std::unique_lock lock(mutex_);
    given_.wait_for(lock, timeout, [&] { return metrics_.has_value(); });
    return std::move(metrics_);
  }

 private:
  std::mutex mutex_;
  std::condition_variable given_;
  std::optional<NodeMetrics> metrics_;
};

}  // namespace

MetricsBoard::~MetricsBoard() = default;

NodeMetrics MetricsBoard::snapshot() const {
  const Loop::Turn turn(*node_.loop);
  NodeMetrics made;
  made.node = node_.options.name;
  made.role = node_.options.role;
  made.node_id = node_.options.node_id;
  made.actors = node_.local_names.size();
  made.loop = metrics_of(node_.loop->stats());
  made.age_ns = made.loop.busy_ns + made.loop.polling_ns + made.loop.asleep_ns + made.loop.absent_ns;
  made.endpoint = metrics_of(*node_.endpoint);
  made.functions = node_.endpoint->function_metrics();
  made.device_calls = device_metrics_of(*node_.endpoint);
  for (const Gpu& gpu : node_.endpoint->options().gpus) made.gpus.push_back(metrics_of(gpu));
  for (const auto& [number, tables] : sources_)
    for (TableStats& table : tables()) made.tables.push_back(std::move(table));
  return made;
}

Result<NodeMetrics> MetricsBoard::snapshot_within(Duration timeout) const {
  const auto wanted = std::make_shared<Wanted>();
  node_.loop->post([this, weak = std::weak_ptr(wanted)] {
    if (const auto waited_for = weak.lock()) waited_for->give(snapshot());
  });
  if (auto metrics = wanted->wait(timeout)) return std::move(*metrics);
  return Error{Code::kDeadlineExceeded,
               "the loop of node '" + node_.options.name + "' was busy, or nobody drove it"};
}

Result<NodeMetrics> MetricsBoard::of(std::string_view node, Duration timeout) const {
  rpc::CallTarget target{rpc::kLocal, kNodeActor};
  {
    const Loop::Turn turn(*node_.loop);
    const Member* member = node_.directory.find_member_named(node);
    if (!member) return Error{Code::kNotFound, "no node is named '" + std::string(node) + "'"};
    auto session = node_.session_to(member->node_id);
    if (!session) return std::move(session).error();
    target.session = *session;
  }
  return rpc::call_sync<NodeMetrics>(*node_.endpoint, target, kNodeMetrics,
                                     "asking node '" + std::string(node) + "' for its metrics",
                                     {.timeout = timeout});
}

std::uint64_t MetricsBoard::add(std::function<std::vector<TableStats>()> tables) {
  const Loop::Turn turn(*node_.loop);
  sources_.emplace(next_source_, std::move(tables));
  return next_source_++;
}

void MetricsBoard::remove(std::uint64_t number) {
  const Loop::Turn turn(*node_.loop);
  sources_.erase(number);
}

// ---- Over HTTP ----------------------------------------------------------------------------------

const std::string& MetricsBoard::address() const {
  static const std::string kNone;
  return server_ ? server_->address() : kNone;
}

Result<void> MetricsBoard::serve(const std::string& address) {
  if (address.empty()) return {};
  auto server = MetricsServer::start(address, [this] {
    auto metrics = snapshot_within(kPatience);
    MetricFamily answers{"troupe_node_answers",
                         "1: what follows is the node's; 0: its loop was busy for a second, nothing follows",
                         MetricKind::kGauge,
                         {{{{"node", node_.options.name}}, metrics ? 1.0 : 0.0}}};
    std::vector<MetricFamily> all = metrics ? metric_families(*metrics) : std::vector<MetricFamily>();
    all.insert(all.begin(), std::move(answers));
    return all;
  });
  if (!server) return with_context(server.error(), "node '" + node_.options.name + "'");
  server_ = std::move(*server);
  node_.options.metadata["metrics_address"] = server_->address();
  return {};
}

}  // namespace troupe
