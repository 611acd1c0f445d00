// The device's driver: CUDA's runtime, and of the driver itself the calls that the runtime does not have.
#include <cuda.h>
#include <cuda_runtime.h>

#include <array>
#include <atomic>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include <troupe/runtime/gpu.hpp>

#include "gpu/driver.hpp"

namespace troupe {
namespace {

Error error_of_cuda(cudaError_t error, const std::string& call) {
  // What is kept as "the last error" is not to be found by others, who would take it for theirs.
  cudaGetLastError();
  const Code code = error == cudaErrorMemoryAllocation ? Code::kResourceExhausted : Code::kInternal;
  return {code, call + ": " + cudaGetErrorString(error) + " (" + cudaGetErrorName(error) + ")"};
}

Result<void> checked(cudaError_t error, const char* call) {
  if (error == cudaSuccess) return {};
  return error_of_cuda(error, call);
}

/// What the runtime does not have of the driver's own calls.
struct DriverCalls {
  /// Has a stream write a number when it gets there.
  CUresult (*write_value)(CUstream, CUdeviceptr, cuuint64_t, unsigned int) = nullptr;
  /// The allocation in which an address lies.
  CUresult (*address_range)(CUdeviceptr*, size_t*, CUdeviceptr) = nullptr;
};

/// `since`: the version of CUDA that gave the call its present form.
template <class Call>
Result<void> find_call(Call& call, const char* name, unsigned since) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  const cudaError_t error =
      cudaGetDriverEntryPointByVersion(name, &function, since, cudaEnableDefault, &found);
  if (error != cudaSuccess) return error_of_cuda(error, "cudaGetDriverEntryPointByVersion");
  if (found != cudaDriverEntryPointSuccess)
    return Error{Code::kUnavailable, std::string("the GPU's driver is too old: it has no ") + name};
  call = reinterpret_cast<Call>(function);
  return {};
}

Result<DriverCalls> find_calls() {
  DriverCalls calls;
  if (auto found = find_call(calls.write_value, "cuStreamWriteValue64", 11070); !found) return found.error();
  if (auto found = find_call(calls.address_range, "cuMemGetAddressRange", 3020); !found) return found.error();
  return calls;
}

/// Whose device is current for the calling thread, as the driver has it: contexts in one another. What is
/// pushed and popped leaves the thread as it was, also one that has never chosen a device and stands at the
/// first: to choose that for it would make a context there, of half a gigabyte.
struct ContextCalls {
  CUresult (*retain)(CUcontext*, CUdevice) = nullptr;
  CUresult (*push)(CUcontext) = nullptr;
  CUresult (*pop)(CUcontext*) = nullptr;
  static const ContextCalls* found() {
    static const ContextCalls calls = [] {
      ContextCalls all;
      const bool there = find_call(all.retain, "cuDevicePrimaryCtxRetain", 7000) &&
                         find_call(all.push, "cuCtxPushCurrent", 4000) &&
                         find_call(all.pop, "cuCtxPopCurrent", 4000);
      return there ? all : ContextCalls{};
    }();
    return calls.pop ? &calls : nullptr;
  }
};

/// The context that the runtime uses of a device; null: there is none. Kept for as long as the process lives,
/// as the runtime keeps it.
CUcontext primary_context(const ContextCalls& calls, int device) {
  static std::array<std::atomic<CUcontext>, 64> known{};
  if (device < 0 || static_cast<std::size_t>(device) >= known.size()) return nullptr;
  std::atomic<CUcontext>& context = known[static_cast<std::size_t>(device)];
  if (CUcontext there = context.load(std::memory_order_acquire)) return there;
  CUcontext made = nullptr;
  if (calls.retain(&made, device) == CUDA_SUCCESS) context.store(made, std::memory_order_release);
  return made;
}

constexpr int kStays = -1, kPops = -2;

/// Makes a device the calling thread's; returns what leave_device() needs to make it as it was.
int enter_device(int ordinal) {
  int before = 0;
  cudaGetDevice(&before);
  if (before == ordinal) return kStays;
  const ContextCalls* const calls = ContextCalls::found();
  const CUcontext context = calls ? primary_context(*calls, ordinal) : nullptr;
  if (context && calls->push(context) == CUDA_SUCCESS) return kPops;
  cudaSetDevice(ordinal);
  return before;
}

void leave_device(int before) {
  CUcontext context = nullptr;
  if (before == kPops)
    ContextCalls::found()->pop(&context);
  else if (before != kStays)
    cudaSetDevice(before);
}

class OnDevice {
 public:
  explicit OnDevice(int ordinal) : before_(enter_device(ordinal)) {}
  ~OnDevice() { leave_device(before_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  const int before_;
};

class CudaDriver final : public gpu::Driver {
 public:
  CudaDriver(int ordinal, DriverCalls calls) : ordinal_(ordinal), calls_(calls) {}

  Device device() const override { return {MemoryKind::kDevice, ordinal_}; }

  Result<std::byte*> allocate(MemoryKind kind, std::size_t bytes) override {
    const OnDevice here(ordinal_);
    void* memory = nullptr;
    const bool pinned = kind == MemoryKind::kPinned;
    const cudaError_t error = pinned
                                  ? cudaHostAlloc(&memory, bytes, cudaHostAllocPortable | cudaHostAllocMapped)
                                  : cudaMalloc(&memory, bytes);
    if (error == cudaSuccess) return static_cast<std::byte*>(memory);
    Error failed = error_of_cuda(
        error, (pinned ? "cudaHostAlloc of " : "cudaMalloc of ") + std::to_string(bytes) + " bytes");
    if (failed.code == Code::kResourceExhausted && !pinned) {
      std::size_t free = 0;
      std::size_t total = 0;
      if (cudaMemGetInfo(&free, &total) == cudaSuccess)
        failed.message += "; GPU " + std::to_string(ordinal_) + " has " + std::to_string(free) + " of " +
                          std::to_string(total) + " bytes free";
    }
    return failed;
  }

  void free(MemoryKind kind, std::byte* memory) override {
    const OnDevice here(ordinal_);
    // Fails only if the device has, which whoever uses it next is told.
    static_cast<void>(kind == MemoryKind::kPinned ? cudaFreeHost(memory) : cudaFree(memory));
    cudaGetLastError();
  }

  Result<void*> make_stream() override {
    const OnDevice here(ordinal_);
    cudaStream_t stream = nullptr;
    const cudaError_t error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    if (error != cudaSuccess) return error_of_cuda(error, "cudaStreamCreateWithFlags");
    return static_cast<void*>(stream);
  }
  void drop_stream(void* stream) override { cudaStreamDestroy(static_cast<cudaStream_t>(stream)); }

  Result<void*> make_event() override {
    const OnDevice here(ordinal_);
    cudaEvent_t event = nullptr;
    const cudaError_t error = cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
    if (error != cudaSuccess) return error_of_cuda(error, "cudaEventCreateWithFlags");
    return static_cast<void*>(event);
  }
  void drop_event(void* event) override { cudaEventDestroy(static_cast<cudaEvent_t>(event)); }

  Result<void> record(void* event, void* stream) override {
    return checked(cudaEventRecord(static_cast<cudaEvent_t>(event), static_cast<cudaStream_t>(stream)),
                   "cudaEventRecord");
  }
  Result<void> wait(void* stream, void* event) override {
    return checked(cudaStreamWaitEvent(static_cast<cudaStream_t>(stream), static_cast<cudaEvent_t>(event), 0),
                   "cudaStreamWaitEvent");
  }

  Result<void> write(void* stream, gpu::Word* word, std::uint64_t value) override {
    static_assert(sizeof(gpu::Word) == sizeof(std::uint64_t));
    const OnDevice here(ordinal_);
    const CUresult outcome =
        calls_.write_value(static_cast<CUstream>(stream), reinterpret_cast<CUdeviceptr>(word), value,
                           CU_STREAM_WRITE_VALUE_DEFAULT);
    if (outcome == CUDA_SUCCESS) return {};
    return Error{Code::kInternal, "cuStreamWriteValue64: error " + std::to_string(outcome)};
  }

  Result<void> copy(void* stream, void* to, const void* from, std::size_t bytes) override {
    const OnDevice here(ordinal_);
    return checked(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, static_cast<cudaStream_t>(stream)),
                   "cudaMemcpyAsync");
  }
  Result<void> fill(void* stream, void* to, std::uint8_t byte, std::size_t bytes) override {
    const OnDevice here(ordinal_);
    return checked(cudaMemsetAsync(to, byte, bytes, static_cast<cudaStream_t>(stream)), "cudaMemsetAsync");
  }

  Result<void> check(void* stream) override {
    const OnDevice here(ordinal_);
    const cudaError_t state = cudaStreamQuery(static_cast<cudaStream_t>(stream));
    if (state == cudaErrorNotReady) {
      cudaGetLastError();
      return {};
    }
    return checked(state, "cudaStreamQuery");
  }
  int enter() override { return enter_device(ordinal_); }
  void leave(int before) override { leave_device(before); }
  Error error_of(int native_error) override {
    return error_of_cuda(static_cast<cudaError_t>(native_error), "CUDA");
  }

  std::array<std::byte, 16> uuid() const override {
    std::array<std::byte, 16> bytes{};
    cudaDeviceProp found{};
    if (cudaGetDeviceProperties(&found, ordinal_) == cudaSuccess)
      std::memcpy(bytes.data(), &found.uuid, bytes.size());
    else
      cudaGetLastError();
    return bytes;
  }
  Result<gpu::IpcHandle> ipc_export(std::byte* memory) override {
    static_assert(sizeof(cudaIpcMemHandle_t) == sizeof(gpu::IpcHandle));
    const OnDevice here(ordinal_);
    cudaIpcMemHandle_t native{};
    if (const cudaError_t error = cudaIpcGetMemHandle(&native, memory); error != cudaSuccess)
      return error_of_cuda(error, "cudaIpcGetMemHandle");
    gpu::IpcHandle handle;
    std::memcpy(handle.data(), &native, handle.size());
    return handle;
  }
  Result<std::pair<std::byte*, std::size_t>> ipc_open(const gpu::IpcHandle& handle) override {
    const OnDevice here(ordinal_);
    cudaIpcMemHandle_t native{};
    std::memcpy(&native, handle.data(), handle.size());
    void* memory = nullptr;
    const cudaError_t error = cudaIpcOpenMemHandle(&memory, native, cudaIpcMemLazyEnablePeerAccess);
    if (error != cudaSuccess) {
      Error failed = error_of_cuda(error, "cudaIpcOpenMemHandle");
      failed.code = Code::kUnavailable;
      return failed;
    }
    // Its owner may say that it is longer than it is, and a copy past its end would be the end of this
    // context.
    CUdeviceptr base = 0;
    std::size_t bytes = 0;
    const CUresult asked = calls_.address_range(&base, &bytes, reinterpret_cast<CUdeviceptr>(memory));
    const auto at = reinterpret_cast<CUdeviceptr>(memory);
    if (asked != CUDA_SUCCESS || at < base || at - base > bytes) {
      ipc_close(static_cast<std::byte*>(memory));
      return Error{Code::kUnavailable,
                   "cuMemGetAddressRange of another process's memory: error " + std::to_string(asked)};
    }
    // A short allocation may lie in one that the driver has cut into several.
    return std::pair(static_cast<std::byte*>(memory), bytes - static_cast<std::size_t>(at - base));
  }
  void ipc_close(std::byte* memory) override {
    const OnDevice here(ordinal_);
    cudaIpcCloseMemHandle(memory);
    cudaGetLastError();
  }
  Result<void> pin(std::byte* memory, std::size_t bytes, bool read_only) override {
    const OnDevice here(ordinal_);
    unsigned flags = cudaHostRegisterPortable | cudaHostRegisterMapped;
    if (read_only) flags |= cudaHostRegisterReadOnly;
    return checked(cudaHostRegister(memory, bytes, flags), "cudaHostRegister");
  }
  void unpin(std::byte* memory) override {
    const OnDevice here(ordinal_);
    cudaHostUnregister(memory);
    cudaGetLastError();
  }

 private:
  const int ordinal_;
  const DriverCalls calls_;
};

}  // namespace

Result<std::vector<GpuInfo>> list_gpus() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    cudaGetLastError();
    // What it says where there is no driver at all, too.
    const std::string why = error == cudaErrorInsufficientDriver
                                ? "there is no NVIDIA driver, or one older than this CUDA " +
                                      std::to_string(CUDART_VERSION / 1000) + "." +
                                      std::to_string(CUDART_VERSION % 1000 / 10)
                                : cudaGetErrorString(error);
    return Error{Code::kUnavailable, "no GPU can be used here: " + why};
  }
  if (count == 0) return Error{Code::kUnavailable, "the GPU's driver shows this process no GPU"};
  std::vector<GpuInfo> gpus;
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp found{};
    if (const cudaError_t asked = cudaGetDeviceProperties(&found, i); asked != cudaSuccess)
      return error_of_cuda(asked, "cudaGetDeviceProperties");
    gpus.push_back(
        {i, found.name, found.totalGlobalMem, found.multiProcessorCount, found.major, found.minor});
  }
  return gpus;
}

Result<Gpu> Gpu::open(std::int32_t ordinal) {
  const auto gpus = list_gpus();
  if (!gpus) return gpus.error();
  if (ordinal < 0 || static_cast<std::size_t>(ordinal) >= gpus->size()) {
    return Error{Code::kOutOfRange, "there is no GPU " + std::to_string(ordinal) + "; there are " +
                                        std::to_string(gpus->size()) + ", the first being 0"};
  }
  const OnDevice here(ordinal);
  if (const cudaError_t error = cudaFree(nullptr); error != cudaSuccess)  // makes the context
    return error_of_cuda(error, "the GPU's context");
  const auto calls = find_calls();
  if (!calls) return calls.error();
  return Gpu(std::make_unique<CudaDriver>(ordinal, *calls));
}

}  // namespace troupe
