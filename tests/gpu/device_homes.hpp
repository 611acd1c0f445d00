#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <utility>

#include <troupe/shards/device_store.hpp>

#include "places.hpp"
#include "scripted_driver.hpp"
#include "shards/nccl/host_driver.hpp"
#include "shards/row_store_contract.hpp"

/// Devices on which stores are tested.
namespace troupe::shards::test {

/// So small that tests have several slabs and pieces.
inline constexpr std::size_t kSlab_bytes = 4096;
inline constexpr std::size_t kPiece_bytes = 1024;

/// A device whose work is done when somebody waits for it.
struct Scripted {
  std::shared_ptr<troupe::test::ScriptedDriver::Script> script =
      std::make_shared<troupe::test::ScriptedDriver::Script>();
  DeviceHome home;

  Scripted() : home(DeviceHome::of(Gpu(std::make_unique<troupe::test::ScriptedDriver>(script)))) {
    script->goes_on = true;
    home.slab_bytes = kSlab_bytes;
    home.piece_bytes = kPiece_bytes;
    home.on_host = [](const Stream& stream, std::function<void()> work) {
      troupe::test::ScriptedDriver::give_to(stream.native(), std::move(work));
    };
  }
  bool here() const { return true; }
};

/// A device whose streams are threads.
struct Threaded {
  DeviceHome home;

  Threaded() : home(DeviceHome::of(Gpu(std::make_unique<troupe::test::HostDriver>(0)))) {
    home.slab_bytes = kSlab_bytes;
    home.piece_bytes = kPiece_bytes;
    home.on_host = [](const Stream& stream, std::function<void()> work) {
      (void)troupe::test::HostDriver::give(stream.native(), std::move(work));
    };
  }
  bool here() const { return true; }
};

struct Real {
  std::unique_ptr<troupe::test::RealGpu> machine = troupe::test::RealGpu::open();
  DeviceHome home = home_of(machine.get());

  static DeviceHome home_of(const troupe::test::RealGpu* machine) {
    DeviceHome home = machine ? DeviceHome::of(machine->gpu) : Scripted().home;
    home.slab_bytes = kSlab_bytes;
    home.piece_bytes = kPiece_bytes;
    return home;
  }
  bool here() const { return machine != nullptr; }
};

inline MakeStore maker(const DeviceHome& home) {
  return [make = make_device_stores(home)](const TableSpec& spec, const SlotSet& slots) {
    return make(spec, slots).value();
  };
}

}  // namespace troupe::shards::test
