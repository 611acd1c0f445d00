#include <troupe/runtime/shared_pool.hpp>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <string>

#include <doctest/doctest.h>
#include <troupe/runtime/fresh_memory.hpp>
#include <troupe/runtime/tensor.hpp>

using namespace troupe;

namespace {
constexpr std::size_t kMiB = std::size_t{1} << 20;

std::shared_ptr<const SharedMapping> mapping_of(const Buffer& buffer) {
  return SharedMapping::open(::getpid(), SharedPool::locate(buffer).value()).value();
}
}  // namespace

TEST_CASE("shared pool: a buffer's bytes are seen through the file, without copying") {
  SharedPool pool;
  Buffer buffer = pool.allocate(kMiB);
  REQUIRE(buffer.size() == kMiB);
  CHECK(reinterpret_cast<std::uintptr_t>(buffer.data()) % 64 == 0);
  CHECK_FALSE(buffer.read_only());
  std::memset(buffer.data(), 7, kMiB);
  const Buffer part = buffer.slice(100, 1000);
  int done = 0;
  {
    const auto location = SharedPool::locate(part).value();
    const Buffer view = SharedMapping::view(mapping_of(part), location.offset, 1000, [&] { ++done; }).value();
    CHECK(view.read_only());
    CHECK_FALSE(view.unique());
    CHECK(view.data() != part.data());
    CHECK(std::memcmp(view.data(), part.data(), 1000) == 0);
    part.data()[999] = std::byte{9};
    CHECK(view.data()[999] == std::byte{9});
    CHECK(done == 0);
  }
  CHECK(done == 1);
}

TEST_CASE("shared pool: a free block is used again, under its old name" * doctest::skip(kFreshMemory)) {
  SharedPool pool;
  std::uint64_t cookie = 0;
  cookie = SharedPool::locate(pool.allocate(kMiB))->cookie;
  CHECK(pool.stats().blocks_kept == 1);
  const Buffer again = pool.allocate(kMiB - 5);
  CHECK(SharedPool::locate(again)->cookie == cookie);
  CHECK(pool.stats().blocks_kept == 0);
  CHECK(pool.stats().bytes_in_use == kMiB);
  CHECK(SharedPool::locate(pool.allocate(kMiB))->cookie != cookie);
}

TEST_CASE("shared pool: past its bounds, and for what is small, memory is ordinary") {
  SharedPool pool({.max_bytes = 2 * kMiB, .max_blocks = 2});
  CHECK_FALSE(SharedPool::locate(pool.allocate(SharedPool::kSmallest - 1)));
  CHECK_FALSE(SharedPool::locate(pool.allocate(3 * kMiB)));
  {
    const Buffer a = pool.allocate(kMiB), b = pool.allocate(kMiB);
    CHECK(SharedPool::locate(b));
    Buffer c = pool.allocate(kMiB);
    CHECK_FALSE(SharedPool::locate(c));
    std::memset(c.data(), 1, c.size());
  }
  // What is kept makes room for what is needed.
  CHECK(SharedPool::locate(pool.allocate(2 * kMiB)));
  const Buffer a = pool.allocate(SharedPool::kSmallest), b = pool.allocate(SharedPool::kSmallest);
  CHECK(SharedPool::locate(b));
  CHECK_FALSE(SharedPool::locate(pool.allocate(SharedPool::kSmallest)));
  CHECK(pool.stats().fallbacks == 3);
  SharedPool none({.max_bytes = 0});
  CHECK_FALSE(none.probe());
  CHECK_FALSE(SharedPool::locate(none.allocate(kMiB)));
}

TEST_CASE("shared pool: an abandoned block is never used again, and stays as it is for its reader") {
  SharedPool pool;
  Buffer buffer = pool.allocate(kMiB);
  std::memset(buffer.data(), 5, kMiB);
  const auto location = SharedPool::locate(buffer).value();
  const auto mapping = mapping_of(buffer);
  const Buffer view = SharedMapping::view(mapping, location.offset, kMiB, {}).value();
  {
    SharedLease lease(buffer);
    CHECK(SharedPool::is_leased(buffer));
    lease.abandon();
  }
  CHECK(SharedPool::is_leased(buffer));
  CHECK_FALSE(mapping->is_closed());
  buffer = Buffer();
  CHECK(mapping->is_closed());
  CHECK(pool.stats().bytes_in_use == 0);
  CHECK(pool.stats().bytes_kept == 0);
  const Buffer other = pool.allocate(kMiB);
  std::memset(other.data(), 6, kMiB);
  CHECK(view.data()[0] == std::byte{5});
  CHECK(view.data()[kMiB - 1] == std::byte{5});
}

TEST_CASE("shared pool: a lease that is returned leaves the block for reuse") {
  SharedPool pool;
  Buffer buffer = pool.allocate(kMiB);
  {
    const SharedLease lease(buffer);
    buffer = Buffer();
    CHECK(pool.stats().blocks_in_use == 1);
  }
  CHECK(pool.stats().blocks_in_use == 0);
  CHECK(pool.stats().blocks_kept == (kFreshMemory ? 0 : 1));
}

TEST_CASE("shared pool: nobody else can write into a block, or have it mapped so") {
  SharedPool pool;
  const Buffer buffer = pool.allocate(kMiB);
  std::memset(buffer.data(), 1, kMiB);
  const auto location = SharedPool::locate(buffer).value();
  // As another process of this user does it: through /proc, also for writing, which the file's mode allows.
  const std::string path = "/proc/self/fd/" + std::to_string(location.fd);
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  REQUIRE(fd >= 0);
  if (!SharedPool::others_cannot_write()) {
    MESSAGE("skipped: this kernel cannot keep writers out");
  } else {
    CHECK(::mmap(nullptr, kMiB, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
    CHECK(::pwrite(fd, "x", 1, 4096) == -1);
    void* const view = ::mmap(nullptr, kMiB, PROT_READ, MAP_SHARED, fd, 0);
    REQUIRE(view != MAP_FAILED);
    CHECK(::mprotect(view, kMiB, PROT_READ | PROT_WRITE) == -1);
    ::munmap(view, kMiB);
    CHECK(::fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) == -1);
  }
  ::close(fd);
  std::memset(buffer.data(), 2, kMiB);  // the owner can
  CHECK(buffer.data()[kMiB - 1] == std::byte{2});
}

TEST_CASE("shared pool: buffers outlive their pool") {
  auto pool = std::make_unique<SharedPool>();
  const Buffer buffer = pool->allocate(kMiB);
  pool.reset();
  std::memset(buffer.data(), 1, buffer.size());
}

TEST_CASE("shared pool: what is not the announced segment is not opened") {
  SharedPool pool;
  const Buffer buffer = pool.allocate(kMiB);
  const auto location = SharedPool::locate(buffer).value();
  auto wrong = location;
  wrong.cookie ^= 1;
  CHECK_FALSE(SharedMapping::open(::getpid(), wrong).ok());
  CHECK_FALSE(SharedMapping::open(0, location).ok());
  CHECK_FALSE(SharedMapping::open(-1, location).ok());
  for (const std::uint32_t fd : {0U, 1U, 2U, 999999U, 4294967295U}) {
    CAPTURE(fd);
    CHECK_FALSE(SharedMapping::open(::getpid(), {fd, location.cookie, 0}).ok());
  }
  // A segment that its owner could make shorter.
  const int unsealed = ::memfd_create("troupe-pool", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  REQUIRE(unsealed >= 0);
  REQUIRE(::ftruncate(unsealed, 8192) == 0);
  const std::uint64_t header[2] = {0x316c6f6f70757274, 77};
  REQUIRE(::pwrite(unsealed, header, sizeof header, 0) == sizeof header);
  const SharedPool::Location its{static_cast<std::uint32_t>(unsealed), 77, 4096};
  CHECK_FALSE(SharedMapping::open(::getpid(), its).ok());
  REQUIRE(::fcntl(unsealed, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0);
  CHECK(SharedMapping::open(::getpid(), its).ok());
  ::close(unsealed);
}

TEST_CASE("shared pool: views lie inside of their segment, behind its header") {
  SharedPool pool;
  const Buffer buffer = pool.allocate(kMiB);
  const auto mapping = mapping_of(buffer);
  const auto fits = [&](std::uint64_t offset, std::uint64_t size) {
    return SharedMapping::view(mapping, offset, size, {}).ok();
  };
  CHECK(fits(4096, kMiB));
  CHECK_FALSE(fits(4095, 1));
  CHECK_FALSE(fits(0, 8));
  CHECK_FALSE(fits(4097, kMiB));
  CHECK_FALSE(fits(4096, UINT64_MAX));
  CHECK_FALSE(fits(UINT64_MAX, 8));
  CHECK(fits(4096 + kMiB - 1, 1));
}

TEST_CASE("shared pool: a tensor is made in it, and its clone can be written") {
  SharedPool pool;
  const Tensor tensor = Tensor::empty(DType::kFloat32, Shape{256, 1024}, pool);
  CHECK(SharedPool::locate(tensor.buffer()));
  CHECK_FALSE(tensor.read_only());
  CHECK_FALSE(SharedPool::locate(tensor.clone().buffer()));
}
