// Collectives among processes with a GPU each, beside what NCCL by itself takes for the same in the same run.
// NCCL is looked for as the first argument says, else as the dynamic linker does.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <sys/mman.h>
#include <unistd.h>

#include <troupe/runtime/gpu.hpp>
#include <troupe/runtime/gpu_memory.hpp>
#include <troupe/shards/communicator.hpp>

#include "communicators/nccl_api.hpp"
#include "harness.hpp"

namespace {

using namespace troupe;
using namespace troupe::bench;
using shards::Communicator;
using shards::NcclApi;
using shards::ReduceOp;
using shards::Work;

constexpr std::size_t kSizes[] = {std::size_t{1} << 10, std::size_t{64} << 10, kMiB, 16 * kMiB, 256 * kMiB,
                                  1024 * kMiB};
constexpr auto kPatience = std::chrono::seconds(60);
constexpr int kMostMembers = 8;

std::string size_text(std::size_t bytes) {
  return bytes < kMiB ? std::to_string(bytes >> 10) + "KiB" : std::to_string(bytes >> 20) + "MiB";
}

std::size_t times(std::size_t bytes) {
  return bytes <= kMiB ? 500 : bytes <= 16 * kMiB ? 100 : 10;
}

[[noreturn]] void stop(const std::string& why) {
  std::cerr << why << "\n";
  std::exit(1);
}

template <class T>
T must(Result<T> result) {
  if (!result) stop(result.error().to_string());
  return *std::move(result);
}
void must(const Result<void>& result) {
  if (!result) stop(result.error().to_string());
}
void must(const NcclApi& api, int status) {
  if (status != shards::kNcclSuccess) stop(api.error_of(status, "NCCL", nullptr).to_string());
}

/// Memory that the members share: their addresses, and NCCL's id.
struct Board {
  std::atomic<int> there[4];  // for each of the exchanges
  char addresses[4][kMostMembers][2048];
  std::size_t lengths[4][kMostMembers];

  shards::AddressExchange exchange(int number, int rank, int members) {
    return
        [this, number, rank, members](const std::string& mine, Duration) -> Result<std::vector<std::string>> {
          lengths[number][rank] = mine.size();
          std::memcpy(addresses[number][rank], mine.data(), std::min(mine.size(), sizeof(addresses[0][0])));
          ++there[number];
          while (there[number] < members) std::this_thread::yield();
          std::vector<std::string> all;
          all.reserve(static_cast<std::size_t>(members));
          for (int i = 0; i < members; ++i) all.emplace_back(addresses[number][i], lengths[number][i]);
          return all;
        };
  }
};

/// A member: ours with and without agreement, and NCCL's own.
struct Member {
  Member(Board& board, const std::string& library, int own_rank, int size)
      : rank(own_rank),
        members(size),
        gpu(must(Gpu::open(own_rank))),
        pool(gpu),
        stream(must(gpu.make_stream())),
        api(must(NcclApi::load(library))) {
    const auto form = [&](int number, bool check) {
      shards::CommunicatorOptions options;
      options.rank = rank;
      options.size = members;
      options.check_calls = check;
      return must(
          shards::make_nccl_communicator(options, {gpu, library}, board.exchange(number, rank, members)));
    };
    unchecked = form(0, false);
    checked = form(1, true);
    shards::NcclId id{};
    if (rank == 0) must(*api, api->get_unique_id(&id));
    const auto ids = must(board.exchange(2, rank, members)(std::string(id.bytes, sizeof(id.bytes)), {}));
    std::memcpy(id.bytes, ids[0].data(), sizeof(id.bytes));
    const CurrentGpu here(gpu);
    shards::NcclConfig config;
    must(*api, api->init(&bare, members, id, rank, &config));
  }

  int rank;
  int members;
  Gpu gpu;
  GpuPool pool;
  Stream stream;
  std::shared_ptr<const NcclApi> api;
  std::unique_ptr<Communicator> unchecked;
  std::unique_ptr<Communicator> checked;
  shards::NcclComm bare = nullptr;
};

/// Seconds for each: medians of ours and theirs, in turns.
std::pair<double, double> beside(Member& member, std::size_t count,
                                 const std::function<void(std::size_t)>& ours,
                                 const std::function<void(std::size_t)>& theirs) {
  const auto once = [&](const std::function<void(std::size_t)>& run) {
    must(member.unchecked->barrier().wait());
    const auto begin = SteadyClock::now();
    run(count);
    return seconds_since(begin) / static_cast<double>(count);
  };
  std::vector<double> mine;
  std::vector<double> bare;
  for (int i = 0; i <= 2 * kRepetitions; ++i) {
    const double first = once(ours);
    const double second = once(theirs);
    if (i == 0) continue;  // connects
    mine.push_back(first);
    bare.push_back(second);
  }
  return {median(mine), median(bare)};
}

void measure(Member& member, int fd) {
  const NcclApi& api = *member.api;
  const CurrentGpu here(member.gpu);
  const auto tell = [&](const std::string& name, const std::pair<double, double>& seconds) {
    if (fd >= 0)
      say(fd, name + " " + std::to_string(seconds.first * 1e6) + " " + std::to_string(seconds.second * 1e6));
  };
  using Call = std::function<Work(Communicator&)>;
  const auto queued = [](Communicator& group, const Call& call) {
    return [&group, call](std::size_t count) {
      for (std::size_t i = 1; i < count; ++i) static_cast<void>(call(group));
      must(call(group).wait());
    };
  };
  const auto waited = [](Communicator& group, const Call& call) {
    return [&group, call](std::size_t count) {
      for (std::size_t i = 0; i < count; ++i) must(call(group).wait());
    };
  };
  using Bare = std::function<int()>;
  const auto bare_queued = [&](const Bare& call) {
    return [&, call](std::size_t count) {
      for (std::size_t i = 0; i < count; ++i) must(api, call());
      must(member.stream.finish(kPatience));
    };
  };
  const auto bare_waited = [&](const Bare& call) {
    return [&, call](std::size_t count) {
      for (std::size_t i = 0; i < count; ++i) must(api, call()), must(member.stream.finish(kPatience));
    };
  };
  constexpr int kFloat = 7;
  void* const native = member.stream.native();
  for (const std::size_t bytes : kSizes) {
    const auto n = static_cast<std::int64_t>(bytes / sizeof(float));
    const std::int64_t own = n / member.members;
    const Tensor tensor = must(member.pool.empty(DType::kFloat32, Shape{n}, member.stream));
    const Tensor whole = must(member.pool.empty(DType::kFloat32, Shape{own * member.members}, member.stream));
    const Tensor part = must(member.pool.empty(DType::kFloat32, Shape{own}, member.stream));
    for (const Tensor& each : {tensor, whole, part}) must(member.stream.fill(each.data(), 0, each.bytes()));
    must(member.stream.finish(kPatience));
    const std::string size = "_" + size_text(bytes) + "_" + std::to_string(member.members) + "gpu";
    const Call all_reduce = [&](Communicator& g) { return g.all_reduce(tensor, ReduceOp::kSum); };
    const Bare bare_all_reduce = [&] {
      return api.all_reduce(tensor.data(), tensor.data(), static_cast<std::size_t>(n), kFloat, 0, member.bare,
                            native);
    };
    const std::size_t count = times(bytes);
    tell("nccl_all_reduce" + size,
         beside(member, count, queued(*member.unchecked, all_reduce), bare_queued(bare_all_reduce)));
    if (bytes <= kMiB) {
      tell("nccl_all_reduce_waited" + size,
           beside(member, count, waited(*member.unchecked, all_reduce), bare_waited(bare_all_reduce)));
      tell("nccl_all_reduce_checked" + size,
           beside(member, count, queued(*member.checked, all_reduce), bare_queued(bare_all_reduce)));
    }
    tell("nccl_all_gather" + size,
         beside(member, count,
                queued(*member.unchecked, [&](Communicator& g) { return g.all_gather(part, whole); }),
                bare_queued([&] {
                  return api.all_gather(part.data(), whole.data(), static_cast<std::size_t>(own), kFloat,
                                        member.bare, native);
                })));
    tell("nccl_reduce_scatter" + size,
         beside(member, count,
                queued(*member.unchecked,
                       [&](Communicator& g) { return g.reduce_scatter(whole, part, ReduceOp::kSum); }),
                bare_queued([&] {
                  return api.reduce_scatter(whole.data(), part.data(), static_cast<std::size_t>(own), kFloat,
                                            0, member.bare, native);
                })));
    tell("nccl_broadcast" + size,
         beside(member, count,
                queued(*member.unchecked, [&](Communicator& g) { return g.broadcast(tensor, 0); }),
                bare_queued([&] {
                  return api.broadcast(tensor.data(), tensor.data(), bytes, shards::kNcclBytes, 0,
                                       member.bare, native);
                })));
  }
  must(member.unchecked->barrier().wait());
  if (fd >= 0) say(fd, "end 0 0");
}

}  // namespace

int main(int argc, char** argv) {
  const std::string library = argc > 1 ? argv[1] : "libnccl.so.2";
  // CUDA does not live on in a forked process: the GPUs are counted by one that ends.
  const Child counts([](int fd) {
    const auto gpus = list_gpus();
    say(fd, std::to_string(gpus ? gpus->size() : 0));
  });
  const int gpus = std::min(std::atoi(counts.line().c_str()), kMostMembers);
  if (gpus == 0 || !NcclApi::load(library)) {
    std::cerr << "nccl_bench: left out: "
              << (gpus == 0 ? "there is no GPU" : NcclApi::load(library).error().message) << "\n";
    return 0;
  }
  void* const shared =
      ::mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) stop("no memory");
  auto& board = *static_cast<Board*>(shared);  // zeros
  const auto run = [&](int rank, int fd) {
    Member member(board, library, rank, gpus);
    measure(member, rank == 0 ? fd : -1);
    if (rank != 0) say(fd, "done");
    // NCCL's own is left to the end of the process.
    member.checked.reset();
    member.unchecked.reset();
    std::_Exit(0);
  };
  std::vector<std::unique_ptr<Child>> others;
  for (int rank = 1; rank < gpus; ++rank)
    others.push_back(std::make_unique<Child>([&run, rank](int fd) { run(rank, fd); }));
  const Child first([&](int fd) { run(0, fd); });
  for (;;) {
    const std::string line = first.line(std::chrono::seconds(120));
    if (line.empty()) stop("a member has ended, or is stuck");
    const std::size_t at = line.find(' ');
    const std::string name = line.substr(0, at);
    if (name == "end") return 0;
    std::size_t used = 0;
    const double ours = std::stod(line.substr(at), &used);
    print_json(name, ours, "us", "bare NCCL", std::stod(line.substr(at + used)));
  }
}
