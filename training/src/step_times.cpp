#include "step_times.hpp"

#include <algorithm>
#include <span>
#include <string_view>

namespace troupe::training {

namespace {

/// Counters at one moment, or how far they went between two.
struct Calls {
  double durations = 0, open = 0;
  Calls operator-(const Calls& other) const { return {durations - other.durations, open - other.open}; }
};
struct Caller {
  double bound = 0, work = 0;
};
using Callers = std::map<std::string, Caller>;

using Functions = std::span<const std::string_view>;
constexpr std::string_view kTableCalls[]{"pull", "push"};
constexpr std::string_view kNext[]{"next"};

/// Calls of the functions that a node has made, or answered.
Calls calls_of(const NodeMetrics& metrics, rpc::CallSide side, Functions functions) {
  Calls sum;
  for (const rpc::FunctionMetrics& function : metrics.functions) {
    if (function.side != side) continue;
    if (std::find(functions.begin(), functions.end(), function.function) == functions.end()) continue;
    sum.durations += static_cast<double>(function.duration_ns);
    sum.open += static_cast<double>(function.open_ns);
  }
  return sum;
}

void add_callers(Callers& to, const NodeMetrics& metrics, double sign) {
  for (const TableStats& table : metrics.tables)
    for (const CallerTimes& caller : table.callers) {
      to[caller.node].bound += sign * static_cast<double>(caller.bound_ns);
      to[caller.node].work += sign * static_cast<double>(caller.work_ns);
    }
}

/// The same life of a node, earlier; null if it was not there.
const NodeMetrics* earlier(const JobMetrics& before, const NodeMetrics& node) {
  const auto found = before.find(node.node);
  return found != before.end() && found->second.node_id == node.node_id ? &found->second : nullptr;
}

bool is_server(const NodeMetrics& node) {
  return node.role == "server";
}

std::size_t servers_in(const JobMetrics& metrics) {
  return static_cast<std::size_t>(
      std::count_if(metrics.begin(), metrics.end(), [](const auto& node) { return is_server(node.second); }));
}

}  // namespace

void StepTimes::add(const JobMetrics& before, const JobMetrics& after) {
  if (servers_in(before) != servers_in(after)) return;
  Callers callers;
  double served = 0;  // by the servers, for all
  for (const auto& [name, now] : after) {
    if (!is_server(now)) continue;
    const NodeMetrics* then = earlier(before, now);
    if (!then) return;
    served += (calls_of(now, rpc::CallSide::kServer, kTableCalls) -
               calls_of(*then, rpc::CallSide::kServer, kTableCalls))
                  .durations;
    add_callers(callers, now, 1);
    add_callers(callers, *then, -1);
  }
  Caller all;
  for (const auto& [name, caller] : callers) all.bound += caller.bound, all.work += caller.work;
  const double shard_per_work = all.work > 0 ? std::max(0.0, served - all.bound) / all.work : 0;
  for (const auto& node : after) {
    const NodeMetrics& now = node.second;  // no structured binding, which clang lets no lambda use
    const NodeMetrics* then = earlier(before, now);
    if (is_server(now) || !then) continue;
    const auto made = [&](Functions functions) {
      return calls_of(now, rpc::CallSide::kClient, functions) -
             calls_of(*then, rpc::CallSide::kClient, functions);
    };
    const Calls tables = made(kTableCalls);
    const Caller& caller = callers[node.first];
    Worker& worker = workers_[node.first];
    worker.wall += static_cast<double>(now.age_ns - then->age_ns);
    worker.absent += static_cast<double>(now.loop.absent_ns - then->loop.absent_ns);
    worker.next += made(kNext).open;
    worker.open += tables.open;
    worker.durations += tables.durations;
    worker.bound += caller.bound;
    worker.shard += caller.work * shard_per_work;
  }
}

TimeShares StepTimes::of(const std::string& name) const {
  const auto found = workers_.find(name);
  if (found == workers_.end()) return {};
  const Worker& worker = found->second;
  constexpr double kSecond = 1e9;
  TimeShares shares;
  const double driven = worker.wall - worker.absent;
  const double held_back = std::max(0.0, driven - worker.open - worker.next);
  const double idle = std::min(worker.next + held_back, worker.wall);
  const double waiting = std::min(worker.open, worker.wall - idle);
  shares.idle = idle / kSecond;
  shares.compute = (worker.wall - idle - waiting) / kSecond;
  const double network = std::max(0.0, worker.durations - worker.bound - worker.shard);
  const double parts = worker.bound + worker.shard + network;
  if (parts <= 0) return shares;
  shares.bound = waiting * worker.bound / parts / kSecond;
  shares.shard = waiting * worker.shard / parts / kSecond;
  shares.network = waiting * network / parts / kSecond;
  return shares;
}

}  // namespace troupe::training
