#include <troupe/actors/node_config.hpp>

namespace troupe {

namespace {

/// Whether somebody has set it, be it to the default's value.
bool is_set(const Config& config, std::string_view name) {
  return config.origin(name) != "default";
}

template <class T>
void take(const Config& config, std::string_view name, T& option) {
  if (is_set(config, name)) option = config.get<T>(name);
}

}  // namespace

void add_node_settings(ConfigSchema& schema) {
  const NodeOptions d;
  constexpr double kHour = 3600;
  constexpr double kMostPoolWaiting = 1 << 20;
  schema.add("node.registry", d.registry, "address of the first node, which keeps the registry");
  schema.add("node.listen", d.listen, "address on which this node listens");
  schema.add("node.advertise", d.advertise, "address that others are told to dial; empty: where it listens");
  schema.renamed("node.publish", "node.advertise");
  schema
      .add("node.secret", d.secret,
           "what all nodes of the cluster must know; empty: node.secret_file, or this user's own; the word "
           "none: "
           "nothing")
      .confidential();
  schema.add("node.secret_file", d.secret_file, "file that holds the secret");
  schema.add("node.transport", d.transport.transports,
             "auto (shared memory on one machine, else RDMA or TCP), shm, tcp, or UCX's own names");
  schema.add("node.net_devices", d.transport.net_devices, "UCX's network devices, for instance mlx5_0:1");
  schema.add("node.join_timeout", d.join_timeout, "how long to wait for the first node").between(0, kHour);
  schema.add("node.default_timeout", d.default_timeout, "deadline of a call that names none")
      .between(0.001, 24 * kHour);
  schema.add("node.heartbeat_interval", d.heartbeat_interval, "between two signs of life")
      .between(0.01, kHour);
  schema.add("node.silence_limit", d.silence_limit, "a node silent for so long is taken for dead")
      .between(0.05, kHour);
  schema.add("node.close_with_last", d.close_with_last,
             "whether the first node ends when the last other one has left");
  schema.add("node.pool_threads", d.pool_threads, "threads for methods that are marked so; 0: none")
      .between(0, 4096);
  schema.add("node.pool_waiting", d.pool_waiting, "calls that may wait for these threads")
      .between(0, kMostPoolWaiting);
  schema.add("node.pool_patience", d.pool_patience, "how long the node's end waits for methods there")
      .between(0, kHour);
  schema.add("node.metrics_address", d.metrics_address,
             "where Prometheus may read metrics, or port; empty: nowhere");
  schema.add("node.trace_file", "", "file to which spans of calls are appended, as OTLP JSON");
  schema.add("node.trace_endpoint", "", "collector to which they are posted, http://host:port");
  schema.add("node.trace_ratio", d.trace.ratio, "of the traces that begin at this node, how many are kept")
      .between(0, 1);
  schema.add("loop.spin", d.loop.spin, "how long an idle loop polls before it sleeps").between(0, 1);
  schema.add("loop.yield_after", d.loop.yield_after, "from when on it gives the core away between polls")
      .between(0, 1);
  schema.add("loop.help", d.loop.help,
             "whether a thread that waits for a call runs the node's work meanwhile");
  schema.add("log.level", "info", "trace, debug, info, warn, error or off")
      .one_of({"trace", "debug", "info", "warn", "error", "off"});
  schema.add("log.format", "text", "text for people, json for programs").one_of({"text", "json"});
  schema.add("log.file", "", "where to; empty: standard error");
}

NodeOptions node_options(const Config& config, NodeOptions options) {
  take(config, "node.registry", options.registry);
  take(config, "node.listen", options.listen);
  take(config, "node.advertise", options.advertise);
  take(config, "node.secret", options.secret);
  take(config, "node.secret_file", options.secret_file);
  take(config, "node.transport", options.transport.transports);
  take(config, "node.net_devices", options.transport.net_devices);
  take(config, "node.join_timeout", options.join_timeout);
  take(config, "node.default_timeout", options.default_timeout);
  take(config, "node.heartbeat_interval", options.heartbeat_interval);
  take(config, "node.silence_limit", options.silence_limit);
  take(config, "node.close_with_last", options.close_with_last);
  take(config, "node.pool_threads", options.pool_threads);
  take(config, "node.pool_waiting", options.pool_waiting);
  take(config, "node.pool_patience", options.pool_patience);
  take(config, "node.metrics_address", options.metrics_address);
  take(config, "node.trace_file", options.trace.file);
  take(config, "node.trace_endpoint", options.trace.endpoint);
  take(config, "node.trace_ratio", options.trace.ratio);
  take(config, "loop.spin", options.loop.spin);
  take(config, "loop.yield_after", options.loop.yield_after);
  take(config, "loop.help", options.loop.help);
  return options;
}

Result<Logger> open_log(const Config& config) {
  auto level = parse_log_level(config.get<std::string>("log.level"));
  if (!level) return level.error();
  LogOptions options;
  options.level = *level;
  options.format = config.get<std::string>("log.format") == "json" ? LogFormat::kJson : LogFormat::kText;
  options.file = config.get<std::string>("log.file");
  return Logger::open(std::move(options));
}

}  // namespace troupe
