// A message for which there is no memory ends its link, and nothing else.
#include <cstdlib>
#include <new>
#include <string>
#include <vector>

#include "rpc/endpoint_support.hpp"

namespace {

/// Memory of this size cannot be had; 0: all can.
std::size_t missing = 0;
std::size_t failures = 0;

void* allocate(std::size_t size, std::size_t alignment) {
  void* memory = nullptr;
  const bool fails = missing != 0 && size == missing;
  if (fails) ++failures;
  if (fails ||
      posix_memalign(&memory, std::max(alignment, sizeof(void*)), std::max<std::size_t>(size, 1)) != 0)
    throw std::bad_alloc();
  return memory;
}

}  // namespace

void* operator new(std::size_t size) {
  return allocate(size, __STDCPP_DEFAULT_NEW_ALIGNMENT__);
}
void* operator new(std::size_t size, std::align_val_t alignment) {
  return allocate(size, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  std::free(memory);
}

namespace troupe::rpc::testing {

TEST_CASE("no memory: a message that cannot be read ends its link, its caller hears, and others go on") {
  Duo<contract::Sim> duo;
  duo.connect();
  // A list of the places of so many tensors is made of them as it is read: two words for each.
  constexpr std::size_t kTensors = 307;
  const std::vector<Tensor> tensors(kTensors, Tensor::empty(DType::kUInt8, Shape({0})));
  Answer& answer = duo.answer();
  start_call(*duo.a.endpoint, {duo.ab, 1}, "tensors", 10s, answer, tensors);
  const TimePoint begun = duo.world.a.clock().now();
  missing = kTensors * 2 * sizeof(std::size_t);
  const bool answered = duo.until([&] { return answer.count == 1; });
  missing = 0;
  REQUIRE(answered);
  CHECK(failures == 1);
  CHECK(answer.code() == Code::kUnavailable);
  CHECK(duo.world.a.clock().now() - begun < Duration(5s));  // not at its deadline
  REQUIRE(duo.b.closed.size() == 1);
  CHECK(duo.b.closed[0].second.code == Code::kResourceExhausted);

  const SessionId again = duo.a.endpoint->connect(duo.address).value();
  Answer& later = duo.answer();
  start_call(*duo.a.endpoint, {again, 1}, "add", 10s, later, 1, 2);
  REQUIRE(duo.until([&] { return later.count == 1; }));
  CHECK(later.code() == Code::kOk);
}

}  // namespace troupe::rpc::testing
