// Collectives among processes of this machine, beside what Gloo's own algorithms do over the same kind of
// sockets.
#include <gloo/allgather.h>
#include <gloo/allreduce.h>
#include <gloo/broadcast.h>
#include <gloo/math.h>
#include <gloo/rendezvous/context.h>
#include <gloo/rendezvous/file_store.h>
#include <gloo/transport/tcp/device.h>

#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include <troupe/shards/communicator.hpp>

#include "harness.hpp"
#include "support/temporary_folder.hpp"

namespace {

using namespace troupe;
using namespace troupe::bench;
using shards::Communicator;

constexpr std::size_t kSizes[] = {std::size_t{1} << 10, std::size_t{64} << 10, kMiB, 64 * kMiB};

std::string size_text(std::size_t bytes) {
  return bytes < kMiB ? std::to_string(bytes >> 10) + "KiB" : std::to_string(bytes >> 20) + "MiB";
}

std::size_t times(std::size_t bytes) {
  return bytes <= 64 * 1024 ? 500 : bytes <= kMiB ? 100 : 5;
}

void must(const Result<void>& result) {
  if (result) return;
  std::cerr << result.error().to_string() << "\n";
  std::exit(1);
}

/// What each member does, and what the first of them tells: pairs of figures in seconds, ours and Gloo's.
void work(Communicator& unchecked, Communicator& checked, const std::shared_ptr<gloo::Context>& gloo,
          int fd) {
  const auto timed = [&](std::size_t bytes, const auto& once) {
    std::vector<double> figures;
    for (int repetition = 0; repetition <= kRepetitions; ++repetition) {
      must(unchecked.barrier().wait());
      const auto begin = SteadyClock::now();
      for (std::size_t i = 0; i < times(bytes); ++i) once();
      if (repetition > 0) figures.push_back(seconds_since(begin) / static_cast<double>(times(bytes)));
    }
    if (fd >= 0) say(fd, std::to_string(median(figures) * 1e6));
  };
  const auto members = static_cast<std::int64_t>(unchecked.size());
  for (const std::size_t bytes : kSizes) {
    const auto n = static_cast<std::int64_t>(bytes / sizeof(float));
    const Tensor tensor = Tensor::zeros(DType::kFloat32, Shape{n});
    const Tensor part = Tensor::zeros(DType::kFloat32, Shape{n / members});
    const Tensor whole = Tensor::zeros(DType::kFloat32, Shape{n / members * members});
    auto* data = tensor.as<float>().data();
    timed(bytes, [&] { must(unchecked.all_reduce(tensor, shards::ReduceOp::kSum).wait()); });
    timed(bytes, [&] { must(checked.all_reduce(tensor, shards::ReduceOp::kSum).wait()); });
    timed(bytes, [&] {
      gloo::AllreduceOptions options(gloo);
      options.setOutput(data, static_cast<std::size_t>(n));
      options.setReduceFunction([](void* out, const void* a, const void* b, std::size_t count) {
        gloo::sum<float>(out, a, b, count);
      });
      gloo::allreduce(options);
    });
    timed(bytes, [&] { must(unchecked.all_gather(part, whole).wait()); });
    timed(bytes, [&] {
      gloo::AllgatherOptions options(gloo);
      options.setInput(part.as<float>().data(), static_cast<std::size_t>(part.elements()));
      options.setOutput(whole.as<float>().data(), static_cast<std::size_t>(whole.elements()));
      gloo::allgather(options);
    });
    timed(bytes, [&] { must(unchecked.broadcast(tensor, 0).wait()); });
    timed(bytes, [&] {
      gloo::BroadcastOptions options(gloo);
      options.setOutput(data, static_cast<std::size_t>(n));
      options.setRoot(0);
      gloo::broadcast(options);
    });
  }
  must(unchecked.barrier().wait());
}

std::unique_ptr<Communicator> form(gloo::rendezvous::FileStore& store, const std::string& name, int rank,
                                   int members, bool check) {
  shards::CommunicatorOptions options;
  options.name = name;
  options.rank = rank;
  options.size = members;
  options.check_calls = check;
  return shards::make_gloo_communicator(
             options,
             [&](const std::string& mine, Duration) -> Result<std::vector<std::string>> {
               store.set(name + std::to_string(rank), {mine.begin(), mine.end()});
               std::vector<std::string> all;
               for (int i = 0; i < members; ++i) {
                 const auto bytes = store.get(name + std::to_string(i));
                 all.emplace_back(bytes.begin(), bytes.end());
               }
               return all;
             })
      .value();
}

void member(const std::string& folder, int rank, int members, int fd) {
  gloo::rendezvous::FileStore store(folder);
  const auto unchecked = form(store, "unchecked", rank, members, false);
  const auto checked = form(store, "checked", rank, members, true);
  const auto context = std::make_shared<gloo::rendezvous::Context>(rank, members);
  auto device = gloo::transport::tcp::CreateDevice(gloo::transport::tcp::attr("127.0.0.1"));
  context->connectFullMesh(store, device);
  work(*unchecked, *checked, context, fd);
}

}  // namespace

int main(int argc, char** argv) {
  int members = 2;
  CLI::App app("Collectives among processes of this machine, over TCP");
  app.add_option("--members", members, "how many processes")->check(CLI::Range(2, 64));
  CLI11_PARSE(app, argc, argv);
  const test::TemporaryFolder folder;
  std::vector<std::unique_ptr<Child>> others;
  for (int rank = 1; rank < members; ++rank)
    others.push_back(std::make_unique<Child>([&](int fd) {
      member(folder.path(), rank, members, -1);
      say(fd, "done");
    }));
  const Child first([&](int fd) { member(folder.path(), 0, members, fd); });
  const auto next = [&]() -> double {
    const std::string line = first.line();
    if (line.empty()) {
      std::cerr << "a member has ended, or is stuck\n";
      std::exit(1);
    }
    return std::stod(line);
  };
  for (const std::size_t bytes : kSizes) {
    const std::string size = size_text(bytes) + "_" + std::to_string(members);
    const double reduced = next(), checked = next(), gloo_reduced = next(), gathered = next(),
                 gloo_gathered = next(), told = next(), gloo_told = next();
    print_json("all_reduce_" + size, reduced, "us", "gloo_allreduce", gloo_reduced);
    print_json("all_reduce_checked_" + size, checked, "us", "gloo_allreduce", gloo_reduced);
    print_json("all_gather_" + size, gathered, "us", "gloo_allgather", gloo_gathered);
    print_json("broadcast_" + size, told, "us", "gloo_broadcast", gloo_told);
  }
  for (const auto& other : others)
    if (other->line() != "done") return 1;
  return 0;
}
