#include "large_memory.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <troupe/runtime/buffer.hpp>

using namespace troupe;

namespace {

constexpr std::size_t kKiB = 1024;
constexpr std::size_t kMiB = 1024 * kKiB;

/// Takes and gives blocks of all kinds of sizes, and returns whether each held what was written into it.
bool keeps_what_is_written(unsigned seed) {
  std::mt19937 random(seed);
  const std::size_t sizes[] = {256 * kKiB, 300 * kKiB, 384 * kKiB, 512 * kKiB, 700 * kKiB,
                               1000000,    kMiB,       kMiB + 3,   2 * kMiB,   3 * kMiB + 5};
  std::vector<std::pair<std::byte*, std::size_t>> held;
  bool kept = true;
  const auto mark = [](std::size_t bytes, std::size_t at) {
    return static_cast<std::byte>(bytes / 7 + at / 4096);
  };
  const auto give = [&](std::size_t index) {
    const auto [data, bytes] = held[index];
    for (std::size_t at = 0; at < bytes; at += 4096) kept = kept && data[at] == mark(bytes, at);
    kept = kept && data[bytes - 1] == std::byte{0x5a};
    free_large(data, bytes);
    held[index] = held.back();
    held.pop_back();
  };
  for (int round = 0; round < 400; ++round) {
    if (held.size() < 24 && random() % 5 < 3) {
      const std::size_t bytes = sizes[random() % std::size(sizes)];
      std::byte* const data = allocate_large(bytes);
      kept = kept && reinterpret_cast<std::uintptr_t>(data) % 64 == 0;
      for (std::size_t at = 0; at < bytes; at += 4096) data[at] = mark(bytes, at);
      data[bytes - 1] = std::byte{0x5a};
      held.emplace_back(data, bytes);
    } else if (!held.empty()) {
      give(random() % held.size());
    }
  }
  while (!held.empty()) give(0);
  return kept;
}

}  // namespace

TEST_CASE("large memory: blocks of all sizes are their own, on several threads at once") {
  std::vector<std::thread> threads;
  std::vector<char> kept(4);
  for (unsigned i = 0; i < kept.size(); ++i)
    threads.emplace_back([&, i] { kept[i] = keeps_what_is_written(i + 1) ? 1 : 0; });
  for (auto& thread : threads) thread.join();
  CHECK(std::count(kept.begin(), kept.end(), 1) == 4);
}

#ifndef TROUPE_SANITIZER  // under it each block is its own
namespace {

std::size_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  std::size_t size = 0;
  std::size_t resident = 0;
  statm >> size >> resident;
  return resident * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

}  // namespace

TEST_CASE("large memory: what is given back goes back to the system") {
  std::vector<std::byte*> blocks;
  const std::size_t before = resident_bytes();
  for (int i = 0; i < 128; ++i) {
    blocks.push_back(allocate_large(kMiB));
    std::memset(blocks.back(), 1, kMiB);
  }
  CHECK(resident_bytes() > before + 100 * kMiB);
  CHECK(resident_bytes() < before + 140 * kMiB);  // two of them share a large page
  std::shuffle(blocks.begin(), blocks.end(), std::mt19937(1));
  for (std::byte* block : blocks) free_large(block, kMiB);
  CHECK(resident_bytes() < before + 16 * kMiB);
}
#endif

TEST_CASE("large memory: a block that was given back is used again") {
  std::byte* const first = allocate_large(512 * kKiB);
  free_large(first, 512 * kKiB);
  std::byte* const second = allocate_large(512 * kKiB);
#ifndef TROUPE_SANITIZER
  CHECK(second == first);
#endif
  free_large(second, 512 * kKiB);
}
