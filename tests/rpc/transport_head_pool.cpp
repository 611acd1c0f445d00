#include <doctest/doctest.h>

#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "wire/head_pool.hpp"

namespace troupe::rpc {

TEST_CASE("head pool: buffers are aligned, large enough, and used again") {
  HeadPool pool(4096);
  for (int round = 0; round < 3; ++round) {
    std::vector<Buffer> buffers;
    for (const std::size_t size : {1, 100, 256, 257, 4096}) {
      buffers.push_back(pool.acquire(size));
      CHECK(buffers.back().size() == size);
      CHECK(reinterpret_cast<std::uintptr_t>(buffers.back().data()) % 64 == 0);
      for (std::byte& byte : buffers.back().bytes()) byte = std::byte{0x5a};
    }
  }
  if (!kFreshMemory) CHECK(pool.blocks() == 5);
}

TEST_CASE("head pool: inside and outside of a scope blocks come back") {
  HeadPool pool(1000);
  for (int i = 0; i < 100; ++i) {
    const HeadPool::Scope scope(pool);
    const Buffer inside = pool.acquire(10);
  }
  for (int i = 0; i < 100; ++i) const Buffer outside = pool.acquire(10);
  if (!kFreshMemory) CHECK(pool.blocks() == 1);
}

TEST_CASE("head pool: scopes of two threads that lend each other the turn may end in any order") {
  HeadPool pool(1000);
  auto first = std::make_unique<HeadPool::Scope>(pool);
  std::unique_ptr<HeadPool::Scope> second;
  std::thread other([&] { second = std::make_unique<HeadPool::Scope>(pool); });
  other.join();
  first.reset();
  other = std::thread([&] { second.reset(); });
  other.join();
  // Were this thread still taken for being in its scope, its drop would race with the other's acquire().
  Buffer outside = pool.acquire(10);
  std::thread holder([&] {
    const HeadPool::Scope scope(pool);
    for (int i = 0; i < 1000; ++i) const Buffer inside = pool.acquire(10);
  });
  outside = {};
  holder.join();
  CHECK(pool.blocks() <= 2);
}

TEST_CASE("head pool: other threads may drop buffers, also after the pool has gone") {
  for (int round = 0; round < 50; ++round) {
    auto pool = std::make_unique<HeadPool>(1000);
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; ++t) {
      std::vector<Buffer> buffers;
      buffers.reserve(40);
      for (int i = 0; i < 40; ++i) buffers.push_back(pool->acquire(i % 2 == 0 ? 10 : 1000));
      threads.emplace_back([taken = std::move(buffers)]() mutable { taken.clear(); });
    }
    for (int i = 0; i < 40; ++i) {
      const HeadPool::Scope scope(*pool);
      const Buffer own = pool->acquire(100);
    }
    const Buffer last = pool->acquire(5);
    pool.reset();
    for (std::thread& thread : threads) thread.join();
    CHECK(last.size() == 5);
  }
}

}  // namespace troupe::rpc
