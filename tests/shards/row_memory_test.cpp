// Memory that cannot be had, in the middle of making rows.
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <utility>

#include "support.hpp"

namespace troupe::shards {
namespace {

using test::embedding_spec;

#ifndef TROUPE_SANITIZER
/// While it lives, the process may have `more` bytes of address space beyond what it has.
class LimitedMemory {
 public:
  explicit LimitedMemory(std::uint64_t more) {
    REQUIRE(getrlimit(RLIMIT_AS, &before_) == 0);
    std::FILE* file = std::fopen("/proc/self/statm", "r");
    REQUIRE(file != nullptr);
    unsigned long pages = 0;
    REQUIRE(std::fscanf(file, "%lu", &pages) == 1);
    std::fclose(file);
    rlimit limited = before_;
    limited.rlim_cur = pages * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
    REQUIRE(setrlimit(RLIMIT_AS, &limited) == 0);
    // What other tests and their threads have left to be used again does not count.
    for (const std::size_t size : {1U << 20, 1U << 16, 1U << 12}) {
      while (void* block = std::malloc(size)) {
        *static_cast<void**>(block) = taken_;
        taken_ = block;
      }
    }
    limited.rlim_cur += more;
    REQUIRE(setrlimit(RLIMIT_AS, &limited) == 0);
  }
  LimitedMemory(const LimitedMemory&) = delete;
  LimitedMemory& operator=(const LimitedMemory&) = delete;
  ~LimitedMemory() {
    setrlimit(RLIMIT_AS, &before_);
    while (taken_ != nullptr) std::free(std::exchange(taken_, *static_cast<void**>(taken_)));
  }

 private:
  void* taken_ = nullptr;  // blocks, each of which begins with the address of the next
  rlimit before_{};
};
#endif

TEST_CASE("an index that cannot grow leaves every key with a row of its own") {
#ifdef TROUPE_SANITIZER
  MESSAGE("skipped: sanitizers need the address space");
#else
  // So many more keys that most of the index's tables have to grow, 60 MiB in all.
  TableSpec spec = embedding_spec(1, Sgd{.learning_rate = 1});
  spec.initializer = Zeros{};
  TableShard shard = TableShard::create(spec).value();
  std::vector<std::uint64_t> keys(655'360);
  std::iota(keys.begin(), keys.end(), 0);
  test::pull(shard, keys);
  std::vector<std::uint64_t> more(600'000);
  std::iota(more.begin(), more.end(), keys.size());
  std::vector<float> out(more.size());
  {
    // Enough for the list of keys, too little for the index.
    const LimitedMemory limited(std::uint64_t{24} << 20);
    const auto pulled = shard.pull(more, out.data());
    REQUIRE_FALSE(pulled.ok());
    CHECK(pulled.error().code == Code::kResourceExhausted);
  }
  CHECK(shard.row_count() == keys.size());
  // A new key's gradient reaches none of those that could not be made.
  REQUIRE(shard.push({.sequence = 1}, std::vector<std::uint64_t>{7'000'000}, std::vector<float>{-5}).ok());
  CHECK(test::pull(shard, more) == std::vector<float>(more.size(), 0.0F));
  CHECK(test::pull(shard, {7'000'000})[0] == 5);
  CHECK(shard.row_count() == keys.size() + more.size() + 1);
#endif
}

}  // namespace
}  // namespace troupe::shards
