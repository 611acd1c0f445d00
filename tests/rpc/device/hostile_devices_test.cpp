// What a peer may say of device memory that is not so.
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "device_support.hpp"
#include "forger.hpp"
#include "wire/envelope_layout.hpp"
#include "wire/flat_reader.hpp"

namespace troupe::rpc::testing {

namespace {

/// What is sent by `a` is changed on its way.
struct Forged : contract::Shm {
  std::shared_ptr<std::function<void(OutFrame&)>> meddle = std::make_shared<std::function<void(OutFrame&)>>();
  std::unique_ptr<Transport> make(Loop& loop, const char* name) {
    auto inner = contract::Shm::make(loop, name);
    if (std::string(name) != "a") return inner;
    return std::make_unique<Forger>(std::move(inner), [meddle = meddle](OutFrame& frame) {
      if (*meddle) (*meddle)(frame);
    });
  }
};

/// The first entry of a message's attachment table, if it is of a device tensor.
std::byte* device_entry(OutFrame& frame) {
  flat::Reader reader;
  flat::StructView envelope;
  flat::StructsView attachments;
  if (!reader.open(frame.head.bytes()) || !reader.root(envelope) ||
      !reader.read(envelope, EnvelopeLayout::kAttachments, attachments) || attachments.count == 0 ||
      attachments.layout.data < AttachmentLayout::kDeviceLayout.data)
    return nullptr;
  return const_cast<std::byte*>(attachments[0].words);
}

template <class T>
std::function<void(std::byte*)> put(std::size_t at, T value) {
  return [at, value](std::byte* entry) { std::memcpy(entry + at, &value, sizeof value); };
}

struct Lie {
  const char* name;
  std::function<void(std::byte*)> tell;
};

/// The call ends, with it the link, and a new one serves.
void expect_refused(DeviceDuo<Forged>& pair, const Lie& lie) {
  CAPTURE(lie.name);
  int told = 0;
  *pair.duo.world.meddle = [&](OutFrame& frame) {
    std::byte* const entry = device_entry(frame);
    if (!entry) return;
    lie.tell(entry);
    ++told;
  };
  const std::size_t before = pair.duo.b.closed.size();
  const std::size_t begun = static_cast<std::size_t>(pair.duo.b.service.begun);
  const auto refused = pair.duo.call<Tensor>("tensor", pair.program.counting(100'000, 1));
  CHECK(told == 1);
  CHECK_FALSE(refused.ok());
  REQUIRE(pair.duo.until([&] { return pair.duo.b.closed.size() == before + 1; }));
  CHECK(pair.duo.b.closed.back().second.code == Code::kDataLoss);
  CHECK(static_cast<std::size_t>(pair.duo.b.service.begun) == begun);
  *pair.duo.world.meddle = nullptr;
  const std::size_t ways = pair.duo.a.device_ways.size();
  pair.duo.ab = pair.a().connect(pair.duo.address).value();
  REQUIRE(pair.duo.until([&] { return pair.duo.a.device_ways.size() > ways; }));
  pair.duo.settle();
  const auto served = pair.duo.call<Tensor>("tensor", pair.program.counting(100'000, 5));
  REQUIRE(served.ok());
  CHECK(counts(*served, 100'000, 5));
}

}  // namespace

TEST_CASE("device tensors: what a peer says wrongly of memory that is to be mapped ends its link alone") {
  DeviceDuo<Forged> pair;
  pair.connect();
  const std::vector<Lie> lies{
      {"a GPU that it has not named", put<std::uint8_t>(AttachmentLayout::kGpu, 9)},
      {"a GPU that we have not named", put<std::uint8_t>(AttachmentLayout::kTarget, 17)},
      {"no lease", put<std::uint64_t>(AttachmentLayout::kLease, 0)},
      {"behind the slab's end", put<std::uint64_t>(AttachmentLayout::kOffset, std::uint64_t{64} << 20)},
      {"so far behind that it overflows",
       put<std::uint64_t>(AttachmentLayout::kOffset, ~std::uint64_t{0} - 100)},
      {"another length than its shape", put<std::uint64_t>(AttachmentLayout::kBytes, 100'001)},
      {"no handle",
       [](std::byte* entry) {
         std::memset(entry + (AttachmentLayout::kDeviceLayout.data + AttachmentLayout::kHandle) * flat::kWord,
                     0, flat::kWord);
       }},
  };
  for (const Lie& lie : lies) expect_refused(pair, lie);
  // What was lent to a session that has ended is kept for a while.
  REQUIRE(pair.duo.until([&] { return pair.program.pool.stats().bytes_in_use == 0; }));
}

TEST_CASE("device tensors: a handle of nothing cannot be mapped, and the bytes are asked for") {
  DeviceDuo<Forged> pair;
  pair.connect();
  *pair.duo.world.meddle = [](OutFrame& frame) {
    std::byte* const entry = device_entry(frame);
    if (!entry) return;
    put<std::uint64_t>(AttachmentLayout::kSlab, 77)(entry);
    // The handle is the last that was written: behind the list's pointer, as far as it says.
    std::byte* const slot =
        entry + (AttachmentLayout::kDeviceLayout.data + AttachmentLayout::kHandle) * flat::kWord;
    std::uint64_t pointer = 0;
    std::memcpy(&pointer, slot, sizeof pointer);
    const auto offset = static_cast<std::int32_t>(static_cast<std::uint32_t>(pointer)) >> 2;
    std::memset(slot + (1 + offset) * static_cast<std::ptrdiff_t>(flat::kWord), 0xee, 8);
  };
  const auto served = pair.duo.call<Tensor>("tensor", pair.program.counting(100'000, 5));
  REQUIRE_MESSAGE(served.ok(), served.error().to_string());
  CHECK(counts(*served, 100'000, 5));
  CHECK(pair.b().stats().device_fetched == 1);
  CHECK(pair.duo.b.closed.empty());
}

TEST_CASE(
    "device tensors: bytes that nobody has asked for are dropped, and who waits hears of its deadline") {
  DeviceDuo<Forged> pair;
  pair.connect();
  {
    const std::lock_guard lock(pair.devices.script->shared);
    pair.devices.script->unreachable = Error{Code::kUnavailable, "no room"};
  }
  std::uint64_t lease = 0;
  *pair.duo.world.meddle = [&](OutFrame& frame) {
    flat::Reader reader;
    flat::StructView envelope;
    if (!reader.open(frame.head.bytes()) || !reader.root(envelope) ||
        envelope.get<std::uint16_t>(EnvelopeLayout::kKind) !=
            static_cast<std::uint16_t>(MessageKind::kStaged))
      return;
    lease = envelope.get<std::uint64_t>(EnvelopeLayout::kTarget);
    const std::uint64_t other = lease + 1000;
    std::memcpy(const_cast<std::byte*>(envelope.words) + EnvelopeLayout::kTarget, &other, sizeof other);
  };
  const auto dropped =
      pair.duo.call_with<Tensor>({.timeout = 200ms}, "tensor", pair.program.counting(100'000, 5));
  CHECK(dropped.error().code == Code::kDeadlineExceeded);
  CHECK(lease != 0);
  CHECK(pair.duo.b.closed.empty());
  REQUIRE(pair.duo.until([&] { return pair.b().device_use().messages_arriving == 0; }));
}

TEST_CASE("device tensors: what a peer says wrongly of memory that is followed ends its link alone") {
  DeviceDuo<Forged> pair;
  pair.devices.script->unreachable = Error{Code::kUnavailable, "not connected"};
  pair.connect();
  const std::vector<Lie> lies{
      {"a number in the header", put<std::uint32_t>(AttachmentLayout::kWritten, 8)},
      {"a number that is not aligned", put<std::uint32_t>(AttachmentLayout::kWritten, 68)},
      {"a number behind the first page", put<std::uint32_t>(AttachmentLayout::kWritten, 4096)},
      {"no device tensor", put<std::uint8_t>(AttachmentLayout::kMemoryKind, 0)},
      {"memory that stays, which was not agreed upon", put<std::uint64_t>(AttachmentLayout::kSlab, 5)},
  };
  for (const Lie& lie : lies) expect_refused(pair, lie);
}

}  // namespace troupe::rpc::testing
