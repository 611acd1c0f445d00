// Pull and push of one table shard against plain memory work on the same number of bytes, in the same run.
//
// The table: 1 Mi rows of 128 floats with Adagrad, all made before. References: a gather of as many random
// rows by a loop over memcpy, out of plain weights [rows, 128] (pull); and reading as many gradients once
// while reading and writing as many random rows of weights and state [rows, 256] (push), which is what the
// memory must do for a push at least. GB/s counts the bytes that the caller gives or gets: keys * 128 * 4.
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
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

/// Plain memory of the table's size in huge pages, as the shard's is, written once so that it exists.
class PlainRows {
 public:
  explicit PlainRows(std::uint64_t floats) : floats_(floats), bytes_(kRows * floats * sizeof(float)) {
    data_.reset(static_cast<float*>(std::aligned_alloc(std::size_t{2} << 20, bytes_)));
    if (data_ == nullptr) std::abort();
    madvise(data_.get(), bytes_, MADV_HUGEPAGE);
    std::fill_n(data_.get(), kRows * floats_, 1.0F);
  }

  void gather(const std::vector<std::uint64_t>& keys, float* out) const {
    for (const std::uint64_t key : keys) {
      std::memcpy(out, data_.get() + key * floats_, kDim * sizeof(float));
      out += kDim;
    }
  }
  void update(const std::vector<std::uint64_t>& keys, const float* gradients) {
    for (const std::uint64_t key : keys) {
      float* row = data_.get() + key * floats_;
      for (std::uint64_t j = 0; j < kDim; ++j) {
        row[j] += gradients[j];
        row[kDim + j] += gradients[j];
      }
      gradients += kDim;
    }
  }

 private:
  struct Release {
    void operator()(float* data) const { std::free(data); }
  };
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
  const double reference = median_seconds([&] { plain.gather(batches.next(), out.data()); });
  const double ours = median_seconds([&] { shard.pull(batches.next(), out.data()).value(); });
  report("shard_pull_" + std::to_string(count), "GB/s", bytes / ours / 1e9,
         "memcpy_gather_" + std::to_string(count), bytes / reference / 1e9);
}

void bench_push(TableShard& shard, std::size_t count) {
  std::uint64_t sequence = 0;
  const double bytes = static_cast<double>(count * kDim * sizeof(float));
  const std::vector<float> gradients(count * kDim, 0.01F);
  PlainRows plain(2 * kDim);
  Batches batches(count);
  const double reference = median_seconds([&] { plain.update(batches.next(), gradients.data()); });
  const double ours = median_seconds(
      [&] { shard.push({.worker = count, .sequence = sequence++}, batches.next(), gradients).value(); });
  report("shard_push_" + std::to_string(count), "GB/s", bytes / ours / 1e9,
         "plain_update_" + std::to_string(count), bytes / reference / 1e9);
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
