// Tensors in calls, at the edges of what they can be: nothing, one byte, more than 32 bits can count,
// thousands in one call, strided.
#include <sys/mman.h>

#include <cstring>
#include <fstream>
#include <numeric>

#include "endpoint_support.hpp"

namespace troupe::rpc::testing {

namespace {

/// Bytes that the system can give out without swapping; 0 if it does not say.
std::size_t available_memory() {
  std::ifstream file("/proc/meminfo");
  for (std::string key; file >> key;) {
    std::size_t kib = 0;
    if (key == "MemAvailable:" && file >> kib) return kib << 10;
  }
  return 0;
}

/// A list of tensors there and back.
template <class Kind>
std::vector<Tensor> round_trip(Duo<Kind>& duo, const std::vector<Tensor>& tensors) {
  duo.b.handler = [](InboundCallPtr call) {
    std::vector<Tensor> received;
    REQUIRE(call->message().value_count() == 1);
    REQUIRE(Codec<std::vector<Tensor>>::decode(call->message().value(0), received));
    call->reply(received);
  };
  return duo.template call<std::vector<Tensor>>("tensors", tensors).value();
}

Tensor counting(std::size_t bytes, std::size_t seed) {
  Tensor tensor = Tensor::empty(DType::kUInt8, Shape({static_cast<std::int64_t>(bytes)}));
  for (std::size_t i = 0; i < bytes; ++i) tensor.data()[i] = contract::pattern(seed, 0, i);
  return tensor;
}

bool same(const Tensor& a, const Tensor& b) {
  return a.dtype() == b.dtype() && a.shape() == b.shape() &&
         (a.bytes() == 0 || std::memcmp(a.data(), b.data(), a.bytes()) == 0);
}

}  // namespace

TEST_CASE_TEMPLATE("endpoint: a tensor may hold nothing, or one byte, in any rank", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo;
  duo.connect();
  for (const Shape& shape : {Shape{0}, Shape{5, 0, 7}, Shape{}, Shape{1}, Shape{1, 1, 1, 1, 1, 1, 1, 1}}) {
    CAPTURE(shape.to_string());
    for (const DType dtype : {DType::kUInt8, DType::kBool, DType::kFloat64}) {
      Tensor tensor = Tensor::empty(dtype, shape);
      if (tensor.bytes() > 0) std::memset(tensor.data(), 1, tensor.bytes());
      CHECK(same(duo.template call<Tensor>("tensor", tensor).value(), tensor));
    }
  }
}

TEST_CASE_TEMPLATE("endpoint: thousands of tensors in one call, empty ones among them", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo;
  duo.connect();
  for (const std::size_t count : {std::size_t{20}, std::size_t{100}, std::size_t{5000}}) {
    CAPTURE(count);
    std::vector<Tensor> tensors;
    for (std::size_t i = 0; i < count; ++i) tensors.push_back(counting(i * 37 % 300, i));
    const std::vector<Tensor> back = round_trip(duo, tensors);
    REQUIRE(back.size() == count);
    for (std::size_t i = 0; i < count; ++i) {
      CAPTURE(i);
      REQUIRE(same(back[i], tensors[i]));
    }
  }
}

TEST_CASE_TEMPLATE("endpoint: a strided tensor is packed once, a contiguous one never", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo;
  duo.connect();
  constexpr std::int64_t kRows = 300;
  constexpr std::int64_t kColumns = 400;
  Tensor dense = Tensor::empty(DType::kInt32, Shape{kColumns, kRows});
  std::iota(dense.as<std::int32_t>().begin(), dense.as<std::int32_t>().end(), 0);
  const Tensor transposed(DType::kInt32, Shape{kRows, kColumns}, Shape{1, kRows}, dense.buffer(), 0);
  MemoryPool& pool = duo.a.endpoint->pool();
  // What else the sender's pool is asked for: the memory for the answer.
  const auto asked_for = [&](const Tensor& tensor) {
    const auto before = pool.stats().allocations;
    const Tensor back = duo.template call<Tensor>("tensor", tensor).value();
    CHECK(same(back, tensor.contiguous()));
    return pool.stats().allocations - before;
  };
  const auto contiguous = asked_for(dense);
  CHECK(asked_for(transposed) == contiguous + 1);
  CHECK(asked_for(dense.rows(17, 90)) == contiguous);
}

TEST_CASE_TEMPLATE("endpoint: a tensor may be longer than 4 GiB", Kind, contract::UcxShm, contract::UcxTcp) {
#ifdef TROUPE_SANITIZER
  MESSAGE("skipped: too slow with a sanitizer");
  return;
#endif
  constexpr std::size_t kBytes = (std::size_t{1} << 32) + 12345;
  if (available_memory() < 2 * kBytes) {
    MESSAGE("skipped: it needs 8 GiB of free memory");
    return;
  }
  // Pages that nobody has written to take no memory.
  void* pages =
      ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  REQUIRE(pages != MAP_FAILED);
  const Tensor tensor(
      DType::kUInt8, Shape({static_cast<std::int64_t>(kBytes)}),
      Buffer::adopt(static_cast<std::byte*>(pages), kBytes, Device{}, [pages] { ::munmap(pages, kBytes); }));
  const std::vector<std::size_t> marks{
      0, 1, kBytes / 2, (std::size_t{1} << 32) - 1, std::size_t{1} << 32, kBytes - 1};
  for (const std::size_t mark : marks) tensor.data()[mark] = contract::pattern(mark, 1, mark) | std::byte{1};
  Duo<Kind> duo;
  duo.connect();
  Tensor received;
  duo.b.handler = [&](InboundCallPtr call) {
    REQUIRE(Codec<Tensor>::decode(call->message().value(0), received));
    call->reply(static_cast<std::int64_t>(received.bytes()));
  };
  Answer& answer = duo.answer();
  start_call(*duo.a.endpoint, {duo.ab, 5}, "take", 110s, answer, tensor);
  REQUIRE(duo.until([&] { return answer.count == 1; }, 110s));
  CHECK(answer.code() == Code::kOk);
  REQUIRE(received.bytes() == kBytes);
  for (const std::size_t mark : marks) {
    CAPTURE(mark);
    CHECK(received.data()[mark] == tensor.data()[mark]);
  }
  CHECK(received.data()[2] == std::byte{0});
}

}  // namespace troupe::rpc::testing
