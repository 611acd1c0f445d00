#include <troupe/runtime/memory_pool.hpp>

#include <cstdint>
#include <cstring>
#include <optional>
#include <thread>
#include <vector>

#include <doctest/doctest.h>
#include <troupe/runtime/fresh_memory.hpp>
#include <troupe/runtime/random.hpp>

using namespace troupe;

#if (defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)) && defined(NDEBUG)
#error "builds with a sanitizer have assertions"
#endif

TEST_CASE("under a sanitizer nothing is kept, so that it sees what is used after its end") {
  MemoryPool pool;
  { const Buffer used = pool.allocate(1000); }
  CHECK((pool.stats().bytes_kept == 0) == kFreshMemory);
}

TEST_CASE("a pool gives the same memory again for the same class of sizes" * doctest::skip(kFreshMemory)) {
  MemoryPool pool;
  Buffer first = pool.allocate(1000);
  std::byte* const data = first.data();
  first = Buffer{};
  const Buffer second = pool.allocate(900);
  CHECK(second.data() == data);
  CHECK(second.size() == 900);
  CHECK(pool.stats().allocations == 2);
  CHECK(pool.stats().misses == 1);
}

TEST_CASE("classes are powers of two and their midpoints, aligned, and large enough") {
  MemoryPool pool;
  for (std::size_t size = 0; size < 5000; ++size) {
    const Buffer buffer = pool.allocate(size);
    REQUIRE(buffer.size() == size);
    REQUIRE(reinterpret_cast<std::uintptr_t>(buffer.data()) % 64 == 0);
    const std::size_t capacity = pool.stats().bytes_in_use;
    REQUIRE(capacity >= size);
    if (size > 128) REQUIRE(capacity * 2 <= size * 3);
    if (size > 0) std::memset(buffer.data(), 7, size);
  }
  if (!kFreshMemory) CHECK(pool.stats().misses == 12);  // 128, 192, 256 ... 6144
}

TEST_CASE("a pool keeps no more than its bound, and prefers the sizes in use now" *
          doctest::skip(kFreshMemory)) {
  MemoryPool pool(4096);
  { const Buffer large = pool.allocate(10'000); }
  CHECK(pool.stats().bytes_kept == 0);
  { const Buffer old = pool.allocate(4096); }
  CHECK(pool.stats().bytes_kept == 4096);
  { const Buffer now = pool.allocate(1024); }
  CHECK(pool.stats().bytes_kept == 1024);  // the old size was given up for it
  CHECK(pool.stats().bytes_in_use == 0);
}

TEST_CASE("buffers may outlive their pool") {
  std::optional<MemoryPool> pool(std::in_place);
  { const Buffer kept = pool->allocate(500); }
  Buffer buffer = pool->allocate(100);
  pool.reset();
  std::memset(buffer.data(), 1, buffer.size());
  buffer = Buffer{};
}

TEST_CASE("threads may allocate from a pool and drop each other's buffers") {
  MemoryPool pool(1 << 20);
  std::vector<std::vector<Buffer>> handed(4);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < handed.size(); ++t) {
    threads.emplace_back([&, t] {
      Random random(t + 1);
      for (int i = 0; i < 2000; ++i) {
        Buffer buffer = pool.allocate(1 + random.below(20'000));
        std::memset(buffer.data(), static_cast<int>(t), buffer.size());
        if (random.chance(0.02)) handed[t].push_back(buffer.slice(0, 1));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (std::size_t t = 0; t < handed.size(); ++t) {
    for (const Buffer& buffer : handed[t]) REQUIRE(*buffer.data() == static_cast<std::byte>(t));
  }
  std::thread([&] { handed.clear(); }).join();
  const MemoryPool::Stats stats = pool.stats();
  CHECK(stats.bytes_in_use == 0);
  CHECK(stats.bytes_kept <= 1 << 20);
  CHECK(stats.allocations == 8000);
}

TEST_CASE("a size that no machine has is bad_alloc, and the pool works on") {
  MemoryPool pool;
  CHECK_THROWS_AS(static_cast<void>(pool.allocate(SIZE_MAX)), std::bad_alloc);
  CHECK(pool.stats().bytes_in_use == 0);
  CHECK(pool.allocate(10).size() == 10);
}
