#include "gpt/machine.hpp"

#include <charconv>
#include <cstring>
#include <utility>

namespace troupe::gpt {
namespace {

// Of a device that has something to do: past it something has gone wrong there.
constexpr std::chrono::seconds kLongest{120};

}  // namespace

Result<std::unique_ptr<Machine>> Machine::open(const std::string& device) {
  std::unique_ptr<Machine> machine(new Machine());
  constexpr std::string_view kCuda = "cuda";
  if (device.starts_with(kCuda)) {
    int ordinal = 0;
    const char* const end = device.data() + device.size();
    const char* const number = device.data() + kCuda.size() + 1;
    const bool good =
        device.size() == kCuda.size() || (device.size() > kCuda.size() + 1 && device[kCuda.size()] == ':' &&
                                          std::from_chars(number, end, ordinal).ptr == end && ordinal >= 0);
    if (!good) return Error{Code::kInvalidArgument, "device '" + device + "': cpu, cuda or cuda:1 would do"};
    if (auto opened = machine->open_gpu(ordinal); !opened) return opened.error();
  } else if (device != "cpu") {
    return Error{Code::kInvalidArgument, "device '" + device + "': cpu, cuda or cuda:1 would do"};
  }
  machine->products_ = std::make_unique<kernels::Products>(machine->place_);
  if (const std::string missing = machine->products_->missing(); !missing.empty())
    return Error{Code::kUnavailable, "no products on a GPU without cuBLASLt: " + missing};
  if (machine->on_gpu()) {
    auto workspace = machine->allocate(kernels::Products::kWorkspaceBytes);
    if (!workspace) return workspace.error();
    machine->workspace_ = *std::move(workspace);
  }
  return machine;
}

Result<void> Machine::open_gpu(int ordinal) {
  auto gpu = Gpu::open(ordinal);
  if (!gpu) return gpu.error();
  auto stream = gpu->make_stream();
  if (!stream) return stream.error();
  gpu_.emplace(*gpu, *std::move(stream));
  place_ = kernels::Place::gpu(gpu_->stream.native(), ordinal);
  return {};
}

Machine::~Machine() {
  if (gpu_) (void)gpu_->stream.finish(kLongest);
}

Result<Buffer> Machine::allocate(std::size_t bytes) {
  if (!gpu_) {
    Buffer buffer = Buffer::allocate(bytes);
    if (bytes > 0) std::memset(buffer.data(), 0, bytes);
    return buffer;
  }
  auto buffer = gpu_->pool.allocate(bytes, gpu_->stream);
  if (buffer)
    if (auto filled = gpu_->stream.fill(buffer->data(), 0, bytes); !filled) return filled.error();
  return buffer;
}

Result<Buffer> Machine::allocate_staging(std::size_t bytes) {
  if (!gpu_) return Buffer::allocate(bytes);
  return gpu_->pinned.allocate(bytes, gpu_->stream);
}

void Machine::upload(void* to, const void* from, std::size_t bytes) {
  if (bytes == 0) return;
  if (gpu_)
    note(gpu_->stream.copy(to, from, bytes));
  else
    std::memcpy(to, from, bytes);
}

void Machine::clear(void* to, std::size_t bytes) {
  if (gpu_)
    note(gpu_->stream.fill(to, 0, bytes));
  else
    std::memset(to, 0, bytes);
}

Result<void> Machine::download(void* to, const void* from, std::size_t bytes) {
  if (bytes > 0 && gpu_)
    note(gpu_->stream.copy(to, from, bytes));
  else if (bytes > 0)
    std::memcpy(to, from, bytes);
  return finish();
}

Event Machine::event() {
  if (!gpu_) return {};
  auto recorded = gpu_->stream.point();
  if (recorded) return *std::move(recorded);
  note(recorded.error());
  return {};
}

void Machine::give(const kernels::Launch& launch, std::string_view what) {
  if (gpu_)
    note(gpu_->stream.launched(launch.kernel, launch.error));
  else if (!launch.ok())
    note(Error{Code::kInternal, std::string(launch.kernel) + ": error " + std::to_string(launch.error)});
  if (!profile_) return;
  (void)finish();
  const auto now = std::chrono::steady_clock::now();
  Spent& spent = profile_->spent[std::string(launch.kernel) + (what.empty() ? "" : " ") + std::string(what)];
  spent.seconds += std::chrono::duration<double>(now - profile_->last).count();
  ++spent.times;
  profile_->last = now;
}

void Machine::profile() {
  (void)finish();
  profile_.emplace();
  profile_->last = std::chrono::steady_clock::now();
}

void Machine::note(Result<void> outcome) {
  if (status_ && !outcome) status_ = std::move(outcome);
}

Result<void> Machine::finish() {
  if (gpu_) note(gpu_->stream.finish(kLongest));
  return status_;
}

std::size_t Machine::peak_bytes() const {
  return gpu_ ? gpu_->pool.stats().peak_bytes : 0;
}

}  // namespace troupe::gpt
