// Measures the CPU kernels against the memory of the same machine in the same run. One JSON line for each:
// {"name", "value", "unit", "reference", "reference_value", "ratio"}. Bytes count what the arithmetic must
// read and write; references move as many bytes, counted alike, in a working set of the same size.
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#ifdef TROUPE_BENCH_ABSEIL
#include <absl/container/flat_hash_map.h>
#endif

#include "troupe/kernels/blas.hpp"
#include "troupe/kernels/cpu.hpp"
#include "troupe/kernels/dedup.hpp"
#include "troupe/kernels/elementwise.hpp"
#include "troupe/kernels/gather.hpp"
#include "troupe/kernels/hash_index.hpp"
#include "troupe/kernels/optimizer.hpp"

namespace {

using namespace troupe::kernels;

constexpr int kRuns = 7;
constexpr double kLeastRun_s = 0.02;

double seconds_of(const auto& work, std::int64_t repeats) {
  const auto start = std::chrono::steady_clock::now();
  for (std::int64_t i = 0; i < repeats; ++i) work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::int64_t repeats_for(const auto& work) {
  std::int64_t repeats = 1;
  while (seconds_of(work, repeats) < kLeastRun_s) repeats *= 2;
  return repeats;
}

// Lines whose name contains the program's argument are measured.
struct Filter {
  bool wants(const std::string& name) const { return name.find(part) != std::string::npos; }
  std::string part;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Runs work and reference in turn, so that a neighbour's load meets both.
void report(const Filter& filter, const std::string& name, const std::string& unit, double unit_amount,
            double amount, const auto& work, const std::string& reference, double reference_amount,
            const auto& reference_work) {
  if (!filter.wants(name)) return;
  const std::int64_t repeats = repeats_for(work);
  const std::int64_t reference_repeats = repeats_for(reference_work);
  std::vector<double> rates;
  std::vector<double> reference_rates;
  for (int run = 0; run < kRuns; ++run) {
    const double seconds = seconds_of(work, repeats);
    const double reference_seconds = seconds_of(reference_work, reference_repeats);
    rates.push_back(amount * static_cast<double>(repeats) / seconds / unit_amount);
    reference_rates.push_back(reference_amount * static_cast<double>(reference_repeats) / reference_seconds /
                              unit_amount);
  }
  const double value = median(rates);
  const double reference_value = median(reference_rates);
  std::printf(
      R"({"name": "%s", "value": %.4g, "unit": "%s", "reference": "%s", "reference_value": %.4g, "ratio": %.3f})"
      "\n",
      name.c_str(), value, unit.c_str(), reference.c_str(), reference_value, value / reference_value);
  std::fflush(stdout);
}

// The plain loops that bound what memory allows.
struct MemoryReference {
  explicit MemoryReference(std::int64_t bytes)
      : floats(bytes / 12), a(static_cast<std::size_t>(floats), 1.0F), b(a), c(a) {}

  double triad_bytes() const { return static_cast<double>(floats) * 12; }
  void triad() {
    float* out = c.data();
    const float* x = a.data();
    const float* y = b.data();
    for (std::int64_t i = 0; i < floats; ++i) out[i] = x[i] + 0.5F * y[i];
    asm volatile("" : : "r"(out) : "memory");
  }
  double copy_bytes() const { return static_cast<double>(floats) * 8; }
  void copy() {
    std::memcpy(c.data(), a.data(), a.size() * sizeof(float));
    asm volatile("" : : "r"(c.data()) : "memory");
  }

  std::int64_t floats;
  std::vector<float> a, b, c;
};

// A table of rows visited in random order, in batches, as a shard sees it.
struct Rows {
  Rows(std::int64_t bytes, std::int64_t dim, std::int64_t row_floats, std::uint64_t seed)
      : count(bytes / (row_floats * static_cast<std::int64_t>(sizeof(float)))),
        table(static_cast<std::size_t>(count * row_floats), 0.01F),
        indices(static_cast<std::size_t>(count)),
        batch(std::clamp<std::int64_t>(count / 8, 1, 1024)),
        values(static_cast<std::size_t>(batch * dim), 0.01F) {
    std::iota(indices.begin(), indices.end(), 0);
    std::shuffle(indices.begin(), indices.end(), std::mt19937_64(seed));
    for (const auto index : indices)
      rows.push_back(table.data() + static_cast<std::int64_t>(index) * row_floats);
  }

  // work(rows, values, count) on the table's next batch of each call.
  auto each_batch(const auto& work) {
    return [this, work] {
      if (next + batch > count) next = 0;
      work(rows.data() + next, values.data(), batch);
      next += batch;
    };
  }

  std::int64_t count;
  std::vector<float> table;
  std::vector<std::uint64_t> indices;
  std::int64_t batch;
  std::vector<float> values;
  std::vector<float*> rows;
  std::int64_t next = 0;
};

void bench_rows(const Filter& filter, std::int64_t bytes, const std::string& size, std::int64_t dim) {
  MemoryReference memory(bytes);
  const std::string suffix = "_dim" + std::to_string(dim) + "_" + size;
  const auto line = [&](const std::string& what, std::int64_t row_floats, double floats_moved, bool as_copy,
                        const auto& work) {
    const std::string name = "kernel_" + what + suffix;
    if (!filter.wants(name)) return;
    Rows rows(bytes, dim, row_floats, 42);
    const double amount = floats_moved * 4 * static_cast<double>(rows.batch);
    if (as_copy) {
      report(filter, name, "GB/s", 1e9, amount, rows.each_batch(work), "memcpy_" + size, memory.copy_bytes(),
             [&] { memory.copy(); });
    } else {
      report(filter, name, "GB/s", 1e9, amount, rows.each_batch(work), "triad_" + size, memory.triad_bytes(),
             [&] { memory.triad(); });
    }
  };
  const auto d = static_cast<double>(dim);
  line("sgd_rows", dim, 3 * d, false, [dim](float* const* rows, const float* values, std::int64_t count) {
    sgd_rows(rows, values, count, dim, Sgd{});
  });
  line("adagrad_rows", dim + adagrad_state(dim), 5 * d, false,
       [dim](float* const* rows, const float* values, std::int64_t count) {
         adagrad_rows(rows, values, count, dim, Adagrad{});
       });
  line("adam_rows", dim + adam_state(dim), 7 * d, false,
       [dim](float* const* rows, const float* values, std::int64_t count) {
         adam_rows(rows, values, count, dim, Adam{});
       });
  line("scatter_add_rows", dim, 3 * d, false,
       [dim](float* const* rows, const float* values, std::int64_t count) {
         scatter_add_rows(values, rows, count, dim);
       });
  line("gather_rows", dim, 2 * d, true, [dim](float* const* rows, const float* values, std::int64_t count) {
    // The batch buffer is the output here.
    gather_rows(rows, count, dim, const_cast<float*>(values));
  });
}

/// What a hash index is measured against: one array, as full as the index may be, linear probing, each key
/// asked for `ahead` before it is looked up, and nothing else.
class BareTable {
 public:
  explicit BareTable(std::size_t keys) : mask_(std::bit_ceil(keys * 8 / 5) - 1) {
    const std::size_t bytes = (mask_ + 1) * sizeof(Place);
    places_.reset(
        static_cast<Place*>(std::aligned_alloc(std::size_t{2} << 20, std::max(bytes, std::size_t{2} << 20))));
    if (places_ == nullptr) std::abort();
    madvise(places_.get(), bytes, MADV_HUGEPAGE);
    clear();
  }
  void clear() { std::fill_n(places_.get(), mask_ + 1, Place{kNone, 0}); }
  void find(std::span<const std::uint64_t> keys, std::size_t ahead, std::uint64_t* values) const {
    for (std::size_t i = 0; i < keys.size(); ++i) {
      if (i + ahead < keys.size()) __builtin_prefetch(&places_[home(keys[i + ahead])]);
      values[i] = places_[probe(keys[i])].value;
    }
  }
  void insert(std::span<const std::uint64_t> keys, std::size_t ahead) {
    for (std::size_t i = 0; i < keys.size(); ++i) {
      if (i + ahead < keys.size()) __builtin_prefetch(&places_[home(keys[i + ahead])], 1);
      places_[probe(keys[i])] = {keys[i], i};
    }
  }

 private:
  struct Place {
    std::uint64_t key, value;
  };
  struct Release {
    void operator()(Place* places) const { std::free(places); }
  };
  static constexpr std::uint64_t kNone = ~std::uint64_t{0};
  std::size_t home(std::uint64_t key) const {
    key = (key ^ (key >> 30)) * 0xbf58476d1ce4e5b9U;
    key = (key ^ (key >> 27)) * 0x94d049bb133111ebU;
    return (key ^ (key >> 31)) & mask_;
  }
  std::size_t probe(std::uint64_t key) const {
    std::size_t at = home(key);
    while (places_[at].key != key && places_[at].key != kNone) at = (at + 1) & mask_;
    return at;
  }

  std::size_t mask_;
  std::unique_ptr<Place[], Release> places_;
};

void bench_index(const Filter& filter, std::int64_t keys_count, const std::string& size) {
  const auto count = static_cast<std::size_t>(keys_count);
  std::vector<std::uint64_t> keys(count);
  std::mt19937_64 random(7);
  for (auto& key : keys) key = random();
  std::vector<std::uint64_t> values(count);
  HashIndex index(keys_count);
  index.find_or_insert_batch(keys, 0, values);
  BareTable bare(count);
  bare.insert(keys, 16);
#ifdef TROUPE_BENCH_ABSEIL
  absl::flat_hash_map<std::uint64_t, std::uint64_t> map(count);
  for (std::size_t i = 0; i < count; ++i) map.emplace(keys[i], i);
#endif
  std::shuffle(keys.begin(), keys.end(), random);

  constexpr std::size_t kBatch = 4096;
  std::size_t next = 0;
  const auto batch = [&] {
    if (next + kBatch > count) next = 0;
    next += kBatch;
    return std::span(keys).subspan(next - kBatch, kBatch);
  };
  const auto find = [&] { index.find_batch(batch(), std::span(values).first(kBatch)); };
  for (const std::size_t ahead : {8U, 16U, 32U})
    report(filter, "kernel_hash_find_" + size, "Mkeys/s", 1e6, kBatch, find,
           "bare_table_" + std::to_string(ahead) + "_find_" + size, kBatch,
           [&] { bare.find(batch(), ahead, values.data()); });
  // With memory that is there already, as the shard's index has it but for the moments when it grows.
  const auto insert = [&] {
    index.clear();
    index.find_or_insert_batch(keys, 0, values);
  };
  report(filter, "kernel_hash_insert_" + size, "Mkeys/s", 1e6, static_cast<double>(count), insert,
         "bare_table_16_insert_" + size, static_cast<double>(count), [&] {
           bare.clear();
           bare.insert(keys, 16);
         });
#ifdef TROUPE_BENCH_ABSEIL
  report(filter, "kernel_hash_find_" + size, "Mkeys/s", 1e6, kBatch, find, "abseil_find_" + size, kBatch,
         [&] {
           const auto some = batch();
           for (std::size_t i = 0; i < kBatch; ++i) values[i] = map.find(some[i])->second;
         });
  report(filter, "kernel_hash_insert_" + size, "Mkeys/s", 1e6, static_cast<double>(count), insert,
         "abseil_insert_" + size, static_cast<double>(count), [&] {
           map.clear();
           map.reserve(count);
           for (std::size_t i = 0; i < count; ++i) map.emplace(keys[i], i);
         });
#endif
}

void bench_dedup(const Filter& filter) {
  std::vector<std::uint64_t> keys(4096);
  std::mt19937_64 random(8);
  for (auto& key : keys) key = random() % 3000;
  Dedup dedup;
  const auto amount = static_cast<double>(keys.size());
  report(
      filter, "kernel_dedup_4096", "Mkeys/s", 1e6, amount, [&] { dedup.run(keys); },
      "unordered_map_dedup_4096", amount,
      [&] {
        std::unordered_map<std::uint64_t, std::uint64_t> places;
        for (const auto key : keys) places.emplace(key, places.size());
      });
}

void bench_arithmetic(const Filter& filter) {
  constexpr std::int64_t kRows = 512;
  constexpr std::int64_t kColumns = 1024;
  const std::int64_t bytes = kRows * kColumns * 8;
  MemoryReference memory(bytes);
  std::vector<float> x(kRows * kColumns, 0.5F);
  std::vector<float> y(x.size());
  std::vector<float> z(x.size(), 1.0F);
  std::vector<float> lse(kRows);
  report(
      filter, "kernel_softmax_512x1024", "GB/s", 1e9, static_cast<double>(bytes),
      [&] { softmax_rows(x.data(), kRows, kColumns, y.data(), lse.data()); }, "memcpy_4MB",
      memory.copy_bytes(), [&] { memory.copy(); });
  report(
      filter, "kernel_complex_multiply_512x512", "GB/s", 1e9, static_cast<double>(x.size() * 12),
      [&] { complex_multiply(x.data(), z.data(), kRows, kColumns / 2, y.data()); }, "triad_4MB",
      memory.triad_bytes(), [&] { memory.triad(); });
  // The score of a batch of 512 against 1,024 candidates of 200 floats, beside a larger product.
  std::vector<float> square(std::size_t{1024} * 1024, 0.5F);
  std::vector<float> out(square.size());
  const auto product = [&](std::int64_t m, std::int64_t n, std::int64_t k) {
    gemm(false, true, m, n, k, 1.0F, square.data(), k, square.data(), k, 0.0F, out.data(), n);
  };
  report(
      filter, "kernel_gemm_512x1024x200", "GFLOP/s", 1e9, 2.0 * 512 * 1024 * 200,
      [&] { product(512, 1024, 200); }, "gemm_1024x1024x1024", 2.0 * 1024 * 1024 * 1024,
      [&] { product(1024, 1024, 1024); });
}

}  // namespace

int main(int argc, char** argv) {
  const Filter filter{argc > 1 ? argv[1] : ""};
  set_blas_threads(1);
  std::fprintf(stderr, "kernels run on %s\n", simd_target().c_str());
  for (const std::int64_t dim : {64, 100, 200}) {
    bench_rows(filter, std::int64_t{1} << 20, "1MB", dim);
    bench_rows(filter, std::int64_t{1} << 28, "256MB", dim);
  }
  bench_index(filter, 100'000, "100k");
  bench_index(filter, 4'000'000, "4M");
  bench_index(filter, 10'000'000, "10M");
  bench_dedup(filter);
  bench_arithmetic(filter);
  return 0;
}
