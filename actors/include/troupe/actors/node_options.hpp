#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <troupe/rpc/endpoint.hpp>
#include <troupe/rpc/transport.hpp>
#include <troupe/runtime/clock.hpp>
#include <troupe/runtime/gpu.hpp>
#include <troupe/runtime/log.hpp>
#include <troupe/runtime/loop.hpp>
#include <troupe/runtime/result.hpp>
#include <troupe/runtime/shared_pool.hpp>
#include <troupe/runtime/span_exporter.hpp>

namespace caf {
class actor_system;
}  // namespace caf

namespace troupe {

struct NodeOptions {
  std::string name = {};  ///< unique in the cluster
  std::string role = "worker";
  std::map<std::string, std::string> metadata = {};
  /// The address of the first node, which keeps the registry. Empty: this is the first node.
  std::string registry = {};
  std::string listen = "127.0.0.1:0";
  /// The address that others are told to dial, if it is not the one where this node listens: a host, or
  /// host:port, behind which something forwards to it. Empty: where it listens; for 0.0.0.0 and [::] the
  /// number by which this machine reaches the first node, or one of its interfaces'.
  std::string advertise = {};
  /// What all nodes of the cluster know, at least 16 bytes: without it nobody gets in. Needed for listening
  /// or joining off this machine. Empty: the contents of secret_file; if that is empty too, a secret that all
  /// processes of this user on this machine share. "none": there is none.
  std::string secret = {};
  std::string secret_file = {};  ///< only its owner, and group, may be able to read it
  rpc::TransportOptions transport = {};
  SharedPool::Limits shared_pool = {};  ///< of endpoint().shared_pool(); max_bytes 0: nothing is shared
  std::vector<Gpu> gpus = {};           ///< whose tensors may travel: see EndpointOptions::gpus
  bool map_gpu_memory = true;           ///< see EndpointOptions::map_gpu_memory
  Duration join_timeout{std::chrono::seconds(10)};     ///< the first node may start later than this one
  Duration default_timeout{std::chrono::seconds(60)};  ///< rpc::kNoDeadline: none
  Duration heartbeat_interval{std::chrono::seconds(1)};
  Duration silence_limit{std::chrono::seconds(5)};  ///< a silent node is taken for dead
  Duration handshake_timeout{std::chrono::seconds(5)};
  rpc::CallLimits limits = {};     ///< what may be under way to and from other nodes
  rpc::AnswerLimits answers = {};  ///< what is remembered of calls with a token
  // What may wait in one actor's mailbox while it is busy; past it calls are refused.
  std::size_t max_calls_waiting = std::size_t{1} << 16;
  std::size_t max_bytes_waiting = std::size_t{1} << 30;
  // Threads for methods that are marked rpc::kOnPool, started as they are needed; how many calls may wait for
  // them; and how long shutdown() waits for one that does not heed CallContext::cancelled(). No threads, or
  // another clock: such methods run on the loop.
  std::size_t pool_threads = 4;
  std::size_t pool_waiting = 1024;
  Duration pool_patience{std::chrono::seconds(5)};
  LoopOptions loop = {};  ///< loop.help: whether threads that wait in calls run others' handlers meanwhile
  bool metrics = true;    ///< calls are counted by function
  std::string metrics_address = {};  ///< where Prometheus may read them: see MetricsServer; empty: nowhere
  /// Where the node tells of joins, leaves and deaths (info, warn); it marks the lines with its name.
  Logger log = {};
  TraceOptions trace = {};  ///< where spans of this node's calls go; nowhere: there are none
  /// The first node only: whether run() returns, with no error, when the last of the other nodes has left.
  /// One that has died does not count as having left, because it may be started again.
  bool close_with_last = false;
  /// Whether the node drives its loop on a thread of its own. Without one, somebody must be in run() or
  /// in a call for the node to answer anybody.
  bool own_thread = true;
  /// The actor system to live in; null: the node makes a small one. Must outlive the node.
  caf::actor_system* system = nullptr;

  // Simulation: another clock and network, and no thread.
  Clock* clock = nullptr;
  std::function<Result<std::unique_ptr<rpc::Transport>>(Loop&)> make_transport = {};
  std::uint64_t node_id = 0;  ///< 0: random
};

}  // namespace troupe
