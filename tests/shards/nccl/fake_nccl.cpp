// A library with NCCL's functions, as far as they are used, over shared memory of the host.
#include "fake_nccl.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "communicators/nccl_api.hpp"
#include "communicators/reduction.hpp"

namespace troupe::test {
namespace {

using shards::NcclId;
using shards::ReduceOp;

constexpr int kMostMembers = 8;
constexpr std::size_t kArea = std::size_t{32} << 20;  // of each member; pages come as they are used
constexpr std::size_t kChannel = std::size_t{64} << 10;

FakeNcclScript script;

struct Rank {
  alignas(64) std::atomic<std::uint64_t> posted;
  std::atomic<std::uint64_t> done;
};
struct Channel {
  alignas(64) std::atomic<std::uint64_t> head;
  std::atomic<std::uint64_t> tail;
  std::byte bytes[kChannel];
};
struct Segment {
  std::atomic<int> arrived;
  std::atomic<int> split;
  Rank ranks[kMostMembers];
  Channel channels[kMostMembers][kMostMembers];  // from, to
};
constexpr std::size_t kBytes = (sizeof(Segment) + 4095) / 4096 * 4096 + kMostMembers * kArea;

struct Comm {
  std::atomic<bool> alive{true};
  std::shared_ptr<Segment> segment;
  std::string name;
  int rank = 0;
  int size = 1;
  bool blocking = true;
  bool child = false;
  std::shared_ptr<std::atomic<bool>> aborted = std::make_shared<std::atomic<bool>>(false);
  std::atomic<int> async{shards::kNcclInProgress};
  std::atomic<int> inside{0};
  std::atomic<int> tasks{0};
  std::uint64_t number = 0;  // with the stream
  std::thread forming;

  std::byte* area(int of) const {
    return reinterpret_cast<std::byte*>(segment.get()) + kBytes -
           static_cast<std::size_t>(kMostMembers - of) * kArea;
  }
};

// Kept for ever, so that a use after the end is seen, not suffered.
std::mutex all_mutex;
std::vector<std::unique_ptr<Comm>> all;

Comm* keep(std::unique_ptr<Comm> comm) {
  const std::lock_guard lock(all_mutex);
  ++script.alive;
  all.push_back(std::move(comm));
  return all.back().get();
}

template <class There>
bool until(const std::atomic<bool>& aborted, const There& there) {
  for (int i = 0; !there(); ++i) {
    if (aborted) return false;
    if (i < 100)
      std::this_thread::yield();
    else
      std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
  return true;
}

std::shared_ptr<Segment> open_segment(const char* name) {
  const int fd = ::shm_open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return nullptr;
  if (::ftruncate(fd, static_cast<off_t>(kBytes)) != 0) return nullptr;
  void* const at = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  ::close(fd);
  if (at == MAP_FAILED) return nullptr;
  return {static_cast<Segment*>(at), [](Segment* segment) { ::munmap(segment, kBytes); }};
}

/// All have come to this, and their areas are there; or it was aborted.
bool posted(Comm& comm) {
  comm.segment->ranks[comm.rank].posted = ++comm.number;
  return until(*comm.aborted, [&] {
    for (int i = 0; i < comm.size; ++i)
      if (comm.segment->ranks[i].posted < comm.number) return false;
    return true;
  });
}

/// All have read what they need of the others' areas.
void done(Comm& comm) {
  comm.segment->ranks[comm.rank].done = comm.number;
  until(*comm.aborted, [&] {
    for (int i = 0; i < comm.size; ++i)
      if (comm.segment->ranks[i].done < comm.number) return false;
    return true;
  });
}

void copy_bytes(void* to, const void* from, std::size_t bytes) {
  if (bytes != 0) std::memcpy(to, from, bytes);
}

constexpr DType kTypes[] = {DType::kInt8,    DType::kUInt8,   DType::kInt32,   DType::kUInt32,
                            DType::kInt64,   DType::kUInt64,  DType::kFloat16, DType::kFloat32,
                            DType::kFloat64, DType::kBFloat16};
constexpr ReduceOp kOps[] = {ReduceOp::kSum, ReduceOp::kProduct, ReduceOp::kMax, ReduceOp::kMin,
                             ReduceOp::kMean};

/// `n` elements of the members' areas from `at` on, combined in the order of ranks.
void combine(const Comm& comm, void* out, std::size_t at, std::size_t n, DType dtype, ReduceOp op) {
  const std::size_t bytes = n * size_of(dtype);
  copy_bytes(out, comm.area(0) + at, bytes);
  for (int i = 1; i < comm.size; ++i) shards::combine_of(dtype, op)(out, out, comm.area(i) + at, n);
  if (op == ReduceOp::kMean) shards::divide(dtype, out, n, comm.size);
}

struct Transfer {
  bool send;
  int peer;
  std::byte* at;
  std::size_t left;
};

/// As much of one as its channel lets pass.
bool moved(Comm& comm, Transfer& each) {
  Channel& channel =
      each.send ? comm.segment->channels[comm.rank][each.peer] : comm.segment->channels[each.peer][comm.rank];
  const std::uint64_t head = channel.head;
  const std::uint64_t tail = channel.tail;
  const std::uint64_t at = each.send ? head : tail;
  const std::size_t there = each.send ? kChannel - (head - tail) : head - tail;
  const std::size_t bytes = std::min({each.left, there, kChannel - at % kChannel});
  if (bytes == 0) return false;
  std::byte* const place = channel.bytes + at % kChannel;
  each.send ? copy_bytes(place, each.at, bytes) : copy_bytes(each.at, place, bytes);
  (each.send ? channel.head : channel.tail) = at + bytes;
  each.at += bytes;
  each.left -= bytes;
  return true;
}

/// All at once; between two members one after the other each way.
void transfer(Comm& comm, std::vector<Transfer> transfers) {
  until(*comm.aborted, [&] {
    bool any = true;
    while (any) {
      any = false;
      for (std::size_t i = 0; i < transfers.size(); ++i) {
        Transfer& each = transfers[i];
        const bool behind = std::any_of(
            transfers.begin(), transfers.begin() + static_cast<std::ptrdiff_t>(i),
            [&](const Transfer& b) { return b.left != 0 && b.peer == each.peer && b.send == each.send; });
        if (each.left != 0 && !behind) any = moved(comm, each) || any;
      }
    }
    return std::all_of(transfers.begin(), transfers.end(), [](const Transfer& t) { return t.left == 0; });
  });
}

struct Group {
  int depth = 0;
  Comm* comm = nullptr;
  FakeStream* stream = nullptr;
  std::vector<std::function<void(Comm&)>> work;
  std::vector<Transfer> transfers;
};
thread_local Group group;

struct Task {
  Comm* comm;
  std::vector<std::function<void(Comm&)>> work;
};

int start() {
  ++group.depth;
  return shards::kNcclSuccess;
}

int end() {
  if (--group.depth > 0) return shards::kNcclSuccess;
  Group given = std::exchange(group, {});
  if (!given.comm) return shards::kNcclSuccess;
  Comm& comm = *given.comm;
  ++comm.inside;
  if (!comm.alive) ++script.misused;
  int status = shards::kNcclSuccess;
  if (script.stuck_in_call == comm.rank && comm.alive) {
    until(*comm.aborted, [] { return false; });
    // Long enough that an end which does not wait for those inside is seen.
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    status = shards::kNcclInternalError;
  } else {
    if (!given.transfers.empty())
      given.work.emplace_back([t = std::move(given.transfers)](Comm& c) { transfer(c, t); });
    ++comm.tasks;
    ++script.launches;
    given.stream->give(
        given.stream,
        [](void* argument) {
          const std::unique_ptr<Task> task(static_cast<Task*>(argument));
          for (const auto& each : task->work)
            if (!*task->comm->aborted) each(*task->comm);
          --task->comm->tasks;
        },
        new Task{&comm, std::move(given.work)});
  }
  --comm.inside;
  return status;
}

int give(void* comm, void* stream, std::function<void(Comm&)> work) {
  start();
  group.comm = static_cast<Comm*>(comm);
  group.stream = static_cast<FakeStream*>(stream);
  group.work.push_back(std::move(work));
  return end();
}

int give(void* comm, void* stream, Transfer one) {
  start();
  group.comm = static_cast<Comm*>(comm);
  group.stream = static_cast<FakeStream*>(stream);
  group.transfers.push_back(one);
  return end();
}

}  // namespace
}  // namespace troupe::test

using namespace troupe::test;
using troupe::shards::NcclConfig;
using troupe::shards::NcclId;

extern "C" {

FakeNcclScript* fake_nccl_script() {
  return &script;
}

int ncclGetVersion(int* version) {
  *version = script.version;
  return 0;
}

int ncclGetUniqueId(NcclId* id) {
  static std::atomic<int> ids{0};
  std::snprintf(id->bytes, sizeof(id->bytes), "/troupe-fake-nccl-%d-%d", ::getpid(), ++ids);
  return 0;
}

int ncclCommInitRankConfig(Comm** made, int size, NcclId id, int rank, NcclConfig* config) {
  if (config->magic != 0xcafebeef || config->size < 48 || size > kMostMembers || rank >= size) return 4;
  auto own = std::make_unique<Comm>();
  own->segment = open_segment(id.bytes);
  if (!own->segment) return 2;
  own->name = id.bytes;
  own->rank = rank;
  own->size = size;
  own->blocking = config->blocking != 0;
  Comm* const comm = keep(std::move(own));
  *made = comm;
  comm->forming = std::thread([comm] {
    if (script.stuck_in_init != comm->rank) ++comm->segment->arrived;
    const bool all = until(*comm->aborted, [&] { return comm->segment->arrived == comm->size; });
    comm->async = all ? 0 : 3;
  });
  return 7;
}

int ncclCommSplit(Comm* parent, int color, int key, Comm** made, NcclConfig* config) {
  if (!parent->alive || color != 0 || key != parent->rank || config->magic != 0xcafebeef) return 4;
  parent->forming.join();
  parent->async = 7;
  parent->forming = std::thread([parent, made, blocking = config->blocking != 0] {
    ++parent->segment->split;
    if (!until(*parent->aborted, [&] { return parent->segment->split == parent->size; })) {
      parent->async = 3;
      return;
    }
    auto own = std::make_unique<Comm>();
    own->segment = parent->segment;
    own->rank = parent->rank;
    own->size = parent->size;
    own->blocking = blocking;
    own->child = true;
    own->aborted = parent->aborted;  // they share their means
    own->async = 0;
    if (parent->rank == 0) ::shm_unlink(parent->name.c_str());
    *made = keep(std::move(own));
    parent->async = 0;
  });
  return 0;  // although it is under way
}

int ncclCommAbort(Comm* comm) {
  if (!comm->alive) {
    ++script.misused;
    return 4;
  }
  *comm->aborted = true;
  while (script.stuck_in_abort) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  if (comm->forming.joinable()) comm->forming.join();
  if (comm->inside != 0) ++script.misused;
  while (comm->tasks != 0) std::this_thread::sleep_for(std::chrono::microseconds(50));
  if (comm->rank == 0 && !comm->child) ::shm_unlink(comm->name.c_str());
  comm->alive = false;
  comm->segment.reset();
  --script.alive;
  return 0;
}

int ncclCommGetAsyncError(Comm* comm, int* status) {
  if (!comm->alive) {
    ++script.misused;
    return 4;
  }
  *status = comm->child && script.told_of_error == comm->rank ? 6 : comm->async.load();
  return 0;
}

const char* ncclGetErrorString(int status) {
  return status == 6 ? "remote process exited or there was a network error" : "an error";
}

const char* ncclGetLastError(Comm*) {
  return "";
}

int ncclAllReduce(const void* in, void* out, std::size_t n, int type, int op, Comm* comm, void* stream) {
  return give(comm, stream, [=](Comm& c) {
    copy_bytes(c.area(c.rank), in, n * size_of(kTypes[type]));
    if (!posted(c)) return;
    combine(c, out, 0, n, kTypes[type], kOps[op]);
    done(c);
  });
}

int ncclReduce(const void* in, void* out, std::size_t n, int type, int op, int root, Comm* comm,
               void* stream) {
  return give(comm, stream, [=](Comm& c) {
    copy_bytes(c.area(c.rank), in, n * size_of(kTypes[type]));
    if (!posted(c)) return;
    if (c.rank == root) combine(c, out, 0, n, kTypes[type], kOps[op]);
    done(c);
  });
}

int ncclBroadcast(const void* in, void* out, std::size_t n, int type, int root, Comm* comm, void* stream) {
  return give(comm, stream, [=](Comm& c) {
    const std::size_t bytes = n * size_of(kTypes[type]);
    if (c.rank == root) copy_bytes(c.area(root), in, bytes);
    if (!posted(c)) return;
    copy_bytes(out, c.area(root), bytes);
    done(c);
  });
}

int ncclAllGather(const void* in, void* out, std::size_t n, int type, Comm* comm, void* stream) {
  return give(comm, stream, [=](Comm& c) {
    const std::size_t bytes = n * size_of(kTypes[type]);
    copy_bytes(c.area(c.rank), in, bytes);
    if (!posted(c)) return;
    for (int i = 0; i < c.size; ++i)
      copy_bytes(static_cast<std::byte*>(out) + static_cast<std::size_t>(i) * bytes, c.area(i), bytes);
    done(c);
  });
}

int ncclReduceScatter(const void* in, void* out, std::size_t n, int type, int op, Comm* comm, void* stream) {
  return give(comm, stream, [=](Comm& c) {
    const std::size_t bytes = n * size_of(kTypes[type]);
    copy_bytes(c.area(c.rank), in, bytes * static_cast<std::size_t>(c.size));
    if (!posted(c)) return;
    combine(c, out, static_cast<std::size_t>(c.rank) * bytes, n, kTypes[type], kOps[op]);
    done(c);
  });
}

int ncclSend(const void* in, std::size_t n, int type, int to, Comm* comm, void* stream) {
  auto* const at = const_cast<std::byte*>(static_cast<const std::byte*>(in));
  return give(comm, stream, Transfer{true, to, at, n * size_of(kTypes[type])});
}

int ncclRecv(void* out, std::size_t n, int type, int from, Comm* comm, void* stream) {
  return give(comm, stream, Transfer{false, from, static_cast<std::byte*>(out), n * size_of(kTypes[type])});
}

int ncclGroupStart() {
  return start();
}

int ncclGroupEnd() {
  return end();
}

}  // extern "C"
