#pragma once

#include <dlfcn.h>

#include <chrono>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <troupe/runtime/gpu_memory.hpp>

#include "communicator_contract.hpp"
#include "nccl/fake_nccl.hpp"
#include "nccl/host_driver.hpp"

/// Communicators of tensors in the memory of GPUs: by NCCL where there are some, and everywhere by a library
/// that takes NCCL's place over devices whose memory is the host's and whose streams are threads.
namespace troupe::shards::test {

using namespace std::chrono_literals;
using troupe::test::FakeNcclScript;
using troupe::test::HostDriver;

inline constexpr auto kPatience = std::chrono::seconds(60);

/// A member's GPU, with a stream and memory.
struct Machine {
  explicit Machine(Gpu opened) : gpu(std::move(opened)), pool(gpu), stream(gpu.make_stream().value()) {}
  Tensor place(const Tensor& host) {
    Tensor there = pool.empty(host.dtype(), host.shape(), stream).value();
    stream.copy(there.data(), host.data(), host.bytes()).value();
    end_write(there.buffer(), stream).value();
    stream.finish(kPatience).value();
    return there;
  }
  Tensor fetch(const Tensor& there) const {
    if (there.device().kind != MemoryKind::kDevice) return there;
    Tensor host = Tensor::empty(there.dtype(), there.shape());
    begin_read(there.buffer(), stream).value();
    stream.copy(host.data(), there.data(), there.bytes()).value();
    stream.finish(kPatience).value();
    return host;
  }
  Gpu gpu;
  GpuPool pool;
  Stream stream;
};
using Machines = std::vector<std::unique_ptr<Machine>>;

inline CommunicatorKind kind_of(const std::shared_ptr<Machines>& machines, const std::string& library) {
  const auto of = [machines](int rank) -> Machine& {
    return *(*machines)[static_cast<std::size_t>(rank) % machines->size()];
  };
  CommunicatorKind kind;
  kind.done_beside_others = true;
  kind.refuses_more = false;
  kind.most_members = static_cast<int>(machines->size());
  kind.make = [of, library](CommunicatorOptions options, AddressExchange exchange) {
    const Gpu gpu = of(std::abs(options.rank)).gpu;
    return make_nccl_communicator(std::move(options), {gpu, library}, std::move(exchange));
  };
  kind.place = [of](int rank, const Tensor& host) { return of(rank).place(host); };
  kind.fetch = [of](int rank, const Tensor& there) { return of(rank).fetch(there); };
  kind.reduces = [](DType dtype, ReduceOp) { return dtype != DType::kInt16 && dtype != DType::kUInt16; };
  return kind;
}

inline const std::string kFakeLibrary = TROUPE_TEST_NCCL;

/// With no GPU.
struct Fake {
  explicit Fake(int members = 5) {
    for (int i = 0; i < members; ++i) {
      auto driver = std::make_unique<HostDriver>(i);
      drivers.push_back(driver.get());
      machines->push_back(std::make_unique<Machine>(Gpu(std::move(driver))));
    }
    kind = kind_of(machines, kFakeLibrary);
    void* const library = ::dlopen(kFakeLibrary.c_str(), RTLD_NOW | RTLD_LOCAL);
    REQUIRE(library != nullptr);
    const auto find = reinterpret_cast<FakeNcclScript* (*)()>(::dlsym(library, "fake_nccl_script"));
    script = find();
  }
  ~Fake() {
    CHECK(script->misused == 0);
    CHECK(script->alive == 0);
  }
  Fake(const Fake&) = delete;
  Fake& operator=(const Fake&) = delete;

  std::vector<HostDriver*> drivers;
  std::shared_ptr<Machines> machines = std::make_shared<Machines>();
  CommunicatorKind kind;
  FakeNcclScript* script = nullptr;
};

inline std::string real_library() {
  const char* const named = std::getenv("TROUPE_TEST_REAL_NCCL");
  return named ? named : "libnccl.so.2";
}

/// All GPUs that there are, and NCCL; nothing, after saying why the test is skipped, where there are none.
inline std::optional<CommunicatorKind> real_kind() {
  const auto gpus = list_gpus();
  if (!gpus) {
    MESSAGE("skipped: ", gpus.error().message);
    return {};
  }
  if (::dlopen(real_library().c_str(), RTLD_NOW | RTLD_LOCAL) == nullptr) {
    MESSAGE("skipped: there is no NCCL (TROUPE_TEST_REAL_NCCL says where): ", ::dlerror());
    return {};
  }
  auto machines = std::make_shared<Machines>();
  for (const GpuInfo& gpu : *gpus)
    machines->push_back(std::make_unique<Machine>(Gpu::open(gpu.ordinal).value()));
  return kind_of(machines, real_library());
}

/// Two members, each with a thread; what they find wrong.
inline std::vector<std::string> with_two(const Fake& fake,
                                         const std::function<std::string(Communicator&)>& body,
                                         CommunicatorOptions options = {}) {
  return with_members(fake.kind, 2, body, std::move(options));
}

inline std::string code_of(const Result<void>& ended) {
  return std::string(to_string(ended ? Code::kOk : ended.error().code));
}

}  // namespace troupe::shards::test
