// A driver that refuses a call in the middle of an operation of a store.
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "device_homes.hpp"

namespace troupe::shards {
namespace {

using test::embedding_spec;
using test::finished;
using test::kPiece_bytes;
using test::kSlab_bytes;
using test::maker;
using test::read_rows;
using test::Threaded;

/// A device whose driver refuses one call of a kind, once: it has no memory for it.
class RefusingDriver final : public gpu::Driver {
 public:
  enum class Call : std::uint8_t { kAllocate, kRecord, kWrite, kCopy, kFill };
  /// Refuses the call of that kind after `calls` others. Outlives the driver.
  struct Plan {
    Call kind = Call::kAllocate;
    int calls = -1;  // none is refused
  };
  explicit RefusingDriver(std::shared_ptr<Plan> plan) : plan_(std::move(plan)) {}

  Device device() const override { return host_.device(); }
  Result<std::byte*> allocate(MemoryKind kind, std::size_t bytes) override {
    if (refuses(Call::kAllocate)) return refused();
    return host_.allocate(kind, bytes);
  }
  void free(MemoryKind kind, std::byte* memory) override { host_.free(kind, memory); }
  Result<void*> make_stream() override { return host_.make_stream(); }
  void drop_stream(void* stream) override { host_.drop_stream(stream); }
  Result<void*> make_event() override { return host_.make_event(); }
  void drop_event(void* event) override { host_.drop_event(event); }
  Result<void> record(void* event, void* stream) override {
    if (refuses(Call::kRecord)) return refused();
    return host_.record(event, stream);
  }
  Result<void> wait(void* stream, void* event) override { return host_.wait(stream, event); }
  Result<void> write(void* stream, gpu::Word* word, std::uint64_t value) override {
    if (refuses(Call::kWrite)) return refused();
    return host_.write(stream, word, value);
  }
  Result<void> copy(void* stream, void* to, const void* from, std::size_t bytes) override {
    if (refuses(Call::kCopy)) return refused();
    return host_.copy(stream, to, from, bytes);
  }
  Result<void> fill(void* stream, void* to, std::uint8_t byte, std::size_t bytes) override {
    if (refuses(Call::kFill)) return refused();
    return host_.fill(stream, to, byte, bytes);
  }
  Result<void> check(void* stream) override { return host_.check(stream); }
  Error error_of(int native_error) override { return host_.error_of(native_error); }

 private:
  bool refuses(Call kind) { return kind == plan_->kind && plan_->calls >= 0 && plan_->calls-- == 0; }
  static Error refused() { return {Code::kResourceExhausted, "refused"}; }

  const std::shared_ptr<Plan> plan_;
  troupe::test::HostDriver host_{0};
};

TEST_CASE("a call that the driver refuses leaves an operation undone, or done, or the table at its end") {
  using Call = RefusingDriver::Call;
  const TableSpec spec = embedding_spec(4, Sgd{.learning_rate = 0.25F});
  std::vector<std::uint64_t> keys(150), old;
  for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = i;
  for (std::size_t i = 0; i < keys.size(); i += 2) old.push_back(keys[i]);
  const std::vector<float> ones(keys.size() * spec.dim, 1.0F);
  const auto host = make_host_store(spec, SlotSet::all(spec.slots));
  finished(host->update(keys, ones.data(), 1));
  const std::vector<float> once = read_rows(*host, keys);
  int ended = 0, refused = 0;
  for (const Call kind : {Call::kAllocate, Call::kRecord, Call::kWrite, Call::kCopy, Call::kFill}) {
    for (const bool cut : {false, true}) {
      for (int calls = 0; calls < 60; ++calls) {
        CAPTURE(static_cast<int>(kind));
        CAPTURE(calls);
        auto plan = std::make_shared<RefusingDriver::Plan>();
        DeviceHome home = DeviceHome::of(Gpu(std::make_unique<RefusingDriver>(plan)));
        home.slab_bytes = kSlab_bytes;
        home.piece_bytes = kPiece_bytes;
        home.on_host = Threaded().home.on_host;
        const auto store = maker(home)(spec, SlotSet::all(spec.slots));
        finished(store->make(old));
        if (cut) REQUIRE(store->open_cut().ok());
        plan->kind = kind;
        plan->calls = calls;
        auto updated = store->update(keys, ones.data(), 1);
        const bool spared = plan->calls >= 0;
        plan->calls = -1;
        // Who was refused tries again, as a client does.
        if (!updated && updated.error().code == Code::kResourceExhausted) {
          ++refused;
          updated = store->update(keys, ones.data(), 1);
        }
        if (!updated) {
          ++ended;
          REQUIRE(updated.error().code == Code::kInternal);
          std::vector<float> out(keys.size() * spec.dim);
          CHECK(store->read(keys, IfMissing::kMake, out.data()).error().code == Code::kInternal);
          continue;
        }
        finished(updated);
        REQUIRE(read_rows(*store, keys) == once);
        REQUIRE(store->wait().ok());
        REQUIRE(store->rows() == keys.size());
        if (spared) break;  // an update has no more such calls
      }
    }
  }
  CHECK(refused > 0);
  CHECK(ended > 0);
}

}  // namespace
}  // namespace troupe::shards
