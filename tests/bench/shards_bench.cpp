// Pull and push of one table shard against plain memory work on the same number of bytes, in the same run.
//
// The table: 1 Mi rows of 128 floats with Adagrad, all made before. References: a gather of as many random
// rows by a loop over memcpy, out of plain weights [rows, 128] (pull); and Adagrad's step with as many
// gradients on as many random rows of weights and state [rows, 256] (push). Both know where each row is and
// ask for it some rows ahead: of several distances the best counts. GB/s counts the bytes that the caller
// gives or gets: keys * 128 * 4.
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include <troupe/shards/partition.hpp>
#include <troupe/shards/table_shard.hpp>

namespace {

using troupe::shards::TableShard;

constexpr std::uint64_t kRows = 1U << 20;
constexpr std::uint64_t kDim = 128;

/// Median seconds of one call of `body` over at least 15 calls and 0.4 s.
double median_seconds(const std::function<void()>& body) {
  using Clock = std::chrono::steady_clock;
  body();
  std::vector<double> times;
  const auto start = Clock::now();
  while (times.size() < 15 || Clock::now() - start < std::chrono::milliseconds(400)) {
    const auto before = Clock::now();
    body();
    times.push_back(std::chrono::duration<double>(Clock::now() - before).count());
  }
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
  return times[times.size() / 2];
}

void report(const std::string& name, const char* unit, double value, const std::string& reference,
            double reference_value) {
  std::printf(
      R"({"name": "%s", "value": %.4g, "unit": "%s", "reference": "%s", "reference_value": %.4g, "ratio": %.4g})"
      "\n",
      name.c_str(), value, unit, reference.c_str(), reference_value, value / reference_value);
  std::fflush(stdout);
}

/// Of a loop that asks for memory so many rows ahead: the best distance counts.
double best_seconds(const std::function<void(std::size_t ahead)>& body) {
  double best = 1e9;
  for (const std::size_t ahead : {2U, 4U, 8U, 16U, 32U})
    best = std::min(best, median_seconds([&] { body(ahead); }));
  return best;
}

/// Plain memory of the table's size in huge pages, as the shard's is, written once so that it exists.
class PlainRows {
 public:
  explicit PlainRows(std::uint64_t floats) : floats_(floats), bytes_(kRows * floats * sizeof(float)) {
    data_.reset(static_cast<float*>(std::aligned_alloc(std::size_t{2} << 20, bytes_)));
    if (data_ == nullptr) std::abort();
    madvise(data_.get(), bytes_, MADV_HUGEPAGE);
    std::fill_n(data_.get(), kRows * floats_, 1.0F);
  }

  void gather(const std::vector<std::uint64_t>& keys, std::size_t ahead, float* out) const {
    for (std::size_t i = 0; i < keys.size(); ++i) {
      if (i + ahead < keys.size()) prefetch(keys[i + ahead]);
      std::memcpy(out + i * kDim, data_.get() + keys[i] * floats_, kDim * sizeof(float));
    }
  }
  void update(const std::vector<std::uint64_t>& keys, std::size_t ahead, const float* gradients) {
    for (std::size_t i = 0; i < keys.size(); ++i) {
      if (i + ahead < keys.size()) prefetch(keys[i + ahead]);
      float* row = data_.get() + keys[i] * floats_;
      float* sums = row + kDim;
      const float* gradient = gradients + i * kDim;
      for (std::uint64_t j = 0; j < kDim; ++j) {
        sums[j] += gradient[j] * gradient[j];
        row[j] -= 0.1F * gradient[j] / (std::sqrt(sums[j]) + 1e-10F);
      }
    }
  }

 private:
  struct Release {
    void operator()(float* data) const { std::free(data); }
  };
  void prefetch(std::uint64_t key) const {
    const float* row = data_.get() + key * floats_;
    for (std::uint64_t at = 0; at < floats_; at += 16) __builtin_prefetch(row + at);
  }

  std::uint64_t floats_;
  std::size_t bytes_;
  std::unique_ptr<float, Release> data_;
};

/// A batch of random keys, other ones at each call, so that no row is in the cache from the call before.
class Batches {
 public:
  explicit Batches(std::size_t count) {
    std::mt19937_64 random(42);
    for (std::vector<std::uint64_t>& batch : batches_) {
      batch.resize(count);
      for (std::uint64_t& key : batch) key = random() % kRows;
    }
  }
  const std::vector<std::uint64_t>& next() { return batches_[at_++ % batches_.size()]; }

 private:
  std::vector<std::vector<std::uint64_t>> batches_{32};
  std::size_t at_ = 0;
};

TableShard make_shard() {
  troupe::shards::TableSpec spec;
  spec.name = "bench";
  spec.dim = kDim;
  spec.optimizer = troupe::shards::Adagrad{};
  TableShard shard = TableShard::create(spec).value();
  std::vector<std::uint64_t> keys(kRows);
  std::iota(keys.begin(), keys.end(), 0);
  std::vector<float> out(65536 * kDim);
  for (std::size_t i = 0; i < kRows; i += 65536) {
    shard.pull(std::span(keys).subspan(i, 65536), out.data()).value();
  }
  return shard;
}

void bench_pull(TableShard& shard, std::size_t count) {
  const double bytes = static_cast<double>(count * kDim * sizeof(float));
  std::vector<float> out(count * kDim);
  const PlainRows plain(kDim);
  Batches batches(count);
  const double reference =
      best_seconds([&](std::size_t ahead) { plain.gather(batches.next(), ahead, out.data()); });
  const double ours = median_seconds([&] { shard.pull(batches.next(), out.data()).value(); });
  report("shard_pull_" + std::to_string(count), "GB/s", bytes / ours / 1e9,
         "prefetching_gather_" + std::to_string(count), bytes / reference / 1e9);
}

void bench_push(TableShard& shard, std::size_t count) {
  std::uint64_t sequence = 0;
  const double bytes = static_cast<double>(count * kDim * sizeof(float));
  const std::vector<float> gradients(count * kDim, 0.01F);
  PlainRows plain(2 * kDim);
  Batches batches(count);
  const double reference =
      best_seconds([&](std::size_t ahead) { plain.update(batches.next(), ahead, gradients.data()); });
  const double ours = median_seconds(
      [&] { shard.push({.worker = count, .sequence = sequence++}, batches.next(), gradients).value(); });
  report("shard_push_" + std::to_string(count), "GB/s", bytes / ours / 1e9,
         "prefetching_adagrad_" + std::to_string(count), bytes / reference / 1e9);
}

void bench_split(const troupe::shards::TableSpec& spec, std::size_t count) {
  troupe::shards::Partitioner partitioner(spec, troupe::shards::SlotMap::balanced(spec.slots, 4));
  Batches batches(count);
  std::vector<std::uint64_t> copy(count);
  const double reference =
      median_seconds([&] { std::memcpy(copy.data(), batches.next().data(), count * sizeof(std::uint64_t)); });
  const double ours = median_seconds([&] { partitioner.split(batches.next()).value(); });
  report("partition_split_" + std::to_string(count), "Mkeys/s", static_cast<double>(count) / ours / 1e6,
         "memcpy_keys_" + std::to_string(count), static_cast<double>(count) / reference / 1e6);
}

}  // namespace

int main() {
  TableShard shard = make_shard();
  for (const std::size_t count : {4096U, 65536U}) {
    bench_pull(shard, count);
    bench_push(shard, count);
    bench_split(shard.spec(), count);
  }
  return 0;
}
