// Tables over processes, each figure beside a reference that is taken in turns with it, in the same run:
//   shards_remote_bench [--rows N] [part of a figure's name ...]
//
// Pulls and pushes of 4,096 rows of 64 floats out of N (10 million) with Adagrad, by one worker at one
// server, one and four in flight; beside a bare two-process server with the same index, without calls, checks
// or deduplication: over shared memory it gathers in pieces straight into memory that the client copies from
// meanwhile; over TCP it sends piece after piece. Small pulls beside an empty call. A dense tensor of 64 MB,
// pushed and pulled, beside a copy of as many bytes. Two servers beside one, with three workers. Training
// with a checkpoint under way beside training without.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <troupe/actors/node.hpp>
#include <troupe/actors/shard_server.hpp>
#include <troupe/actors/table_client.hpp>

#include "bare_rows.hpp"
#include "harness.hpp"

namespace {

using namespace troupe;
using namespace troupe::bench;
using namespace std::chrono_literals;

constexpr int kTurns = 5;  // of each figure and its reference; their medians count

struct Echo {
  static void methods(rpc::Methods<Echo>& methods) {
    methods.add("nothing", [](Echo&) {});
  }
};

NodeOptions options_for(const std::string& name, const std::string& transport, const std::string& registry) {
  NodeOptions options;
  options.name = name;
  options.registry = registry;
  options.transport.transports = transport;
  return options;
}

shards::TableSpec embedding() {
  shards::TableSpec spec;
  spec.name = "rows";
  spec.dim = kBareDim;
  spec.optimizer = shards::Adagrad{};
  return spec;
}

std::vector<std::string> names_of(std::uint32_t count) {
  std::vector<std::string> names;
  for (std::uint32_t i = 0; i < count; ++i) names.push_back("ps" + std::to_string(i));
  return names;
}

/// Server `index` of `count`; the first has the registry.
void serve(std::uint32_t index, std::uint32_t count, const std::string& transport,
           const std::string& registry, int fd) {
  NodeOptions options = options_for("server-" + std::to_string(index), transport, registry);
  options.own_thread = false;
  auto node = Node::start(std::move(options)).value();
  node->spawn<Echo>("echo-" + std::to_string(index)).value();
  node->spawn<ShardServer>(names_of(count)[index], index, count, *node).value();
  say(fd, node->address());
  (void)node->run();
}

std::unique_ptr<TableClient> open(Node& node, const shards::TableSpec& spec, std::uint32_t servers) {
  for (const auto& name : names_of(servers)) node.wait_for_actor(name, 30s).value();
  return TableClient::open(node, spec, names_of(servers)).value();
}

void make_rows(TableClient& client, std::uint64_t rows) {
  constexpr std::uint64_t kSome = 16384;
  std::vector<std::uint64_t> keys;
  std::vector<float> out(kSome * client.spec().dim);
  for (std::uint64_t begin = 0; begin < rows; begin += kSome) {
    keys.resize(std::min(kSome, rows - begin));
    std::iota(keys.begin(), keys.end(), begin);
    client.pull(keys, out.data()).get().value();
  }
}

/// Rows a second of `count` batches with `window` of them in flight.
double rows_per_second(std::size_t count, std::size_t window,
                       const std::function<rpc::Future<void>(std::size_t)>& go) {
  const auto begin = SteadyClock::now();
  std::deque<rpc::Future<void>> open;
  for (std::size_t i = 0; i < count; ++i) {
    if (open.size() == window) {
      open.front().get().value();
      open.pop_front();
    }
    open.push_back(go(i));
  }
  for (auto& future : open) future.get().value();
  return static_cast<double>(count * kBareKeys) / seconds_since(begin);
}

/// What a figure and its reference are, taken in turns.
void compare(const std::string& name, const std::string& unit, const std::string& reference, double scale,
             const std::function<double()>& ours, const std::function<double()>& theirs) {
  std::vector<double> own, other;
  for (int turn = 0; turn < kTurns; ++turn) {
    own.push_back(ours() * scale);
    other.push_back(theirs() * scale);
  }
  print_json(name, median(own), unit, reference, median(other));
}

// ---- Pulls and pushes ---------------------------------------------------------------------------

void bench_rows(Node& node, BareClient& bare, const std::string& transport, std::uint64_t rows,
                const std::vector<std::string>& parts) {
  const auto client = open(node, embedding(), 1);
  make_rows(*client, rows);
  const std::size_t count = 200;
  std::vector<std::vector<float>> out(kBareSlots, std::vector<float>(kBareKeys * kBareDim));
  const std::vector<float> gradients(kBareKeys * kBareDim, 0.01F);
  for (const bool zipf : {false, true}) {
    const auto batches = bare_batches(rows, zipf);
    for (const bool push : {false, true}) {
      for (const std::size_t window : {std::size_t{1}, kBareSlots}) {
        const std::string name = std::string(push ? "push" : "pull") + "_4096x64_" +
                                 (zipf ? "zipf" : "uniform") + "_" + transport + "_" + std::to_string(window);
        if (!wanted("table_" + name, parts)) continue;
        const auto ours = [&] {
          return rows_per_second(count, window, [&](std::size_t i) {
            const auto& keys = batches[i % batches.size()];
            if (push)
              return client->push(keys, gradients.data())
                  .then([](const Result<PushSummary>& done) -> Result<void> {
                    return done ? Result<void>() : Result<void>(done.error());
                  });
            return client->pull(keys, out[i % kBareSlots].data())
                .then([](const Result<PulledVersions>& done) -> Result<void> {
                  return done ? Result<void>() : Result<void>(done.error());
                });
          });
        };
        const auto theirs = [&] { return bare.rows_per_second(batches, count, window, push); };
        compare("table_" + name, "Mrows/s", "bare_server_" + name, 1e-6, ours, theirs);
      }
    }
  }
  const std::string small = "table_small_pull_16x64_" + transport;
  if (!wanted(small, parts)) return;
  std::vector<std::uint64_t> keys(16);
  std::mt19937_64 random(3);
  constexpr int kCalls = 2000;
  const auto timed = [&](const std::function<void()>& call) {
    const auto begin = SteadyClock::now();
    for (int i = 0; i < kCalls; ++i) call();
    return seconds_since(begin) / kCalls;
  };
  compare(
      small, "us", "empty_call_" + transport, 1e6,
      [&] {
        return timed([&] {
          for (auto& key : keys) key = random() % rows;
          client->pull(keys, out[0].data()).get().value();
        });
      },
      [&] { return timed([&] { node.rpc_sync<void>("echo-0", "nothing").value(); }); });
}

void bench_transport(const std::string& transport, std::uint64_t rows,
                     const std::vector<std::string>& parts) {
  if (!parts.empty() && std::none_of(parts.begin(), parts.end(), [&](const std::string& part) {
        return part.find("dense") == std::string::npos && part.find("checkpoint") == std::string::npos &&
               part.find("servers") == std::string::npos;
      }))
    return;
  BareRows bare(rows);  // before the fork: its memory is shared
  const Child bare_server([&](int fd) {
    pin_to_core(0);
    bare.serve(transport == "tcp", [fd](const std::string& port) { say(fd, port); });
  });
  const std::string port = bare_server.line();
  const Child server([&](int fd) {
    pin_to_core(0);
    serve(0, 1, transport, "", fd);
  });
  const std::string address = server.line();
  const Child client([&](int fd) {
    pin_to_core(1);
    auto node = Node::start(options_for("worker", transport, address)).value();
    BareClient beside(bare, port);
    bench_rows(*node, beside, transport, rows, parts);
    say(fd, "done");
  });
  if (client.line(600s) != "done")
    std::fprintf(stderr, "pulls and pushes over %s: failed\n", transport.c_str());
}

// ---- A dense tensor -----------------------------------------------------------------------------

void bench_dense(const std::vector<std::string>& parts) {
  const std::string name = "table_dense_push_pull_64MB_shm";
  if (!wanted(name, parts)) return;
  const Child server([&](int fd) {
    pin_to_core(0);
    serve(0, 1, "shm", "", fd);
  });
  const std::string address = server.line();
  const Child client([&](int fd) {
    pin_to_core(1);
    auto node = Node::start(options_for("worker", "shm", address)).value();
    shards::TableSpec spec = embedding();
    spec.name = "dense";
    spec.optimizer = shards::Sgd{};
    spec.set_shape({16384, 1024});
    const auto table = open(*node, spec, 1);
    const Tensor gradients = Tensor::zeros(DType::kFloat32, {16384, 1024});
    const Tensor weights = Tensor::zeros(DType::kFloat32, {16384, 1024});
    const double bytes = 2.0 * static_cast<double>(weights.bytes());
    compare(
        name, "GB/s", "memcpy_64MB_twice", 1e-9,
        [&] {
          const auto begin = SteadyClock::now();
          table->push_tensor(gradients).get().value();
          table->pull_tensor(weights).get().value();
          return bytes / seconds_since(begin);
        },
        [&] {
          const auto begin = SteadyClock::now();
          for (int i = 0; i < 2; ++i) std::memcpy(weights.data(), gradients.data(), weights.bytes());
          return bytes / seconds_since(begin);
        });
    say(fd, "done");
  });
  if (client.line(120s) != "done") std::fprintf(stderr, "%s: failed\n", name.c_str());
}

// ---- Two servers --------------------------------------------------------------------------------

/// Rows a second that three workers push to so many servers in all.
double rows_to_servers(std::uint32_t servers) {
  constexpr std::uint32_t kWorkers = 3;
  constexpr std::uint64_t kRows = 1'000'000;
  std::deque<Child> children;
  std::string address;
  for (std::uint32_t i = 0; i < servers; ++i) {
    children.emplace_back([&, i](int fd) {
      pin_to_core(static_cast<int>(i));
      serve(i, servers, "shm", address, fd);
    });
    const std::string own = children.back().line();
    if (i == 0) address = own;
  }
  const auto first = static_cast<std::ptrdiff_t>(children.size());
  for (std::uint32_t i = 0; i < kWorkers; ++i) {
    children.emplace_back([&, i](int fd) {
      pin_to_core(static_cast<int>(2 + i));
      auto node = Node::start(options_for("worker-" + std::to_string(i), "shm", address)).value();
      const auto table = open(*node, embedding(), servers);
      if (i == 0) make_rows(*table, kRows);
      const auto batches = bare_batches(kRows, false);
      const std::vector<float> gradients(kBareKeys * kBareDim, 0.01F);
      const auto go = [&](std::size_t n) {
        return table->push(batches[n % batches.size()], gradients.data())
            .then([](const Result<PushSummary>& done) -> Result<void> {
              return done ? Result<void>() : Result<void>(done.error());
            });
      };
      (void)rows_per_second(50, 4, go);
      say(fd, std::to_string(rows_per_second(1000, 4, go)));
    });
  }
  double all = 0;
  for (auto child = children.begin() + first; child != children.end(); ++child)
    all += std::strtod(child->line().c_str(), nullptr);
  return all;
}

void bench_two_servers(const std::vector<std::string>& parts) {
  const std::string name = "table_push_three_workers_two_servers_shm";
  if (!wanted(name, parts)) return;
  if (std::thread::hardware_concurrency() < 5) {
    std::fprintf(stderr, "%s: needs five cores\n", name.c_str());
    return;
  }
  compare(
      name, "Mrows/s", "three_workers_one_server_shm", 1e-6, [] { return rows_to_servers(2); },
      [] { return rows_to_servers(1); });
}

// ---- Checkpoints --------------------------------------------------------------------------------

/// Bytes a second of a plain writer that writes and syncs so many, a megabyte at a time.
double plain_writer(const std::filesystem::path& file, std::uint64_t bytes) {
  const std::vector<char> page(kMiB, 'x');
  const auto begin = SteadyClock::now();
  std::FILE* const out = std::fopen(file.c_str(), "wb");
  if (out == nullptr) std::abort();
  for (std::uint64_t at = 0; at < bytes; at += page.size())
    if (std::fwrite(page.data(), 1, page.size(), out) != page.size()) std::abort();
  std::fflush(out);
  (void)::fsync(::fileno(out));
  std::fclose(out);
  const double seconds = seconds_since(begin);
  std::filesystem::remove(file);
  return static_cast<double>(bytes) / seconds;
}

void bench_checkpoint(std::uint64_t rows, const std::vector<std::string>& parts) {
  if (!wanted("table_checkpoint", parts)) return;
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("troupe-bench-" + std::to_string(::getpid()));
  std::filesystem::create_directories(folder);
  const Child server([&](int fd) {
    pin_to_core(0);
    serve(0, 1, "shm", "", fd);
  });
  const std::string address = server.line();
  const Child client([&](int fd) {
    pin_to_core(1);
    auto node = Node::start(options_for("worker", "shm", address)).value();
    const auto table = open(*node, embedding(), 1);
    make_rows(*table, rows);
    const auto batches = bare_batches(rows, false);
    const std::vector<float> gradients(kBareKeys * kBareDim, 0.01F);
    const std::uint64_t bytes = rows * (8 + 2 * kBareDim * sizeof(float));
    std::size_t at = 0;
    const auto push = [&] { table->push(batches[at++ % batches.size()], gradients.data()).get().value(); };
    std::vector<double> with, without, speed, plain, stalls;
    for (int turn = 0; turn < 3; ++turn) {
      auto begin = SteadyClock::now();
      for (int i = 0; i < 500; ++i) push();
      without.push_back(500 / seconds_since(begin));
      begin = SteadyClock::now();
      auto saved = node->rpc_async_with<std::vector<std::string>>(
          {.timeout = 300s}, "ps0", "save", (folder / "tmp").string(), std::vector<std::string>{"rows"});
      int pushes = 0;
      double longest = 0;
      for (; !saved.ready(); ++pushes) {
        const auto one = SteadyClock::now();
        push();
        longest = std::max(longest, seconds_since(one));
      }
      const double seconds = seconds_since(begin);
      saved.get().value();
      with.push_back(pushes / seconds);
      speed.push_back(static_cast<double>(bytes) / seconds);
      stalls.push_back(longest * 1e3);
      std::filesystem::remove_all(folder / "tmp");
      plain.push_back(plain_writer(folder / "plain", bytes));
    }
    print_json("table_checkpoint_pushes_meanwhile", median(with), "pushes/s", "pushes_without",
               median(without));
    print_json("table_checkpoint_speed", median(speed) / 1e9, "GB/s", "plain_writer", median(plain) / 1e9);
    print_json("table_checkpoint_longest_push", median(stalls), "ms", "target", 50);
    say(fd, "done");
  });
  if (client.line(600s) != "done") std::fprintf(stderr, "checkpoints: failed\n");
  std::filesystem::remove_all(folder);
}

}  // namespace

int main(int argc, char** argv) {
  std::uint64_t rows = 10'000'000;
  std::vector<std::string> parts;
  for (int i = 1; i < argc; ++i) {
    if (std::string(argv[i]) == "--rows" && i + 1 < argc) {
      rows = std::max<std::uint64_t>(std::strtoull(argv[++i], nullptr, 10), kBareKeys);
    } else {
      parts.emplace_back(argv[i]);
    }
  }
  for (const char* transport : {"shm", "tcp"}) bench_transport(transport, rows, parts);
  bench_dense(parts);
  bench_two_servers(parts);
  bench_checkpoint(std::min<std::uint64_t>(rows, 2'000'000), parts);
  return 0;
}
