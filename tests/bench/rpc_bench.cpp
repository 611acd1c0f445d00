// Calls and tensors between two processes on one machine, beside raw UCX measured in the same run:
//   rpc_bench [part of a figure's name ...]
// The parent never uses UCX; every figure is taken in processes of its own, each pinned to one core.
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
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

#include "ucx_raw.hpp"

namespace {

using namespace troupe;
using namespace std::chrono_literals;
using SteadyClock = std::chrono::steady_clock;

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr int kRepetitions = 5;

double seconds_since(SteadyClock::time_point begin) {
  return std::chrono::duration<double>(SteadyClock::now() - begin).count();
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

// ---- Processes ----------------------------------------------------------------------------------

/// A child that runs `body(fd)`, fd being a pipe to us. It ends with us, or when this object goes.
class Child {
 public:
  explicit Child(const std::function<void(int fd)>& body) {
    std::array<int, 2> ends{};
    if (pipe(ends.data()) != 0) std::abort();
    pid_ = fork();
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      close(ends[0]);
      body(ends[1]);
      std::_Exit(0);
    }
    close(ends[1]);
    from_ = ends[0];
  }
  ~Child() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    close(from_);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  /// What it writes, up to a newline or its end.
  std::string line() const {
    std::string text;
    char c = 0;
    while (read(from_, &c, 1) == 1 && c != '\n') text += c;
    return text;
  }
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = 0;
  int from_ = -1;
};

void say(int fd, const std::string& text) {
  const std::string whole = text + "\n";
  if (write(fd, whole.data(), whole.size()) != static_cast<ssize_t>(whole.size())) std::abort();
}

// ---- What is called -----------------------------------------------------------------------------

struct Echo {
  static void methods(rpc::Methods<Echo>& methods) {
    methods.add("echo", [](Echo&, std::string_view text) { return text; })
        .add("take", [](Echo&, const Tensor&) {});
  }
};

NodeOptions options_for(const std::string& name, const std::string& tls, const std::string& registry) {
  NodeOptions options;
  options.name = name;
  options.registry = registry;
  options.transport.transports = tls;
  return options;
}

void serve(const std::string& tls, int core, int fd) {
  bench::pin_to_core(core);
  NodeOptions options = options_for("server", tls, "");
  options.own_thread = false;
  auto node = Node::start(std::move(options)).value();
  node->spawn<Echo>("echo").value();
  say(fd, node->address());
  (void)node->run();
}

using Measurement = std::function<double(Node&)>;

/// The figure that `measure` takes in a client beside a server; 0 if that fails.
double between_processes(const std::string& tls, const Measurement& measure) {
  const Child server([&](int fd) { serve(tls, 0, fd); });
  const std::string address = server.line();
  const Child client([&](int fd) {
    bench::pin_to_core(1);
    auto node = Node::start(options_for("client", tls, address)).value();
    node->wait_for_actor("echo", 10s).value();
    say(fd, std::to_string(measure(*node)));
    node.reset();
  });
  return std::strtod(client.line().c_str(), nullptr);
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

Measurement percentile_us(std::size_t bytes, std::size_t count, double percentile) {
  return [=](Node& node) {
    const std::string text(bytes, 'x');
    for (std::size_t i = 0; i < count / 10; ++i) call_echo(node, text);
    std::vector<double> times(count);
    for (double& time : times) {
      const auto begin = SteadyClock::now();
      call_echo(node, text);
      time = seconds_since(begin) * 1e6;
    }
    const auto rank = times.begin() + static_cast<std::ptrdiff_t>(percentile * static_cast<double>(count));
    std::nth_element(times.begin(), rank, times.end());
    return *rank;
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

/// GB/s of tensors of `bytes`, `window` of them under way.
Measurement tensor_gb_per_s(std::size_t bytes, std::size_t window) {
  return [=](Node& node) {
    const std::size_t count = std::max<std::size_t>(512 * kMiB / bytes, 16);
    std::vector<Tensor> tensors;
    for (std::size_t i = 0; i < window; ++i)
      tensors.push_back(Tensor::zeros(DType::kFloat32, Shape({static_cast<std::int64_t>(bytes / 4)})));
    std::vector<double> figures;
    for (int repetition = 0; repetition <= kRepetitions; ++repetition) {
      const auto begin = SteadyClock::now();
      std::deque<rpc::Future<void>> open;
      for (std::size_t i = 0; i < count; ++i) {
        if (open.size() == window) {
          open.front().get().value();
          open.pop_front();
        }
        open.push_back(node.rpc_async<void>("echo", "take", tensors[i % window]));
      }
      for (auto& future : open) future.get().value();
      // The first one faults the pages in.
      if (repetition > 0) figures.push_back(static_cast<double>(count * bytes) / seconds_since(begin) / 1e9);
    }
    return median(figures);
  };
}

/// Takes ours and the reference in turns and prints the medians.
void compare(const std::string& name, const std::string& unit, const std::function<double()>& ours,
             const std::string& reference, const std::function<bench::RawResult()>& raw) {
  std::vector<double> values, references;
  for (int i = 0; i < 3; ++i) {
    const bench::RawResult figure = raw();
    if (!figure.ok) {
      std::cerr << reference << ": " << figure.error << "\n";
      return;
    }
    references.push_back(figure.value);
    values.push_back(ours());
  }
  bench::print_json(name, median(values), unit, reference, median(references));
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
  bench::print_json("idle_cluster_cpu_percent", 100 * (used() - before) / seconds_since(begin), "%", "bound",
                    5);
}

struct Figure {
  std::string name;
  std::function<void()> take;
};

std::vector<Figure> figures() {
  std::vector<Figure> all;
  const auto add = [&](const std::string& name, const std::string& unit, const std::string& tls,
                       const Measurement& ours, const std::string& reference,
                       const std::function<bench::RawResult()>& raw) {
    all.push_back({name, [=] {
                     compare(
                         name, unit, [&] { return between_processes(tls, ours); }, reference, raw);
                   }});
  };
  for (const std::string tls : {"shm", "tcp"}) {
    const std::size_t turns = tls == "tcp" ? 5000 : 50000;
    const auto raw_rtt = [=] { return bench::raw_am_rtt(64, tls, turns); };
    const std::string rtt = "raw_ucx_rtt_64B_" + tls;
    add("rpc_sync_64B_" + tls, "us", tls, round_trip_us(64, turns), rtt, raw_rtt);
    add("rpc_p99_64B_" + tls, "us", tls, percentile_us(64, turns, 0.99), rtt, raw_rtt);
    add("rpc_async_64B_" + tls, "calls/s", tls, pipelined_calls(64, 256, turns * 4),
        "raw_ucx_rate_64B_" + tls, [=] { return bench::raw_am_rate(64, 256, tls, turns * 8); });
    for (const std::size_t mib : {1, 16}) {
      const std::string size = std::to_string(mib) + "MB_" + tls;
      add("tensor_" + size, "GB/s", tls, tensor_gb_per_s(mib * kMiB, 8), "raw_ucx_bandwidth_" + size,
          [=] { return bench::raw_am_bandwidth(mib * kMiB, 8, tls); });
    }
  }
  all.push_back({"idle_cluster_cpu_percent", idle_cluster});
  return all;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> wanted(argv + 1, argv + argc);
  for (const Figure& figure : figures()) {
    const bool take =
        wanted.empty() || std::any_of(wanted.begin(), wanted.end(), [&](const std::string& part) {
          return figure.name.find(part) != std::string::npos;
        });
    if (take) figure.take();
  }
  return 0;
}
