#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <troupe/actors/shard_server.hpp>
#include <troupe/rpc/call_metrics.hpp>
#include <troupe/rpc/codec.hpp>
#include <troupe/runtime/clock.hpp>
#include <troupe/runtime/metrics_server.hpp>
#include <troupe/runtime/result.hpp>

namespace troupe {

struct NodeImpl;

/// The function by which nodes are asked for their metrics; it counts as any other.
inline constexpr std::string_view kNodeMetrics = "node_metrics";

/// What a node's loop did since it was made: see Loop::Stats. The times add up to the loop's age.
struct LoopMetrics {
  std::int64_t busy_ns = 0, polling_ns = 0, asleep_ns = 0, absent_ns = 0;
  std::uint64_t rounds = 0, events = 0, sleeps = 0;
};

/// What a node's endpoint did since it was made: see rpc::Endpoint::Stats.
struct EndpointMetrics {
  std::uint64_t bytes_sent = 0, bytes_received = 0;
  std::uint64_t messages_waited = 0, calls_refused = 0, deadlines_exceeded = 0, replies_late = 0;
  std::uint64_t repeats_answered = 0;
  std::uint64_t exceptions = 0, requests_held = 0, pauses = 0;
  // At this moment.
  std::uint64_t open_calls = 0, waiting_calls = 0, waiting_bytes = 0;
};

/// Device tensors of a node's endpoint since it was made: see rpc::Endpoint::Stats and DeviceUse.
struct DeviceCallMetrics {
  std::uint64_t mapped = 0, mapped_bytes = 0, staged = 0, staged_bytes = 0;  ///< sent, by way
  std::uint64_t arrived_bytes = 0;
  std::uint64_t waited = 0, given_up = 0, fetched = 0;
  // At this moment.
  std::uint64_t pinned_bytes = 0, waiting = 0, arriving = 0, slabs_mapped = 0;
};

/// One of a node's GPUs: see GpuUsage.
struct GpuMetrics {
  std::int64_t ordinal = 0;
  std::uint64_t device_bytes = 0, pinned_bytes = 0;
  std::vector<std::pair<std::string, std::uint64_t>> kernels;
};

/// What a node has counted since it started, at one moment. A plain value, which travels.
struct NodeMetrics {
  std::string node;
  std::string role;
  std::uint64_t node_id = 0;
  std::int64_t age_ns = 0;   ///< of its loop
  std::uint64_t actors = 0;  ///< named ones
  LoopMetrics loop;
  EndpointMetrics endpoint;
  std::vector<rpc::FunctionMetrics> functions;
  std::vector<TableStats> tables;  ///< of the shard servers on it
  DeviceCallMetrics device_calls;
  std::vector<GpuMetrics> gpus;  ///< NodeOptions::gpus
};

/// The metrics of a node, and of others: Node::metrics(). Functions are for any thread unless they say
/// otherwise.
class MetricsBoard {
 public:
  explicit MetricsBoard(NodeImpl& node) : node_(node) {}
  ~MetricsBoard();
  MetricsBoard(const MetricsBoard&) = delete;
  MetricsBoard& operator=(const MetricsBoard&) = delete;

  /// This node's. Waits for the turn, as all functions of a node.
  NodeMetrics snapshot() const;
  /// This node's, taken by whoever drives the loop. kDeadlineExceeded: a handler held it, or nobody drove it,
  /// for `timeout`. Not with the turn.
  Result<NodeMetrics> snapshot_within(Duration timeout) const;
  /// Those of the node with this name. kNotFound: none has it; else the errors of a call.
  Result<NodeMetrics> of(std::string_view node, Duration timeout) const;

  /// `tables` is asked, with the turn, for what it adds to each snapshot, until remove() of the number
  /// returned.
  std::uint64_t add(std::function<std::vector<TableStats>()> tables);
  void remove(std::uint64_t number);

  /// Where they are served over HTTP ("127.0.0.1:43211"); empty if NodeOptions::metrics_address is.
  const std::string& address() const;

 private:
  friend struct NodeImpl;
  Result<void> serve(const std::string& address);
  void stop_serving() { server_.reset(); }

  NodeImpl& node_;
  std::map<std::uint64_t, std::function<std::vector<TableStats>()>> sources_;
  std::uint64_t next_source_ = 1;
  std::unique_ptr<MetricsServer> server_;
};

/// The same as series for Prometheus: docs/observation.md lists them.
std::vector<MetricFamily> metric_families(const NodeMetrics& metrics);

}  // namespace troupe

template <>
struct troupe::rpc::Fields<troupe::LoopMetrics> {
  using T = troupe::LoopMetrics;
  static constexpr std::string_view name = "LoopMetrics";
  static constexpr auto fields = std::tuple(&T::busy_ns, &T::polling_ns, &T::asleep_ns, &T::absent_ns,
                                            &T::rounds, &T::events, &T::sleeps);
};
template <>
struct troupe::rpc::Fields<troupe::EndpointMetrics> {
  using T = troupe::EndpointMetrics;
  static constexpr std::string_view name = "EndpointMetrics";
  static constexpr auto fields =
      std::tuple(&T::bytes_sent, &T::bytes_received, &T::messages_waited, &T::calls_refused,
                 &T::deadlines_exceeded, &T::replies_late, &T::repeats_answered, &T::exceptions,
                 &T::requests_held, &T::pauses, &T::open_calls, &T::waiting_calls, &T::waiting_bytes);
};
template <>
struct troupe::rpc::Fields<troupe::DeviceCallMetrics> {
  using T = troupe::DeviceCallMetrics;
  static constexpr std::string_view name = "DeviceCallMetrics";
  static constexpr auto fields =
      std::tuple(&T::mapped, &T::mapped_bytes, &T::staged, &T::staged_bytes, &T::arrived_bytes, &T::waited,
                 &T::given_up, &T::fetched, &T::pinned_bytes, &T::waiting, &T::arriving, &T::slabs_mapped);
};
template <>
struct troupe::rpc::Fields<troupe::GpuMetrics> {
  using T = troupe::GpuMetrics;
  static constexpr std::string_view name = "GpuMetrics";
  static constexpr auto fields = std::tuple(&T::ordinal, &T::device_bytes, &T::pinned_bytes, &T::kernels);
};
template <>
struct troupe::rpc::Fields<troupe::NodeMetrics> {
  using T = troupe::NodeMetrics;
  static constexpr std::string_view name = "NodeMetrics";
  static constexpr auto fields =
      std::tuple(&T::node, &T::role, &T::node_id, &T::age_ns, &T::actors, &T::loop, &T::endpoint,
                 &T::functions, &T::tables, &T::device_calls, &T::gpus);
};
