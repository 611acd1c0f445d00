// Measures the GPU's kernels against the same GPU's copies in the same run. One JSON line for each:
// {"name", "value", "unit", "reference", "reference_value", "ratio"}. Bytes count what the arithmetic must
// read and write, each once. Without a GPU it says so and ends.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "gpu_machine.hpp"
#include "troupe/kernels/row_table.hpp"
#include "troupe/kernels/step.hpp"
#include "troupe/kernels/vector.hpp"
#include "troupe/runtime/gpu.hpp"
#include "troupe/runtime/gpu_memory.hpp"

namespace {

using namespace troupe;
using namespace troupe::kernels;
using namespace troupe::bench;

constexpr std::int64_t kTableRows = 10'000'000;

/// GB/s, read and written, of a copy on the device.
double copy_rate(Machine& machine) {
  constexpr std::size_t kBytes = std::size_t{2} << 30;
  float* const from = machine.floats(kBytes / 4);
  float* const to = machine.make<float>(kBytes / 4);
  const double seconds = machine.seconds_of([&] { machine.stream().copy(to, from, kBytes).value(); });
  machine.clear();
  return 2.0 * static_cast<double>(kBytes) / seconds / 1e9;
}

std::vector<std::uint64_t> random_rows(std::int64_t count, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::uint64_t> rows(static_cast<std::size_t>(count));
  for (auto& row : rows) row = random() % kTableRows;
  return rows;
}

std::vector<std::uint64_t> distinct_rows(std::int64_t count) {
  std::vector<std::uint64_t> rows(static_cast<std::size_t>(kTableRows));
  std::iota(rows.begin(), rows.end(), 0);
  std::mt19937_64 random(2);
  for (std::int64_t i = 0; i < count; ++i)
    std::swap(rows[static_cast<std::size_t>(i)],
              rows[static_cast<std::size_t>(i) + random() % static_cast<std::uint64_t>(kTableRows - i)]);
  rows.resize(static_cast<std::size_t>(count));
  return rows;
}

/// Rows whose ranks follow Zipf's law, scattered over the table.
std::vector<std::uint64_t> zipf_rows(std::int64_t count, double exponent) {
  std::vector<double> sums(static_cast<std::size_t>(kTableRows));
  double sum = 0;
  for (std::size_t i = 0; i < sums.size(); ++i)
    sums[i] = sum += std::pow(static_cast<double>(i + 1), -exponent);
  std::mt19937_64 random(3);
  std::uniform_real_distribution<double> uniform(0, sum);
  std::vector<std::uint64_t> rows(static_cast<std::size_t>(count));
  for (auto& row : rows) {
    const auto rank = static_cast<std::uint64_t>(std::upper_bound(sums.begin(), sums.end(), uniform(random)) -
                                                 sums.begin());
    row = std::min<std::uint64_t>(rank, kTableRows - 1) * 7'368'787 %
          kTableRows;  // a prime that does not divide it
  }
  return rows;
}

void dense(const Bench& bench) {
  constexpr Step kAdamStep{Rule::kAdam, {0.001F, 0.9F, 0.999F, 1e-8F}};
  const auto measure = [&](const std::string& name, const std::vector<std::int64_t>& sizes) {
    if (!bench.wants(name)) return;
    std::vector<DenseTensor> tensors;
    double elements = 0;
    for (const std::int64_t n : sizes) {
      tensors.push_back({bench.machine.floats(n),
                         bench.machine.floats(n),
                         {bench.machine.floats(n), bench.machine.make<float>(n)},
                         n});
      bench.machine.stream().fill(tensors.back().state[1], 0, static_cast<std::size_t>(n) * 4).value();
      elements += static_cast<double>(n);
    }
    std::int64_t number = 0;
    bench.report(name, 28 * elements, [&] {
      bench.machine.give(dense_step(bench.machine.place(), kAdamStep, tensors, ++number, nullptr));
    });
  };
  measure("gpu_adam_dense_256M", {256 * kMi});
  // As a transformer has them: matrices, and two vectors for each.
  std::vector<std::int64_t> sizes;
  sizes.reserve(148);
  for (int i = 0; i < 148; ++i) sizes.push_back(i % 3 == 0 ? 5'300'000 : 2048);
  measure("gpu_adam_dense_148_tensors", sizes);
}

void gathers(const Bench& bench) {
  for (const std::int64_t dim : {128, 64, 32, 16}) {
    const std::string name = "gpu_gather_1Mi_x" + std::to_string(dim);
    if (!bench.wants(name)) continue;
    const float* const table = bench.machine.floats(kTableRows * dim);
    const std::uint64_t* const rows = bench.machine.put(random_rows(kMi, 4));
    float* const out = bench.machine.make<float>(kMi * dim);
    bench.report(name, static_cast<double>(kMi * (8 + 8 * dim)), [&] {
      bench.machine.give(
          gather_rows(bench.machine.place(), Element::kFloat32, table, dim, rows, kMi, dim, out));
    });
  }
  if (!bench.wants("gpu_gather_pooled_64Ki_x128_of_20")) return;
  constexpr std::int64_t kBags = 64 * 1024;
  std::vector<std::int64_t> offsets;
  offsets.reserve(kBags + 1);
  for (std::int64_t i = 0; i <= kBags; ++i) offsets.push_back(20 * i);
  const float* const table = bench.machine.floats(kTableRows * 128);
  const std::uint64_t* const rows = bench.machine.put(random_rows(20 * kBags, 5));
  const std::int64_t* const at = bench.machine.put(offsets);
  float* const out = bench.machine.make<float>(kBags * 128);
  bench.report("gpu_gather_pooled_64Ki_x128_of_20", static_cast<double>(kBags * (20 * (8 + 512) + 8 + 512)),
               [&] {
                 bench.machine.give(gather_pooled(bench.machine.place(), Element::kFloat32, table, 128, rows,
                                                  at, kBags, 128, Pooling::kSum, out));
               });
}

void vectors(const Bench& bench) {
  constexpr std::int64_t kCount = 512 * kMi;
  if (bench.wants("gpu_cast_float32_bfloat16")) {
    const float* const from = bench.machine.floats(kCount);
    auto* const to = bench.machine.make<std::uint16_t>(kCount);
    bench.report("gpu_cast_float32_bfloat16", 6.0 * kCount, [&] {
      bench.machine.give(
          cast(bench.machine.place(), Element::kFloat32, from, Element::kBFloat16, to, kCount));
    });
  }
  if (bench.wants("gpu_squared_norm")) {
    const float* const x = bench.machine.floats(kCount);
    auto* const out = bench.machine.make<double>(1);
    auto* const workspace = bench.machine.make<std::byte>(kNormWorkspaceBytes);
    bench.report("gpu_squared_norm", 4.0 * kCount,
                 [&] { bench.machine.give(squared_norm(bench.machine.place(), x, kCount, out, workspace)); });
  }
}

void updates(const Bench& bench) {
  constexpr std::int64_t kDim = 128;
  if (bench.wants("gpu_update_unique_sgd_1Mi_x128")) {
    const RowTable table{Element::kFloat32, bench.machine.floats(kTableRows * kDim), kDim, nullptr, 0, kDim};
    const std::uint64_t* const rows = bench.machine.put(distinct_rows(kMi));
    const float* const gradients = bench.machine.floats(kMi * kDim);
    bench.report("gpu_update_unique_sgd_1Mi_x128", static_cast<double>(kMi * (8 + 12 * kDim)), [&] {
      bench.machine.give(
          update_rows(bench.machine.place(), {Rule::kSgd, {0.01F}}, table, rows, gradients, kMi));
    });
  }
  for (const double exponent : {0.8, 1.05, 1.3}) {
    char name[80];
    std::snprintf(name, sizeof name, "gpu_update_summed_rowwise_adagrad_1Mi_x128_zipf_%.2f", exponent);
    if (!bench.wants(name)) continue;
    const auto batch = zipf_rows(kMi, exponent);
    auto sorted_batch = batch;
    std::sort(sorted_batch.begin(), sorted_batch.end());
    const auto unique =
        static_cast<double>(std::unique(sorted_batch.begin(), sorted_batch.end()) - sorted_batch.begin());
    const Step step{Rule::kRowwiseAdagrad, {0.01F, 1e-8F}};
    RowTable table{Element::kFloat32,
                   bench.machine.floats(kTableRows * kDim),
                   kDim,
                   bench.machine.make<float>(kTableRows),
                   1,
                   kDim};
    bench.machine.stream().fill(table.state, 0, kTableRows * 4).value();
    const std::uint64_t* const rows = bench.machine.put(batch);
    const float* const gradients = bench.machine.floats(kMi * kDim);
    const std::size_t bytes =
        update_rows_summed_workspace(bench.machine.place(), step, table, kTableRows, gradients, kMi);
    void* const workspace = bench.machine.make<std::byte>(static_cast<std::int64_t>(bytes));
    auto* const sorted = bench.machine.make<std::uint32_t>(2 * kMi);
    const double sort_s = bench.machine.seconds_of([&] {
      bench.machine.give(
          sort_rows(bench.machine.place(), rows, kMi, kTableRows, sorted, sorted + kMi, workspace, bytes));
    });
    const double seconds = bench.machine.seconds_of([&] {
      bench.machine.give(update_rows_summed(bench.machine.place(), step, table, kTableRows, rows, gradients,
                                            kMi, workspace, bytes));
    });
    // Gradients and rows once, and each unique row with its sum read and written.
    const double moved = static_cast<double>(kMi) * (8 + 4 * kDim) + unique * 2 * (4 * kDim + 4);
    const double floor_s = moved / bench.copy_gb_per_s / 1e9 + sort_s;
    print_json(name, seconds * 1e6, "us", "copy of the bytes, and the sort alone", floor_s * 1e6);
    bench.machine.clear();
  }
}

void host_links(const Bench& bench) {
  constexpr std::size_t kBytes = 256 * kMiB;
  if (!bench.wants("gpu_pinned_to_device")) return;
  GpuPool pinned(bench.machine.gpu(), {.kind = MemoryKind::kPinned, .slab_bytes = kBytes});
  const Buffer host = pinned.allocate(kBytes, bench.machine.stream()).value();
  float* const device = bench.machine.floats(kBytes / 4);
  const auto rate = [&](void* to, const void* from) {
    return static_cast<double>(kBytes) / 1e9 /
           bench.machine.seconds_of([&] { bench.machine.stream().copy(to, from, kBytes).value(); });
  };
  print_json("gpu_pinned_to_device", rate(device, host.data()), "GB/s");
  print_json("gpu_device_to_pinned", rate(host.data(), device), "GB/s");
  bench.machine.clear();
}

/// What the runtime's own calls cost the host.
void overheads(const Bench& bench) {
  if (!bench.wants("gpu_overheads")) return;
  constexpr std::int64_t kCount = 10000;
  GpuPool pool(bench.machine.gpu());
  const auto each_us = [&](const std::function<void()>& once) {
    std::vector<double> all;
    for (int i = 0; i < kRepetitions; ++i) {
      bench.machine.finish();
      const auto begin = SteadyClock::now();
      for (std::int64_t k = 0; k < kCount; ++k) {
        once();
        if (k % 512 == 511) bench.machine.finish();  // no more than a stream queues
      }
      all.push_back(seconds_since(begin) * 1e6 / kCount);
    }
    return median(all);
  };
  float* const some = bench.machine.make<float>(4);
  print_json("gpu_overheads_allocate_and_drop",
             each_us([&] { pool.allocate(4096, bench.machine.stream()).value(); }), "us");
  print_json("gpu_overheads_record", each_us([&] { bench.machine.stream().record().value(); }), "us");
  print_json("gpu_overheads_launch_named", each_us([&] {
               bench.machine.give(
                   clip_to_norm(bench.machine.place(), some, 4, reinterpret_cast<double*>(some), 1e30F));
             }),
             "us");
  print_json("gpu_overheads_launch_and_finish", each_us([&] {
               bench.machine.give(
                   clip_to_norm(bench.machine.place(), some, 4, reinterpret_cast<double*>(some), 1e30F));
               bench.machine.finish();
             }),
             "us");
  bench.machine.clear();
}

}  // namespace

int main(int argc, char** argv) {
  const auto gpu = Gpu::open(0);
  if (!gpu) {
    std::fprintf(stderr, "skipped: %s\n", gpu.error().to_string().c_str());
    return 0;
  }
  Machine machine(*gpu);
  const Bench bench{machine, copy_rate(machine), std::vector<std::string>(argv + 1, argv + argc)};
  print_json("gpu_copy", bench.copy_gb_per_s, "GB/s");
  dense(bench);
  gathers(bench);
  vectors(bench);
  updates(bench);
  bench_maps(bench);
  bench_models(bench);
  bench_stores(bench);
  host_links(bench);
  overheads(bench);
  return 0;
}
