// The part of gpu_bench about tables in device memory: what a call costs beside the kernels and copies that
// it cannot do without. Each call is waited for.
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gpu_machine.hpp"
#include "troupe/kernels/row_table.hpp"
#include "troupe/kernels/step.hpp"
#include "troupe/shards/device_store.hpp"

namespace troupe::bench {

using namespace troupe::kernels;

namespace {

constexpr std::int64_t kRows = 4 * kMi;
constexpr std::int64_t kDim = 64;

shards::TableSpec table_spec() {
  shards::TableSpec spec;
  spec.name = "bench";
  spec.dim = kDim;
  spec.optimizer = shards::Adagrad{};
  spec.initializer = shards::Uniform{-0.1F, 0.1F};
  return spec;
}

/// A table of kRows rows, and another that has what kernels need alone.
class StoreBench {
 public:
  explicit StoreBench(const Bench& bench)
      : machine_(bench.machine),
        pinned_(machine_.gpu(), {.kind = MemoryKind::kPinned}),
        spec_(table_spec()),
        store_(shards::make_device_stores(shards::DeviceHome::of(machine_.gpu()))(
                   spec_, shards::SlotSet::all(spec_.slots))
                   .value()) {
    const auto begin = SteadyClock::now();
    std::vector<std::uint64_t> keys(kMi);
    for (std::int64_t first = 0; first < kRows; first += kMi) {
      for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = key_of(static_cast<std::uint64_t>(first) + i);
      store_->make(keys).value().wait().value();
    }
    print_json("gpu_store_make_4Mi_rows_x64", static_cast<double>(kRows) / seconds_since(begin) / 1e6,
               "M rows/s");
    records_ = machine_.floats(kRows * kDim * 2);
  }

  void run(std::int64_t count) {
    const std::string suffix = "_" + std::to_string(count) + "_x64";
    std::vector<std::uint64_t> keys, rows;
    std::mt19937_64 random(7);
    const std::uint64_t stride = static_cast<std::uint64_t>(kRows / count);
    for (std::int64_t i = 0; i < count; ++i) {  // distinct ones, scattered
      rows.push_back(static_cast<std::uint64_t>(i) * stride + random() % stride);
      keys.push_back(key_of(rows.back()));
    }
    const std::size_t bytes = static_cast<std::size_t>(count * kDim) * sizeof(float);
    const Buffer host = pinned_.allocate(bytes, machine_.stream()).value();
    std::vector<float> gradients(static_cast<std::size_t>(count * kDim), 0.01F);
    const std::uint64_t* const there = machine_.put(rows);
    float* const values = machine_.make<float>(count * kDim);
    const RowTable table{Element::kFloat32, records_, 2 * kDim, records_ + kDim, 2 * kDim, kDim};
    const auto us = [this](const std::function<void()>& once) { return machine_.seconds_of(once) * 1e6; };

    const double bare_pull = us([&] {
      machine_.give(
          gather_rows(machine_.place(), table.element, records_, 2 * kDim, there, count, kDim, values));
      machine_.stream().copy(host.data(), values, bytes).value();
      machine_.finish();
    });
    auto* const out = reinterpret_cast<float*>(host.data());
    const double pull = us([&] {
      store_->read(keys, shards::IfMissing::kMake, {out, MemoryKind::kPinned}).value().wait().value();
    });
    print_json("gpu_store_pull_pinned" + suffix, pull, "us", "gather, copy, wait", bare_pull);

    const double bare_gather = us([&] {
      machine_.give(
          gather_rows(machine_.place(), table.element, records_, 2 * kDim, there, count, kDim, values));
      machine_.finish();
    });
    const double device_pull = us([&] {
      store_->read(keys, shards::IfMissing::kMake, {values, MemoryKind::kDevice}).value().wait().value();
    });
    print_json("gpu_store_pull_device" + suffix, device_pull, "us", "gather, wait", bare_gather);

    const Step step{Rule::kAdagrad, {0.1F, 1e-10F}};
    const double bare_push = us([&] {
      std::memcpy(host.data(), gradients.data(), bytes);  // they come in ordinary memory
      machine_.stream().copy(values, host.data(), bytes).value();
      machine_.give(update_rows(machine_.place(), step, table, there, values, count));
      machine_.finish();
    });
    const double push = us([&] { store_->update(keys, gradients.data(), 1).value().wait().value(); });
    print_json("gpu_store_push" + suffix, push, "us", "copy to pinned memory, copy to the device, step, wait",
               bare_push);
    const double given = us([&] { store_->update(keys, gradients.data(), 1).value(); });
    print_json("gpu_store_push_not_waited_for" + suffix, given, "us");
    machine_.finish();
  }

 private:
  static std::uint64_t key_of(std::uint64_t row) { return row * 0x9E3779B97F4A7C15U; }

  Machine& machine_;
  GpuPool pinned_;
  shards::TableSpec spec_;
  std::unique_ptr<shards::RowStore> store_;
  float* records_ = nullptr;
};

}  // namespace

void bench_stores(const Bench& bench) {
  if (!bench.wants("gpu_store")) return;
  {
    StoreBench store(bench);
    for (const std::int64_t count : {4096, 16384, 65536}) store.run(count);
  }
  bench.machine.clear();
}

}  // namespace troupe::bench
