// A node's metrics as series for Prometheus. Their names, units and meanings stand in docs/observation.md.
#include <algorithm>
#include <tuple>

#include <troupe/actors/node_metrics.hpp>

namespace troupe {

namespace {

constexpr double kSecond = 1e9;  // ns
/// Staleness is counted up to these, doubled from 1 on.
constexpr std::uint64_t kLargestStaleness = 1024;

using Labels = std::vector<std::pair<std::string, std::string>>;

/// Families in the order in which they were first named.
class Families {
 public:
  explicit Families(std::string node) : node_(std::move(node)) {}
  void counter(const std::string& name, const std::string& help, const Labels& labels, double value) {
    family(name, help, MetricKind::kCounter).samples.push_back({with_node(labels), value});
  }
  void gauge(const std::string& name, const std::string& help, const Labels& labels, double value) {
    family(name, help, MetricKind::kGauge).samples.push_back({with_node(labels), value});
  }
  void histogram(const std::string& name, const std::string& help, const Labels& labels,
                 MetricSample sample) {
    sample.labels = with_node(labels);
    family(name, help, MetricKind::kHistogram).samples.push_back(std::move(sample));
  }
  std::vector<MetricFamily> take() { return std::move(all_); }

 private:
  Labels with_node(const Labels& labels) const {
    Labels all{{"node", node_}};
    all.insert(all.end(), labels.begin(), labels.end());
    return all;
  }
  MetricFamily& family(const std::string& name, const std::string& help, MetricKind kind) {
    const auto known =
        std::find_if(all_.begin(), all_.end(), [&](const auto& each) { return each.name == name; });
    if (known != all_.end()) return *known;
    all_.push_back({name, help, kind});
    return all_.back();
  }

  std::string node_;
  std::vector<MetricFamily> all_;
};

double number(std::uint64_t count) {
  return static_cast<double>(count);
}

MetricSample durations_of(const rpc::FunctionMetrics& function) {
  MetricSample sample;
  const auto& bounds = rpc::duration_bounds();
  const auto count = [&](std::size_t bucket) {
    return bucket < function.durations.size() ? function.durations[bucket] : 0;
  };
  for (std::size_t i = 0; i < bounds.size(); ++i)
    sample.buckets.push_back({static_cast<double>(bounds[i]) / kSecond, count(i)});
  sample.above = count(bounds.size());
  sample.sum = static_cast<double>(function.duration_ns) / kSecond;
  return sample;
}

void add_function(Families& to, const rpc::FunctionMetrics& function) {
  const bool client = function.side == rpc::CallSide::kClient;
  const std::string prefix = client ? "troupe_rpc_client_" : "troupe_rpc_server_";
  const std::string whose = client ? "made by this node" : "that came to this node";
  const Labels labels{{"function", function.function}};
  to.counter(prefix + "calls_total", "Calls " + whose, labels, number(function.calls));
  for (std::size_t code = 0; code < function.ended.size(); ++code)
    if (function.ended[code] > 0)
      to.counter(prefix + "completed_total", "Calls " + whose + " and have ended, by code",
                 {{"function", function.function}, {"code", std::string(to_string(static_cast<Code>(code)))}},
                 number(function.ended[code]));
  to.histogram(prefix + "duration_seconds",
               client ? "From the call to its end" : "From a call's arrival to its answer", labels,
               durations_of(function));
  to.counter(prefix + "open_seconds_total", "How long at least one call " + whose + " was in flight", labels,
             static_cast<double>(function.open_ns) / kSecond);
  to.counter(prefix + "sent_bytes_total", client ? "Bytes of requests" : "Bytes of answers", labels,
             number(function.bytes_sent));
  to.counter(prefix + "received_bytes_total", client ? "Bytes of answers" : "Bytes of requests", labels,
             number(function.bytes_received));
  to.gauge(prefix + "calls_in_flight", "Calls " + whose + " and have not ended", labels,
           number(function.in_flight));
  if (!client) return;
  to.gauge(prefix + "calls_waiting", "Calls that wait for room on the way to a peer", labels,
           number(function.waiting));
  to.counter(prefix + "retries_total", "Attempts beyond each call's first", labels, number(function.retries));
}

void add_loop(Families& to, const LoopMetrics& loop) {
  const std::pair<const char*, std::int64_t> states[] = {{"busy", loop.busy_ns},
                                                         {"polling", loop.polling_ns},
                                                         {"asleep", loop.asleep_ns},
                                                         {"absent", loop.absent_ns}};
  for (const auto& [state, ns] : states)
    to.counter("troupe_loop_seconds_total", "Where the loop's time went", {{"state", state}},
               static_cast<double>(ns) / kSecond);
  to.counter("troupe_loop_rounds_total", "Polls of all sources", {}, number(loop.rounds));
  to.counter("troupe_loop_events_total", "Events, timers and tasks handled", {}, number(loop.events));
  to.counter("troupe_loop_sleeps_total", "Times the loop slept in epoll", {}, number(loop.sleeps));
}

void add_endpoint(Families& to, const EndpointMetrics& endpoint) {
  const std::string prefix = "troupe_endpoint_";
  to.counter(prefix + "sent_bytes_total", "Bytes sent to peers", {}, number(endpoint.bytes_sent));
  to.counter(prefix + "received_bytes_total", "Bytes that came from peers", {},
             number(endpoint.bytes_received));
  to.counter(prefix + "messages_waited_total", "Messages that had to wait for room on the way to a peer", {},
             number(endpoint.messages_waited));
  to.counter(prefix + "calls_refused_total", "Calls refused because too many waited", {},
             number(endpoint.calls_refused));
  to.counter(prefix + "deadlines_exceeded_total", "Calls, or attempts, without an answer in time", {},
             number(endpoint.deadlines_exceeded));
  to.counter(prefix + "late_replies_total", "Answers that came when nobody waited for them any more", {},
             number(endpoint.replies_late));
  to.counter(prefix + "repeats_answered_total", "Repeated calls that had run, or were running, already", {},
             number(endpoint.repeats_answered));
  to.counter(prefix + "exceptions_total", "Exceptions that what was called from the endpoint has thrown", {},
             number(endpoint.exceptions));
  to.counter(prefix + "held_requests_total", "Calls of others that waited for room for their answers", {},
             number(endpoint.requests_held));
  to.counter(prefix + "pauses_total",
             "Times that nothing was read from a peer any more, which had too much open", {},
             number(endpoint.pauses));
  to.gauge(prefix + "open_calls", "Calls of this node without an answer yet", {},
           number(endpoint.open_calls));
  to.gauge(prefix + "waiting_calls", "Calls that wait for room on the way to a peer", {},
           number(endpoint.waiting_calls));
  to.gauge(prefix + "waiting_bytes", "Bytes of calls that wait", {}, number(endpoint.waiting_bytes));
}

/// Only of nodes that have been given GPUs.
void add_devices(Families& to, const NodeMetrics& metrics) {
  if (metrics.gpus.empty()) return;
  const DeviceCallMetrics& calls = metrics.device_calls;
  const std::string prefix = "troupe_device_";
  const std::tuple<const char*, std::uint64_t, std::uint64_t> ways[] = {
      {"mapped", calls.mapped, calls.mapped_bytes}, {"staged", calls.staged, calls.staged_bytes}};
  for (const auto& [way, tensors, bytes] : ways) {
    to.counter(prefix + "sent_tensors_total", "Device tensors sent to other nodes, by way", {{"way", way}},
               number(tensors));
    to.counter(prefix + "sent_bytes_total", "Their bytes", {{"way", way}}, number(bytes));
  }
  to.counter(prefix + "received_bytes_total", "Bytes of tensors that came for devices", {},
             number(calls.arrived_bytes));
  to.counter(prefix + "messages_waited_total", "Messages that had to wait for pinned memory", {},
             number(calls.waited));
  to.counter(prefix + "given_up_total", "Messages that nobody wanted any more before their tensors were here",
             {}, number(calls.given_up));
  to.counter(prefix + "fetched_total", "Tensors of peers whose memory could not be mapped after all", {},
             number(calls.fetched));
  to.gauge(prefix + "staging_bytes", "Pinned memory for tensors on their way, in use or kept", {},
           number(calls.pinned_bytes));
  to.gauge(prefix + "waiting_messages", "Messages that wait for pinned memory", {}, number(calls.waiting));
  to.gauge(prefix + "arriving_messages", "Messages whose tensors are on their way to a device", {},
           number(calls.arriving));
  to.gauge(prefix + "mapped_slabs", "Slabs of other processes that are mapped here", {},
           number(calls.slabs_mapped));
  for (const GpuMetrics& gpu : metrics.gpus) {
    const std::string ordinal = std::to_string(gpu.ordinal);
    to.gauge("troupe_gpu_memory_bytes", "Memory of pools of this process, in use or kept",
             {{"gpu", ordinal}, {"memory", "device"}}, number(gpu.device_bytes));
    to.gauge("troupe_gpu_memory_bytes", "Memory of pools of this process, in use or kept",
             {{"gpu", ordinal}, {"memory", "pinned"}}, number(gpu.pinned_bytes));
    for (const auto& [kernel, count] : gpu.kernels)
      to.counter("troupe_gpu_kernels_total", "Kernels launched, by name",
                 {{"gpu", ordinal}, {"kernel", kernel}}, number(count));
  }
}

MetricSample staleness_of(const TableStats& table) {
  MetricSample sample;
  std::uint64_t next = 0;
  const auto count_up_to = [&](std::uint64_t bound) {
    std::uint64_t sum = 0;
    for (; next <= bound && next < table.staleness_counts.size(); ++next) sum += table.staleness_counts[next];
    return sum;
  };
  // The last of the counts has all from there on: see shards::StalenessHistogram.
  sample.buckets.push_back({0, count_up_to(0)});
  for (std::uint64_t bound = 1; bound < kLargestStaleness; bound *= 2)
    sample.buckets.push_back({number(bound), count_up_to(bound)});
  sample.above = count_up_to(UINT64_MAX - 1);
  sample.sum = number(table.staleness_sum);
  return sample;
}

void add_table(Families& to, const TableStats& table) {
  const std::string prefix = "troupe_table_";
  const Labels labels{{"table", table.table}};
  to.gauge(prefix + "rows", "Rows of this node's part of the table", labels, number(table.rows));
  to.gauge(prefix + "memory_bytes", "Memory of the rows and their index", labels, number(table.bytes));
  to.counter(prefix + "pulls_total", "Pulls", labels, number(table.pulls));
  to.counter(prefix + "pushes_total", "Pushes applied", labels, number(table.pushes));
  to.counter(prefix + "pulled_keys_total", "Keys pulled", labels, number(table.pulled_keys));
  to.counter(prefix + "pushed_keys_total", "Keys pushed and applied", labels, number(table.pushed_keys));
  to.counter(prefix + "repeated_pushes_total", "Pushes that had been applied before", labels,
             number(table.repeated_pushes));
  to.counter(prefix + "rejected_pushes_total", "Pushes refused", labels, number(table.rejected_pushes));
  to.counter(prefix + "deferred_pulls_total", "Pulls that waited at the staleness bound", labels,
             number(table.deferred_pulls));
  to.counter(prefix + "deferred_seconds_total", "How long they waited, together", labels,
             number(table.deferred_ns) / kSecond);
  for (const CallerTimes& caller : table.callers) {
    const Labels whose{{"table", table.table}, {"caller", caller.node}};
    to.counter(prefix + "caller_bound_seconds_total", "How long a node's pulls waited at the staleness bound",
               whose, number(caller.bound_ns) / kSecond);
    to.counter(prefix + "caller_work_seconds_total", "How long rows were read and stepped for a node", whose,
               number(caller.work_ns) / kSecond);
  }
  to.histogram(prefix + "staleness_updates", "Pushes of others between a worker's pull and its push", labels,
               staleness_of(table));
}

}  // namespace

std::vector<MetricFamily> metric_families(const NodeMetrics& metrics) {
  Families all(metrics.node);
  all.gauge("troupe_node_info", "The node's role, and the id of this life of it",
            {{"role", metrics.role}, {"node_id", std::to_string(metrics.node_id)}}, 1);
  all.gauge("troupe_node_age_seconds", "Time since the node started", {},
            static_cast<double>(metrics.age_ns) / kSecond);
  all.gauge("troupe_node_actors", "Named actors", {}, number(metrics.actors));
  add_loop(all, metrics.loop);
  add_endpoint(all, metrics.endpoint);
  add_devices(all, metrics);
  for (const rpc::FunctionMetrics& function : metrics.functions) add_function(all, function);
  for (const TableStats& table : metrics.tables) add_table(all, table);
  return all.take();
}

}  // namespace troupe
