// Calls and tensors between two processes on one machine, beside raw UCX and, if the programs of
// tests/bench/peers are there, beside peers, all measured in turns in the same run:
//   rpc_bench [--peers FOLDER] [part of a figure's name ...]
// The parent never uses UCX; every figure is taken in processes of its own, each pinned to one core.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <deque>
#include <fstream>
#include <functional>
#include <iostream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <troupe/actors/node.hpp>

#include "harness.hpp"
#include "peer_programs.hpp"
#include "ucx_raw.hpp"

namespace {

using namespace troupe;
using namespace std::chrono_literals;
using namespace troupe::bench;

constexpr int kTurns = 3;  // of each figure; their median counts

// ---- What is called -----------------------------------------------------------------------------

struct Echo {
  static void methods(rpc::Methods<Echo>& methods) {
    methods.add("echo", [](Echo&, std::string_view text) { return text; })
        .add("take", [](Echo&, const Tensor&) {})
        .add("sum", [](Echo&, const Tensor& tensor) { return sum_of(tensor.data(), tensor.bytes()); })
        .add("echo_and_number", [](Echo&, std::string_view text, std::int64_t) { return text; });
  }
};

NodeOptions options_for(const std::string& name, const std::string& tls, const std::string& registry) {
  NodeOptions options;
  options.name = name;
  options.registry = registry;
  options.transport.transports = tls;
  return options;
}

void serve(const std::string& tls, const Ready& ready) {
  NodeOptions options = options_for("server", tls, "");
  options.own_thread = false;
  auto node = Node::start(std::move(options)).value();
  node->spawn<Echo>("echo").value();
  ready(node->address());
  (void)node->run();
}

using Measurement = std::function<double(Node&)>;

/// The figure that `measure` takes in a client beside a server.
std::optional<double> beside_server(const std::string& tls, const Measurement& measure) {
  return between_processes([&](const Ready& ready) { serve(tls, ready); },
                           [&](const std::string& address) {
                             auto node = Node::start(options_for("client", tls, address)).value();
                             node->wait_for_actor("echo", 10s).value();
                             return measure(*node);
                           });
}

// ---- Figures ------------------------------------------------------------------------------------

void call_echo(Node& node, const std::string& text) {
  auto answer = node.rpc_sync<std::string>("echo", "echo", std::string_view(text));
  if (answer.value().size() != text.size()) std::abort();
}

Measurement round_trip_us(std::size_t bytes, std::size_t count) {
  return [=](Node& node) {
    const std::string text(bytes, 'x');
    for (std::size_t i = 0; i < count / 10; ++i) call_echo(node, text);
    std::vector<double> figures;
    for (int repetition = 0; repetition < kRepetitions; ++repetition) {
      const auto begin = SteadyClock::now();
      for (std::size_t i = 0; i < count; ++i) call_echo(node, text);
      figures.push_back(seconds_since(begin) * 1e6 / static_cast<double>(count));
    }
    return median(figures);
  };
}

/// Of `count` calls, each one's own time in µs.
std::vector<double> single_calls_us(Node& node, std::size_t bytes, std::size_t count) {
  const std::string text(bytes, 'x');
  for (std::size_t i = 0; i < count / 10; ++i) call_echo(node, text);
  std::vector<double> times(count);
  for (double& time : times) {
    const auto begin = SteadyClock::now();
    call_echo(node, text);
    time = seconds_since(begin) * 1e6;
  }
  return times;
}

Measurement percentile_us(std::size_t bytes, std::size_t count, double fraction) {
  return [=](Node& node) { return percentile(single_calls_us(node, bytes, count), fraction); };
}

/// A percentile over the median of the same calls.
Measurement percentile_over_median(std::size_t bytes, std::size_t count, double fraction) {
  return [=](Node& node) {
    const auto times = single_calls_us(node, bytes, count);
    return percentile(times, fraction) / median(times);
  };
}

/// Calls a second with `window` of them open.
Measurement pipelined_calls(std::size_t bytes, std::size_t window, std::size_t count) {
  return [=](Node& node) {
    const std::string text(bytes, 'x');
    std::vector<double> figures;
    for (int repetition = 0; repetition < kRepetitions; ++repetition) {
      const auto begin = SteadyClock::now();
      std::deque<rpc::Future<std::string>> open;
      for (std::size_t i = 0; i < count; ++i) {
        if (open.size() == window) {
          open.front().get().value();
          open.pop_front();
        }
        open.push_back(node.rpc_async<std::string>("echo", "echo", std::string_view(text)));
      }
      for (auto& future : open) future.get().value();
      figures.push_back(static_cast<double>(count) / seconds_since(begin));
    }
    return median(figures);
  };
}

Tensor zeros(std::size_t bytes, MemoryPool* pool = nullptr) {
  return Tensor::zeros(DType::kFloat32, Shape({static_cast<std::int64_t>(bytes / 4)}), pool);
}

/// GB/s of tensors of `bytes`, `window` of them under way: the same one again and again, as raw UCX does.
Measurement tensor_gb_per_s(std::size_t bytes, std::size_t window) {
  return [=](Node& node) {
    const std::size_t count = bandwidth_count(bytes);
    const Tensor tensor = zeros(bytes);
    std::vector<double> figures;
    for (int repetition = 0; repetition <= kRepetitions; ++repetition) {
      const auto begin = SteadyClock::now();
      std::deque<rpc::Future<void>> open;
      for (std::size_t i = 0; i < count; ++i) {
        if (open.size() == window) {
          open.front().get().value();
          open.pop_front();
        }
        open.push_back(node.rpc_async<void>("echo", "take", tensor));
      }
      for (auto& future : open) future.get().value();
      // The first one faults the pages in.
      if (repetition > 0) figures.push_back(static_cast<double>(count * bytes) / seconds_since(begin) / 1e9);
    }
    return median(figures);
  };
}

Tensor pooled_ones(Node& node, std::size_t bytes) {
  Tensor tensor = Tensor::empty(DType::kUInt64, Shape({static_cast<std::int64_t>(bytes / 8)}),
                                node.endpoint().shared_pool());
  std::fill_n(tensor.as<std::uint64_t>().data(), tensor.elements(), 1);
  return tensor;
}

/// GB/s of tensors in the shared pool, of which the callee reads every byte where they lie; so does the
/// receiver of raw UCX beside it, where that has copied them.
Measurement pooled_gb_per_s(std::size_t bytes) {
  return [=](Node& node) {
    const std::size_t count = bandwidth_count(bytes);
    const Tensor tensor = pooled_ones(node, bytes);
    std::vector<double> figures;
    for (int repetition = 0; repetition <= kRepetitions; ++repetition) {
      const auto begin = SteadyClock::now();
      auto before = node.rpc_async<std::uint64_t>("echo", "sum", tensor);
      for (std::size_t i = 1; i <= count; ++i) {
        auto next = i < count ? node.rpc_async<std::uint64_t>("echo", "sum", tensor) : before;
        if (before.get().value() != bytes / 8) std::abort();
        before = next;
      }
      // The first one faults the pages in.
      if (repetition > 0) figures.push_back(static_cast<double>(count * bytes) / seconds_since(begin) / 1e9);
    }
    return median(figures);
  };
}

/// A call's round trip whose argument lies in the shared pool and can be read when the method begins; the
/// method reads nothing and answers nothing.
Measurement pooled_arrival_us(std::size_t bytes, std::size_t count) {
  return [=](Node& node) {
    const Tensor tensor = pooled_ones(node, bytes);
    std::vector<double> times(count);
    for (double& time : times) {
      const auto begin = SteadyClock::now();
      node.rpc_sync<void>("echo", "take", tensor).value();
      time = seconds_since(begin) * 1e6;
    }
    return median(times);
  };
}

/// The same for tensors of which the callee has seen no byte before: it must find each one's memory and map
/// it. All stay in use, so that none has the memory of one before.
Measurement pooled_first_arrival_us(std::size_t bytes, std::size_t count) {
  return [=](Node& node) {
    std::vector<Tensor> tensors;
    tensors.reserve(count);
    for (std::size_t i = 0; i < count; ++i) tensors.push_back(pooled_ones(node, bytes));
    call_echo(node, "x");
    std::vector<double> times;
    times.reserve(count);
    for (const Tensor& tensor : tensors) {
      const auto begin = SteadyClock::now();
      node.rpc_sync<void>("echo", "take", tensor).value();
      times.push_back(seconds_since(begin) * 1e6);
    }
    if (node.endpoint().shared_pool().stats().fallbacks > 0) std::abort();
    return median(times);
  };
}

/// Keeps `window` calls open that carry `tensor`.
class TensorStream {
 public:
  TensorStream(Node& node, Tensor tensor, std::size_t window) : node_(node), tensor_(std::move(tensor)) {
    for (std::size_t i = 0; i < window; ++i) send();
  }
  /// Waits until none is open any more.
  void end() {
    Loop& loop = node_.loop();
    const Loop::Turn turn(loop);
    ended_ = true;
    (void)loop.wait_until([&] { return open_ == 0; }, loop.clock().now() + 60s);
  }
  std::size_t sent() const { return sent_; }

 private:
  void send() {
    const Loop::Turn turn(node_.loop());
    ++open_;
    node_.rpc_async<void>("echo", "take", tensor_).then([this](const Result<void>& done) {
      --open_;
      ++sent_;
      done.value();
      if (!ended_) send();
    });
  }
  Node& node_;
  Tensor tensor_;
  bool ended_ = false;
  std::size_t open_ = 0, sent_ = 0;
};

/// A percentile of a small call's time while tensors of `bytes` stream to the same actor.
Measurement percentile_beside_tensors_us(std::size_t bytes, std::size_t count, double fraction) {
  return [=](Node& node) {
    TensorStream stream(node, zeros(bytes), 2);
    const std::size_t fresh = 4;  // these fault the receiver's pages in
    while (stream.sent() < fresh) call_echo(node, "x");
    const double figure = percentile_us(64, count, fraction)(node);
    const bool streamed = stream.sent() > 2 * fresh;
    stream.end();
    return streamed ? figure : 0.0;
  };
}

/// One figure of ours and what stands beside it.
struct Comparison {
  std::string what, tls, unit;
  Measurement ours;
  std::string raw_name;
  std::function<RawResult()> raw;
  bool against_peers = false;

  std::string name() const { return what + "_" + tls; }
};

/// How far ahead of a peer we are to be.
struct Lead {
  std::string name;  ///< of our figure
  double target;
};
const std::vector<Lead> kSpeedupOverGrpc{{"rpc_sync_64B_shm", 40}, {"rpc_sync_64B_tcp", 5}};
const std::vector<Lead> kOverBestPeer{
    {"tensor_1MB_shm", 1.5}, {"tensor_1MB_tcp", 1.5},    {"tensor_16MB_shm", 1},
    {"tensor_16MB_tcp", 1},  {"rpc_async_64B_tcp", 1.0}, {"rpc_async_64B_open_64_tcp", 1.0},
};

/// `figures` hold every peer's name and figure.
void print_leads(const std::string& name, double ours,
                 const std::vector<std::pair<std::string, double>>& figures) {
  double best = 0;
  double grpc = 0;
  for (const auto& [peer, value] : figures) {
    best = std::max(best, value);
    if (peer.find("peer_grpc") == 0) grpc = value;
  }
  for (const Lead& lead : kSpeedupOverGrpc)
    if (lead.name == name && grpc > 0)
      print_json(name + "_speedup_over_grpc", grpc / ours, "x", "target", lead.target);
  for (const Lead& lead : kOverBestPeer)
    if (lead.name == name && best > 0)
      print_json(name + "_over_best_peer", ours / best, "x", "target", lead.target);
}

/// Takes raw UCX, ours and the peers' in turns, so that what else the machine does meets all of them, and
/// prints the medians.
void compare(const Comparison& comparison, const PeerPrograms& programs) {
  const std::vector<std::string> peers =
      comparison.against_peers ? programs.names(comparison.what, comparison.tls) : std::vector<std::string>{};
  std::vector<double> raw, ours;
  std::vector<std::vector<double>> theirs(peers.size());
  for (int turn = 0; turn < kTurns; ++turn) {
    const RawResult result = comparison.raw();
    const auto value = beside_server(comparison.tls, comparison.ours);
    if (!result.ok || !value) {
      std::cerr << comparison.name() << ": no figure " << result.error << "\n";
      return;
    }
    raw.push_back(result.value);
    ours.push_back(*value);
    for (std::size_t i = 0; i < peers.size(); ++i)
      if (const auto figure = programs.take(peers[i])) theirs[i].push_back(*figure);
  }
  print_json(comparison.name(), median(ours), comparison.unit, comparison.raw_name, median(raw));
  std::vector<std::pair<std::string, double>> figures;
  for (std::size_t i = 0; i < peers.size(); ++i) {
    if (theirs[i].empty()) continue;
    figures.emplace_back(peers[i], median(theirs[i]));
    print_json(peers[i], median(theirs[i]), comparison.unit, comparison.name(), median(ours));
  }
  print_leads(comparison.name(), median(ours), figures);
}

/// CPU time that a process has used so far.
double cpu_seconds(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string text((std::istreambuf_iterator<char>(file)), {});
  std::istringstream fields(text.substr(text.rfind(')') + 2));
  std::string skipped;
  for (int i = 3; i < 14; ++i) fields >> skipped;  // up to utime, the 14th field: see proc(5)
  double user = 0, system = 0;
  fields >> user >> system;
  return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

/// Per cent of one core that five nodes use together while nothing happens.
void idle_cluster() {
  constexpr int kNodes = 5;
  std::deque<Child> nodes;
  std::string address;
  for (int i = 0; i < kNodes; ++i) {
    nodes.emplace_back([&](int fd) {
      NodeOptions options = options_for("node" + std::to_string(i), "auto", address);
      options.role = "idler";
      auto node = Node::start(std::move(options)).value();
      say(fd, node->address());
      node->wait_for_role("idler", kNodes, 20s).value();
      say(fd, "joined");
      (void)node->run();
    });
    const std::string own = nodes.back().line();
    if (address.empty()) address = own;
  }
  for (const Child& node : nodes)
    if (node.line() != "joined") return;
  std::this_thread::sleep_for(1s);  // what joining started ends
  const auto used = [&] {
    double sum = 0;
    for (const Child& node : nodes) sum += cpu_seconds(node.pid());
    return sum;
  };
  const double before = used();
  const auto begin = SteadyClock::now();
  std::this_thread::sleep_for(5s);
  print_json("idle_cluster_cpu_percent", 100 * (used() - before) / seconds_since(begin), "%", "bound", 5);
}

/// Of a call to an actor of the same node. `Number` decides how: that of the method is passed as it is, any
/// other needs a message.
template <class Number>
double local_call_us(Node& node, std::size_t count) {
  const std::string text(64, 'x');
  const auto begin = SteadyClock::now();
  for (std::size_t i = 0; i < count; ++i)
    if (node.rpc_sync<std::string>("echo", "echo_and_number", std::string_view(text), static_cast<Number>(i))
            .value()
            .size() != text.size())
      std::abort();
  return seconds_since(begin) * 1e6 / static_cast<double>(count);
}

void local_calls() {
  const Child child([](int fd) {
    pin_to_core(1);
    NodeOptions options = options_for("local", "shm", "");
    options.own_thread = false;
    auto node = Node::start(std::move(options)).value();
    node->spawn<Echo>("echo").value();
    std::vector<double> direct, encoded;
    for (int turn = 0; turn <= kRepetitions; ++turn) {
      direct.push_back(local_call_us<std::int64_t>(*node, 50000));
      encoded.push_back(local_call_us<std::int32_t>(*node, 50000));
    }
    say(fd, std::to_string(median(direct)));
    say(fd, std::to_string(median(encoded)));
  });
  const std::string direct = child.line(), encoded = child.line();
  if (encoded.empty()) return;
  print_json("rpc_sync_64B_local", std::stod(direct), "us", "rpc_sync_64B_local_encoded", std::stod(encoded));
}

std::vector<Comparison> comparisons() {
  std::vector<Comparison> all;
  for (const std::string tls : {"shm", "tcp"}) {
    const std::size_t turns = tls == "tcp" ? 5000 : 50000;
    const std::string rtt = "raw_ucx_rtt_64B_" + tls;
    const auto raw_rtt = [=] { return raw_am_rtt(64, tls, turns); };
    all.push_back({"rpc_sync_64B", tls, "us", round_trip_us(64, turns), rtt, raw_rtt, true});
    all.push_back({"rpc_p99_64B", tls, "us", percentile_us(64, turns, 0.99), rtt, raw_rtt, false});
    all.push_back({"rpc_async_64B", tls, "calls/s", pipelined_calls(64, 256, turns * 4),
                   "raw_ucx_rate_64B_" + tls, [=] { return raw_am_rate(64, 256, tls, turns * 8); }, true});
    if (tls == "tcp")
      all.push_back({"rpc_async_64B_open_64", tls, "calls/s", pipelined_calls(64, 64, turns * 4),
                     "raw_ucx_rate_64B_open_64_" + tls, [=] { return raw_am_rate(64, 64, tls, turns * 8); },
                     true});
    for (const std::size_t mib : {1, 16}) {
      const std::string size = std::to_string(mib) + "MB";
      all.push_back({"tensor_" + size, tls, "GB/s", tensor_gb_per_s(mib * kMiB, 8),
                     "raw_ucx_bandwidth_" + size + "_" + tls,
                     [=] { return raw_am_bandwidth(mib * kMiB, 8, tls); }, true});
    }
  }
  for (const std::size_t mib : {16, 256}) {
    const std::string size = std::to_string(mib) + "MB";
    all.push_back({"tensor_pooled_" + size, "shm", "GB/s", pooled_gb_per_s(mib * kMiB),
                   "raw_ucx_bandwidth_and_reading_" + size + "_shm",
                   [=] { return raw_am_bandwidth(mib * kMiB, 8, "shm", Receiver::kReadsAll); }, false});
  }
  return all;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> parts(argv + 1, argv + argc);
  std::string peers;
  if (parts.size() >= 2 && parts[0] == "--peers") {
    peers = parts[1];
    parts.erase(parts.begin(), parts.begin() + 2);
  }
  const PeerPrograms programs(peers);
  for (const Comparison& comparison : comparisons())
    if (wanted(comparison.name(), parts)) compare(comparison, programs);
  if (wanted("rpc_sync_64B_local", parts)) local_calls();
  for (const std::string tls : {"shm", "tcp"}) {
    const std::string over = "rpc_p99_64B_" + tls + "_over_median";
    if (!wanted(over, parts)) continue;
    const std::size_t count = tls == "tcp" ? 5000 : 50000;
    std::vector<double> figures;
    for (int turn = 0; turn < kTurns; ++turn)
      if (const auto figure = beside_server(tls, percentile_over_median(64, count, 0.99)))
        figures.push_back(*figure);
    if (!figures.empty()) print_json(over, median(figures), "x", "bound", 3);
  }
  for (const std::string tls : {"shm", "tcp"}) {
    const std::string beside = "rpc_p99_64B_" + tls + "_beside_64MB_tensors";
    if (!wanted(beside, parts)) continue;
    const auto figure = beside_server(tls, percentile_beside_tensors_us(64 * kMiB, 5000, 0.99));
    if (figure) print_json(beside, *figure, "us", "bound", tls == "shm" ? 100 : 1000);
  }
  for (const auto& [name, arrival] :
       {std::pair("tensor_pooled_64MB_arrival", pooled_arrival_us(64 * kMiB, 5000)),
        std::pair("tensor_pooled_64MB_first_arrival", pooled_first_arrival_us(64 * kMiB, 15))}) {
    if (!wanted(name, parts)) continue;
    if (const auto figure = beside_server("shm", arrival)) print_json(name, *figure, "us", "bound", 50);
  }
  if (wanted("idle_cluster_cpu_percent", parts)) idle_cluster();
  return 0;
}
