#include "block.hpp"

#include <algorithm>
#include <utility>

#include <troupe/runtime/gpu_memory.hpp>

namespace troupe {
namespace gpu {
namespace {

/// Makes `stream` wait for all that `other` has been given so far.
Result<void> wait_for_all_of(const Stream& stream, const std::shared_ptr<StreamState>& other) {
  State& gpu = other->gpu();
  auto handle = gpu.event();
  if (!handle) return handle.error();
  if (auto recorded = gpu.driver().record((*handle)->native(), other->native()); !recorded) return recorded;
  return stream.state()->gpu().driver().wait(stream.native(), (*handle)->native());
}

}  // namespace

void Block::add_user(const std::shared_ptr<StreamState>& stream) {
  if (std::find(users_.begin(), users_.end(), stream) == users_.end()) users_.push_back(stream);
}

Result<void> Block::begin_read(const Stream& stream) {
  const std::lock_guard lock(mutex_);
  if (auto waits = stream.wait_for(written_); !waits) return waits;
  add_user(stream.state());
  return {};
}

Result<void> Block::begin_write(const Stream& stream) {
  const std::lock_guard lock(mutex_);
  if (auto waits = stream.wait_for(written_); !waits) return waits;
  for (const auto& user : users_) {
    if (user == stream.state()) continue;
    if (auto waits = wait_for_all_of(stream, user); !waits) return waits;
  }
  add_user(stream.state());
  return {};
}

Result<void> Block::end_write(const Stream& stream) {
  auto event = stream.record();
  if (!event) return event.error();
  const std::lock_guard lock(mutex_);
  written_ = *std::move(event);
  return {};
}

Result<std::vector<Mark>> Block::marks() {
  std::vector<Mark> marks;
  marks.reserve(users_.size());
  for (const auto& user : std::exchange(users_, {})) {
    auto mark = user->mark();
    if (!mark) return mark.error();
    marks.push_back(*std::move(mark));
  }
  written_ = Event();
  return marks;
}

Block* block_of(const Buffer& buffer) {
  return buffer.device().kind == MemoryKind::kHost ? nullptr : dynamic_cast<Block*>(buffer.block());
}

namespace {

class AdoptedBlock final : public Block {
 public:
  AdoptedBlock(std::byte* data, std::size_t size, Device device, const Stream& stream, Event written,
               std::shared_ptr<State> gpu, std::function<void()> release)
      : Block(data, size, device, stream, std::move(written)),
        gpu_(std::move(gpu)),
        release_(std::move(release)) {}

 private:
  // If the device has failed nothing runs on it any more.
  void recycle() override {
    std::vector<Point> busy;
    if (auto known = marks()) {
      busy.reserve(known->size());
      for (const Mark& mark : *known) busy.push_back(mark.point());
    }
    gpu_->release_after(std::move(busy), std::move(release_));
    delete this;
  }

  const std::shared_ptr<State> gpu_;
  std::function<void()> release_;
};

}  // namespace
}  // namespace gpu

Result<Buffer> adopt_gpu_memory(const Gpu& gpu, std::byte* data, std::size_t size, Device device,
                                const Stream& stream, std::function<void()> release) {
  auto written = stream.record();
  if (!written) return written.error();
  return Buffer(
      new gpu::AdoptedBlock(data, size, device, stream, *std::move(written), gpu.state(), std::move(release)),
      size);
}

Result<void> begin_read(const Buffer& buffer, const Stream& stream) {
  gpu::Block* const block = gpu::block_of(buffer);
  return block ? block->begin_read(stream) : Result<void>();
}

Result<void> begin_write(const Buffer& buffer, const Stream& stream) {
  gpu::Block* const block = gpu::block_of(buffer);
  return block ? block->begin_write(stream) : Result<void>();
}

Result<void> end_write(const Buffer& buffer, const Stream& stream) {
  gpu::Block* const block = gpu::block_of(buffer);
  return block ? block->end_write(stream) : Result<void>();
}

void end_write(const Buffer& buffer, const Event& written) {
  if (gpu::Block* const block = gpu::block_of(buffer)) block->end_write(written);
}

Event readable_after(const Buffer& buffer) {
  const gpu::Block* const block = gpu::block_of(buffer);
  return block ? block->written() : Event();
}

}  // namespace troupe
