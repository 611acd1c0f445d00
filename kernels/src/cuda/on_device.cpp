#include "cuda/on_device.hpp"

#include <cuda.h>
#include <cuda_runtime.h>

#include <array>
#include <atomic>
#include <cstddef>

namespace troupe::kernels::gpu {

namespace {

/// The driver's own calls: contexts in one another.
struct ContextCalls {
  CUresult (*retain)(CUcontext*, CUdevice) = nullptr;
  CUresult (*push)(CUcontext) = nullptr;
  CUresult (*pop)(CUcontext*) = nullptr;
};

/// `since`: the version of CUDA that gave the call its present form.
template <class Call>
bool find_call(Call& call, const char* name, unsigned since) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  const cudaError_t error =
      cudaGetDriverEntryPointByVersion(name, &function, since, cudaEnableDefault, &found);
  if (error != cudaSuccess) cudaGetLastError();
  call = reinterpret_cast<Call>(function);
  return error == cudaSuccess && found == cudaDriverEntryPointSuccess;
}

const ContextCalls* context_calls() {
  static const ContextCalls calls = [] {
    ContextCalls all;
    const bool there = find_call(all.retain, "cuDevicePrimaryCtxRetain", 7000) &&
                       find_call(all.push, "cuCtxPushCurrent", 4000) &&
                       find_call(all.pop, "cuCtxPopCurrent", 4000);
    return there ? all : ContextCalls{};
  }();
  return calls.pop ? &calls : nullptr;
}

/// The context that the runtime uses of a device; null: there is none. Kept for
/// as long as the process lives, as the runtime keeps it.
CUcontext primary_context(const ContextCalls& calls, int device) {
  static std::array<std::atomic<CUcontext>, 64> known{};
  if (device < 0 || static_cast<std::size_t>(device) >= known.size()) return nullptr;
  std::atomic<CUcontext>& context = known[static_cast<std::size_t>(device)];
  if (CUcontext there = context.load(std::memory_order_acquire)) return there;
  CUcontext made = nullptr;
  if (calls.retain(&made, device) == CUDA_SUCCESS) context.store(made, std::memory_order_release);
  return made;
}

}  // namespace

OnDevice::OnDevice(int device) {
  int current = 0;
  cudaGetDevice(&current);
  if (current == device) return;
  const ContextCalls* const calls = context_calls();
  const CUcontext context = calls ? primary_context(*calls, device) : nullptr;
  if (context && calls->push(context) == CUDA_SUCCESS) {
    before_ = kPops;
    return;
  }
  before_ = current;
  cudaSetDevice(device);
}

void OnDevice::go_back() const {
  CUcontext context = nullptr;
  if (before_ == kPops)
    context_calls()->pop(&context);
  else
    cudaSetDevice(before_);
}

}  // namespace troupe::kernels::gpu
