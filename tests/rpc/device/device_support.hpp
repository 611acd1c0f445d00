#pragma once

#include <cstring>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include <troupe/runtime/gpu_memory.hpp>

#include "endpoint_support.hpp"
#include "gpu/scripted_driver.hpp"

/// Two endpoints with GPUs whose streams go on when a test says so.
namespace troupe::rpc::testing {

using test::ScriptedDriver;

/// GPUs of one machine.
struct Devices {
  std::shared_ptr<ScriptedDriver::Script> script = std::make_shared<ScriptedDriver::Script>();
  std::vector<Gpu> gpus;

  explicit Devices(int count = 2) {
    script->at_once = true;
    for (int i = 0; i < count; ++i) gpus.emplace_back(std::make_unique<ScriptedDriver>(script, i));
  }
  ~Devices() { script->queues.clear(); }  // before the drivers go, which have them
  Devices(const Devices&) = delete;
  Devices& operator=(const Devices&) = delete;

  EndpointOptions options(std::uint64_t id, const std::string& name, std::vector<Gpu> own) const {
    EndpointOptions options = options_of(id, name);
    options.gpus = std::move(own);
    return options;
  }
};

/// A GPU's memory, as a program has it.
struct Program {
  explicit Program(const Gpu& gpu_) : gpu(gpu_), stream(gpu.make_stream().value()), pool(gpu) {}
  /// Elements begin, begin + 1 ...
  Tensor counting(std::int64_t count, int begin) {
    Tensor tensor = pool.empty(DType::kUInt8, Shape{count}, stream).value();
    for (std::int64_t i = 0; i < count; ++i)
      tensor.data()[i] = static_cast<std::byte>(static_cast<std::int64_t>(begin) + i);
    REQUIRE(end_write(tensor.buffer(), stream).ok());
    return tensor;
  }
  Gpu gpu;
  troupe::Stream stream;
  GpuPool pool;
};

/// Device memory of the scripted driver can be read.
inline bool counts(const Tensor& tensor, std::int64_t count, int begin) {
  if (tensor.dtype() != DType::kUInt8 || tensor.shape() != Shape{count}) return false;
  for (std::int64_t i = 0; i < count; ++i)
    if (tensor.data()[i] != static_cast<std::byte>(static_cast<std::int64_t>(begin) + i)) return false;
  return true;
}

/// Keeps the tensors that come, and answers with nothing.
inline void keep_at(Side& side, std::vector<Tensor>& kept) {
  side.handler = [&kept](InboundCallPtr call) {
    Tensor tensor;
    REQUIRE(Codec<Tensor>::decode(call->message().value(0), tensor));
    kept.push_back(tensor);
    call->reply_void();
  };
}

/// `a` has the machine's first GPU, `b` the second; or as told.
template <class Kind>
struct DeviceDuo {
  using Change = std::function<void(EndpointOptions&)>;  ///< of alice's options, or of bob's
  explicit DeviceDuo(bool b_has_gpu = true, bool shares = true, bool a_maps = true, const Change& of_a = {},
                     const Change& of_b = {})
      : duo(changed(options_for(1, "alice", {devices.gpus[0]}, shares, a_maps), of_a),
            changed(
                options_for(2, "bob", b_has_gpu ? std::vector{devices.gpus[1]} : std::vector<Gpu>{}, shares),
                of_b)) {}
  ~DeviceDuo() {
    devices.script->broken.reset();
    devices.script->at_once = true;
    devices.script->run_all();
  }
  DeviceDuo(const DeviceDuo&) = delete;
  DeviceDuo& operator=(const DeviceDuo&) = delete;

  static EndpointOptions changed(EndpointOptions options, const Change& change) {
    if (change) change(options);
    return options;
  }
  EndpointOptions options_for(std::uint64_t id, const std::string& name, std::vector<Gpu> own, bool shares,
                              bool maps = true) const {
    EndpointOptions options = devices.options(id, name, std::move(own));
    if (!shares) options.shared.max_bytes = 0;
    options.map_gpu_memory = maps;
    options.silence_limit = 1s;  // for which memory is kept that a peer may still read
    return options;
  }
  /// Meets, and waits until both know what they reach.
  void connect() {
    duo.connect();
    REQUIRE(duo.until([&] { return !duo.a.device_ways.empty() && !duo.b.device_ways.empty(); }));
    duo.settle();
  }
  Endpoint& a() { return *duo.a.endpoint; }
  Endpoint& b() { return *duo.b.endpoint; }

  Devices devices;
  Program program{devices.gpus[0]};
  Program other{devices.gpus[1]};
  Duo<Kind> duo;
};

}  // namespace troupe::rpc::testing
