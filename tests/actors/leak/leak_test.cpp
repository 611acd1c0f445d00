// A peer that is killed and started again, many times, under load: the survivor's memory, descriptors and
// mappings stay flat. TROUPE_LEAK_ROUNDS sets how many times (1,000 for the full measurement).
#include <malloc.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "actors/cluster.hpp"
#include "actors/process.hpp"
#include "actors/states.hpp"

using namespace troupe;
using namespace troupe::test;
using namespace std::chrono_literals;

namespace {

/// What this process holds.
struct Holding {
  std::size_t heap_bytes = 0, descriptors = 0, mappings = 0, resident_bytes = 0, shm_segments = 0;
};

std::size_t count_entries(const char* folder) {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder)) ++count;
  return count;
}

Holding measure() {
  Holding now;
  const auto heap = mallinfo2();
  now.heap_bytes = heap.uordblks + heap.hblkhd;
  now.descriptors = count_entries("/proc/self/fd");
  now.shm_segments = count_entries("/dev/shm");
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) ++now.mappings;
  std::ifstream statm("/proc/self/statm");
  std::size_t pages = 0;
  statm >> pages >> pages;
  now.resident_bytes = pages * 4096;
  return now;
}

/// The most of each in rounds [from, to).
Holding peak(const std::vector<Holding>& all, std::size_t from, std::size_t to) {
  Holding most;
  for (std::size_t i = from; i < to; ++i) {
    most.heap_bytes = std::max(most.heap_bytes, all[i].heap_bytes);
    most.descriptors = std::max(most.descriptors, all[i].descriptors);
    most.mappings = std::max(most.mappings, all[i].mappings);
    most.resident_bytes = std::max(most.resident_bytes, all[i].resident_bytes);
    most.shm_segments = std::max(most.shm_segments, all[i].shm_segments);
  }
  return most;
}

std::string text_of(const Holding& held) {
  return std::to_string(held.heap_bytes / 1024) + " KiB of heap, " +
         std::to_string(held.resident_bytes / 1024) + " KiB resident, " + std::to_string(held.descriptors) +
         " descriptors, " + std::to_string(held.mappings) + " mappings, " +
         std::to_string(held.shm_segments) + " files in /dev/shm";
}

Tensor pooled_zeros(Node& node) {
  Tensor made = Tensor::empty(DType::kFloat32, Shape({256 << 10}), node.endpoint().shared_pool());
  std::fill_n(made.as<float>().data(), made.elements(), 0.0F);
  return made;
}

/// One life of the peer: started, called, called again when it stands still, killed.
void one_life(RealCluster& cluster, Node& survivor, const std::string& transports) {
  Process peer(
      NodeProcess{.name = "peer", .registry = survivor.address(), .transports = transports}.command());
  const std::string ready = peer.line();
  REQUIRE_MESSAGE(ready.starts_with("ready "), ready);
  REQUIRE(survivor.wait_for_actor("peer", kPatience).ok());
  const Tensor large = Tensor::zeros(DType::kFloat32, Shape({64 << 10}));  // goes by rendezvous
  for (int i = 0; i < 20; ++i) REQUIRE(survivor.rpc_sync<std::int64_t>("peer", "count").ok());
  CHECK(survivor.rpc_sync<Tensor>("peer", "add", large, large).ok());
  const Tensor pooled = pooled_zeros(survivor);  // mapped by the peer, which holds a lease when it dies
  CHECK(survivor.rpc_sync<Tensor>("peer", "add", pooled, pooled).ok());
  peer.stop();
  Changes changes(survivor);
  std::vector<rpc::Future<std::int64_t>> small;
  std::vector<rpc::Future<Tensor>> tensors;
  small.reserve(100);
  tensors.reserve(8);
  for (int i = 0; i < 100; ++i) small.push_back(survivor.rpc_async<std::int64_t>("peer", "count"));
  for (int i = 0; i < 4; ++i) tensors.push_back(survivor.rpc_async<Tensor>("peer", "add", large, large));
  for (int i = 0; i < 4; ++i) tensors.push_back(survivor.rpc_async<Tensor>("peer", "add", pooled, pooled));
  peer.kill();
  for (auto& call : small) CHECK(code_of(call.get()) == Code::kUnavailable);
  for (auto& call : tensors) CHECK(code_of(call.get()) == Code::kUnavailable);
  REQUIRE(cluster.wait(*changes.signal(MembershipEvent::kDied, "peer")));
}

void many_lives(const std::string& transports) {
  const char* wanted = std::getenv("TROUPE_LEAK_ROUNDS");
  const std::size_t rounds = wanted ? std::strtoull(wanted, nullptr, 10) : 50;
  REQUIRE(rounds >= 10);
  RealCluster cluster(transports);
  Node& survivor = cluster.add("survivor");
  Process bystander(
      NodeProcess{.name = "bystander", .registry = survivor.address(), .transports = transports}.command());
  REQUIRE(bystander.line().starts_with("ready "));
  REQUIRE(survivor.wait_for_actor("bystander", kPatience).ok());
  std::vector<Holding> held;
  for (std::size_t round = 0; round < rounds; ++round) {
    one_life(cluster, survivor, transports);
    REQUIRE(survivor.rpc_sync<std::int64_t>("bystander", "count").ok());
    CHECK(survivor.endpoint().shared_pool().stats().blocks_in_use == 0);  // what the dead held is free again
    held.push_back(measure());
    if ((round + 1) % 100 == 0) MESSAGE("after " << round + 1 << ": " << text_of(held.back()));
  }
  const std::size_t stretch = std::min<std::size_t>(rounds / 2, 200);
  const Holding early = peak(held, 0, stretch);
  const Holding late = peak(held, rounds - stretch, rounds);
  MESSAGE("most in the first " << stretch << ": " << text_of(early));
  MESSAGE("most in the last " << stretch << ": " << text_of(late));
  CHECK(late.descriptors <= early.descriptors + 8);
  CHECK(late.mappings <= early.mappings + 16);
  CHECK(late.shm_segments <= early.shm_segments + 8);
#ifndef TROUPE_SANITIZER
  constexpr std::size_t kMiB = std::size_t{1} << 20;
  CHECK(late.heap_bytes <= early.heap_bytes + kMiB);
  CHECK(late.resident_bytes <= early.resident_bytes + 16 * kMiB);
#endif
}

}  // namespace

TEST_CASE("a peer killed and started again many times leaves nothing behind") {
  many_lives("auto");
}
TEST_CASE("a peer killed and started again many times leaves nothing behind, over TCP") {
  many_lives("tcp");
}
