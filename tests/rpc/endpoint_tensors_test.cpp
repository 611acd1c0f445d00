// Tensors in calls, at the edges of what they can be: nothing, one byte, more than 32 bits can count,
// thousands in one call, strided.
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <numeric>
#include <optional>

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

TEST_CASE_TEMPLATE("endpoint: an answer is received where the caller says", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo;
  duo.connect();
  // Eager and by rendezvous, beside other values and as the first of several.
  for (const std::size_t bytes :
       {std::size_t{1}, std::size_t{4000}, std::size_t{100'000}, std::size_t{3} << 20}) {
    CAPTURE(bytes);
    const Tensor wanted = counting(bytes, 7);
    duo.b.handler = [&](InboundCallPtr call) {
      call->reply(std::pair<std::string, std::vector<Tensor>>("here", {wanted, counting(50, 8)}));
    };
    const Tensor all = Tensor::zeros(DType::kUInt8, Shape{2, static_cast<std::int64_t>(bytes)});
    const Tensor place = all.rows(1, 2).reshape(Shape{static_cast<std::int64_t>(bytes)});
    using Named = std::pair<std::string, std::vector<Tensor>>;
    const auto answer = duo.template call_with<Named>({.into = into(place)}, "get");
    REQUIRE_MESSAGE(answer.ok(), answer.error().to_string());
    CHECK(same(place, wanted));
    CHECK(answer->second[0].data() == place.data());
    CHECK(same(answer->second[1], counting(50, 8)));
    CHECK(all.data()[bytes - 1] == std::byte{0});  // nothing beside it was written

    for (const Tensor& other : {Tensor::zeros(DType::kInt8, place.shape()),
                                Tensor::zeros(DType::kUInt8, Shape{1, place.elements()}),
                                Tensor::zeros(DType::kUInt8, Shape{place.elements() + 1})}) {
      const auto refused = duo.template call_with<Named>({.into = into(other)}, "get");
      REQUIRE_FALSE(refused.ok());
      CHECK(refused.error().code == Code::kInvalidArgument);
      CHECK(refused.error().message.find(other.to_string()) != std::string::npos);
    }
  }
  duo.b.handler = [](InboundCallPtr call) { call->reply(std::int64_t{1}); };
  const Tensor place = Tensor::zeros(DType::kUInt8, Shape{4});
  CHECK(duo.template call_with<std::int64_t>({.into = into(place)}, "get").error().code ==
        Code::kInvalidArgument);
  duo.b.handler = [](InboundCallPtr call) { call->reply_error({Code::kAborted, "not today"}); };
  CHECK(duo.template call_with<Tensor>({.into = into(place)}, "get").error().code == Code::kAborted);
  const Tensor strided(DType::kUInt8, Shape{2, 2}, Shape{1, 2}, place.buffer(), 0);
  CHECK(duo.template call_with<Tensor>({.into = into(strided)}, "get").error().code ==
        Code::kInvalidArgument);
  // One that ends before its answer comes leaves the next call alone.
  InboundCallPtr held;
  duo.b.handler = [&](InboundCallPtr call) { held = std::move(call); };
  CHECK(duo.template call_with<Tensor>({.timeout = std::chrono::milliseconds(20), .into = into(place)}, "get")
            .error()
            .code == Code::kDeadlineExceeded);
  duo.b.handler = [](InboundCallPtr call) { call->reply(Tensor::of<std::uint8_t>({1, 2, 3, 4})); };
  REQUIRE(duo.template call_with<Tensor>({.into = into(place)}, "get").ok());
  CHECK(place.as<std::uint8_t>()[3] == 4);
}

TEST_CASE_TEMPLATE("endpoint: memory that no answer can be received into is refused before anything is sent",
                   Kind, TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo;
  duo.connect();
  const Tensor sent = counting(200'000, 1);
  std::optional<Tensor> read_only;
  int asked = 0;
  InboundCallPtr held;
  duo.b.handler = [&](InboundCallPtr call) {
    ++asked;
    if (asked == 1) return call->reply(sent);
    held = std::move(call);
  };
  const auto refusal = [&](const Tensor& place, const auto&... args) {
    const auto refused = duo.template call_with<Tensor>({.into = into(place)}, "get", args...);
    REQUIRE_FALSE(refused.ok());
    return refused.error();
  };
  const Tensor place = Tensor::zeros(DType::kUInt8, sent.shape());
  REQUIRE(duo.template call_with<Tensor>({.into = into(place)}, "get").ok());
  CHECK(same(place, sent));

  static std::byte memory[64];
  const Tensor device(DType::kUInt8, Shape{64},
                      Buffer::adopt(memory, sizeof memory, {MemoryKind::kDevice, 0}, [] {}));
  CHECK(refusal(device).code == Code::kInvalidArgument);
  const Tensor strided(DType::kUInt8, Shape{2, 2}, Shape{1, 2}, place.buffer(), 0);
  CHECK(refusal(strided).code == Code::kInvalidArgument);
  // Another process's pages, as if they had come from one.
  SharedPool pool;
  const Buffer block = pool.allocate(SharedPool::kSmallest);
  const auto lies = SharedPool::locate(block).value();
  const auto mapping = SharedMapping::open(::getpid(), lies).value();
  const Tensor guest(DType::kUInt8, Shape{100}, SharedMapping::view(mapping, lies.offset, 100, {}).value());
  REQUIRE(guest.read_only());
  CHECK(refusal(guest).code == Code::kInvalidArgument);
  CHECK(refusal(guest).message.find("read-only") != std::string::npos);
  // What one of the call's arguments lies in, also in part.
  CHECK(refusal(place, place).code == Code::kInvalidArgument);
  CHECK(refusal(place.rows(0, 100), place.rows(99, 200)).code == Code::kInvalidArgument);
  // Memory that may be read by another process.
  const Tensor own(DType::kUInt8, Shape{100}, block);
  {
    const SharedLease lease(block);
    CHECK(refusal(own).code == Code::kFailedPrecondition);
  }
  CHECK(asked == 1);

  // What another open call receives into; beside it, and when that has ended, it will do.
  auto open =
      call_async<Tensor>(*duo.a.endpoint, {duo.ab, 5}, "get", "get", {.into = into(place.rows(100, 200))});
  for (const auto& [begin, end] : {std::pair{100, 200}, {0, 101}, {199, 300}, {150, 160}, {0, 300}}) {
    const Error refused = refusal(place.rows(begin, end));
    CHECK(refused.code == Code::kInvalidArgument);
    CHECK(refused.message.find("another open call") != std::string::npos);
  }
  auto none =
      call_async<Tensor>(*duo.a.endpoint, {duo.ab, 5}, "get", "get", {.into = into(place.rows(150, 150))});
  auto before =
      call_async<Tensor>(*duo.a.endpoint, {duo.ab, 5}, "get", "get", {.into = into(place.rows(0, 100))});
  auto behind =
      call_async<Tensor>(*duo.a.endpoint, {duo.ab, 5}, "get", "get", {.into = into(place.rows(200, 300))});
  CHECK(duo.until([&] { return asked == 5; }));
  for (auto* future : {&open, &none, &before, &behind}) future->cancel();
  duo.b.handler = [&](InboundCallPtr call) { call->reply(sent.rows(0, 300)); };
  CHECK(duo.template call_with<Tensor>({.into = into(place.rows(0, 300))}, "get").ok());
  // A place for nothing: where nothing comes it will do, for anything else it is the wrong one.
  CHECK(refusal(place.rows(0, 0)).code == Code::kInvalidArgument);
  duo.b.handler = [&](InboundCallPtr call) { call->reply(sent.rows(0, 0)); };
  CHECK(duo.template call_with<Tensor>({.into = into(place.rows(0, 0))}, "get").ok());
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

TEST_CASE_TEMPLATE("endpoint: a tensor may be longer than 4 GiB", Kind, contract::Shm, contract::Tcp,
                   contract::UcxTcp) {
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
