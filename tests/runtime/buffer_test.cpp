#include <troupe/runtime/buffer.hpp>

#include <array>
#include <cstdint>
#include <cstring>

#include <doctest/doctest.h>

using namespace troupe;

TEST_CASE("fresh memory is 64-byte aligned, of the size asked for, and its own") {
  for (const std::size_t size : {0, 1, 63, 64, 65, 100'000}) {
    const Buffer buffer = Buffer::allocate(size);
    CHECK(buffer.size() == size);
    CHECK(reinterpret_cast<std::uintptr_t>(buffer.data()) % 64 == 0);
    CHECK(buffer.unique());
    CHECK(buffer.device() == Device{});
    if (size > 0) std::memset(buffer.data(), 1, size);
  }
}

TEST_CASE("copies and slices share the bytes, and the last one frees them") {
  int released = 0;
  std::array<std::byte, 16> memory{};
  {
    Buffer whole = Buffer::adopt(memory.data(), memory.size(), {MemoryKind::kPinned, 1}, [&] { ++released; });
    Buffer part = whole.slice(4, 8);
    CHECK(part.data() == memory.data() + 4);
    CHECK(part.size() == 8);
    CHECK(part.device() == Device{MemoryKind::kPinned, 1});
    CHECK_FALSE(whole.unique());
    whole = Buffer{};
    CHECK(whole.empty());
    CHECK(part.unique());
    const Buffer moved = std::move(part);
    const Buffer end = moved.slice(8, 0);
    CHECK(end.empty());
    CHECK(released == 0);
  }
  CHECK(released == 1);
}

TEST_CASE("copy_of copies") {
  const std::array<std::byte, 3> bytes{std::byte{1}, std::byte{2}, std::byte{3}};
  const Buffer copy = Buffer::copy_of(bytes);
  CHECK(copy.data() != bytes.data());
  CHECK(std::memcmp(copy.data(), bytes.data(), 3) == 0);
}

TEST_CASE("a buffer assigned to itself keeps its memory") {
  Buffer buffer = Buffer::allocate(8);
  const Buffer& same = buffer;
  buffer = same;
  CHECK(buffer.size() == 8);
  CHECK(buffer.unique());
}
