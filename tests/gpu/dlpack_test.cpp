// DLPack with streams, on a driver whose streams go on when a test says so.
#include <troupe/runtime/dlpack.hpp>

#include <array>
#include <memory>

#include <doctest/doctest.h>
#include <troupe/runtime/gpu_memory.hpp>

#include "scripted_driver.hpp"

using namespace troupe;
using namespace troupe::dlpack;
using troupe::test::ScriptedDriver;

namespace {

struct Machine {
  std::shared_ptr<ScriptedDriver::Script> script = std::make_shared<ScriptedDriver::Script>();
  Gpu gpu{std::make_unique<ScriptedDriver>(script)};
  Stream ours = gpu.make_stream().value();
  Stream theirs = gpu.make_stream().value();
};

/// A borrowed tensor as another library would make it.
struct Foreign {
  explicit Foreign(std::int32_t device) { managed.dl_tensor.device = {kDLCUDA, device}; }
  std::array<float, 12> data{};
  std::array<std::int64_t, 2> shape{3, 4};
  int deleted = 0;
  DLManagedTensor managed{{data.data(), {kDLCUDA, 0}, 2, {kDLFloat, 32, 1}, shape.data(), nullptr, 0},
                          this,
                          [](DLManagedTensor* self) { ++static_cast<Foreign*>(self->manager_ctx)->deleted; }};
};

}  // namespace

TEST_CASE("who borrows a tensor of ours comes after its writer, and keeps it until his stream has passed") {
  Machine machine;
  GpuPool pool(machine.gpu, {.slab_bytes = 4096});
  std::byte* at = nullptr;
  std::array<std::byte, 4> seen{};
  {
    const Tensor tensor = pool.empty(DType::kFloat32, Shape{1}, machine.ours).value();
    at = tensor.data();
    REQUIRE(machine.ours.fill(at, 7, 4));
    REQUIRE(end_write(tensor.buffer(), machine.ours));
    DLManagedTensor* const lent = export_tensor(tensor, machine.theirs).value();
    CHECK(lent->dl_tensor.data == at);
    CHECK(lent->dl_tensor.device.device_id == 3);
    REQUIRE(machine.theirs.copy(seen.data(), at, 4));
    lent->deleter(lent);
  }
  ScriptedDriver::Script::run(*machine.script->queues[1]);
  CHECK(seen[0] == std::byte{0});  // waits for the writer
  CHECK(pool.allocate(4, machine.ours).value().data() != at);
  machine.script->run_all();
  CHECK(seen[0] == std::byte{7});
  CHECK(pool.allocate(4, machine.ours).value().data() == at);
}

TEST_CASE("what we borrow we give back when our streams have passed, and nobody waits for that") {
  Machine machine;
  Foreign foreign(3);
  {
    const Tensor tensor = import_tensor(&foreign.managed, machine.gpu, machine.ours).value();
    CHECK(tensor.device() == Device{MemoryKind::kDevice, 3});
    CHECK(tensor.shape() == Shape{3, 4});
    REQUIRE(begin_read(tensor.buffer(), machine.ours));
  }
  machine.gpu.release_idle();
  CHECK(foreign.deleted == 0);
  machine.script->run_all();
  machine.gpu.release_idle();
  CHECK(foreign.deleted == 1);
}

TEST_CASE("a tensor of another device, and one that a tensor cannot be, stay the caller's") {
  Machine machine;
  Foreign foreign(2);
  CHECK(import_tensor(&foreign.managed, machine.gpu, machine.ours).error().code == Code::kInvalidArgument);
  Foreign odd(3);
  odd.managed.dl_tensor.dtype.lanes = 2;
  CHECK(import_tensor(&odd.managed, machine.gpu, machine.ours).error().code == Code::kInvalidArgument);
  machine.script->run_all();
  machine.gpu.release_idle();
  CHECK(foreign.deleted == 0);
  CHECK(odd.deleted == 0);
}
