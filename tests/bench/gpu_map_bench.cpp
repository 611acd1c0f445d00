// The part of gpu_bench about maps from keys to rows.
#include <algorithm>
#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "gpu_machine.hpp"
#include "troupe/kernels/key_map.hpp"
#include "troupe/kernels/row_table.hpp"

namespace troupe::bench {

using namespace troupe::kernels;

namespace {

/// A map of 64 Mi slots with rows of `dim`, and batches of 1 Mi keys for it.
class MapBench {
 public:
  MapBench(const Bench& bench, std::int64_t dim) : machine_(bench.machine) {
    machine_.finish();
    const auto begin = SteadyClock::now();
    map_ = {machine_.make<std::uint64_t>(kSlots), machine_.make<std::uint32_t>(kSlots),
            kSlots / kBucketSlots};
    rows_ = {machine_.make<float>(kSlots * dim), dim, dim};
    machine_.give(clear_map(machine_.place(), map_));
    machine_.finish();
    create_s_ = seconds_since(begin);
    keys_ = machine_.make<std::uint64_t>(kMi);
    slots_ = machine_.make<std::uint64_t>(kMi);
    evicted_ = machine_.make<std::uint64_t>(kMi);
    is_new_ = machine_.make<std::uint8_t>(kMi);
    batch_ = machine_.floats(kMi * dim);
  }

  double create_s() const { return create_s_; }
  /// Inserts the keys of numbers [from, from + 1 Mi), each batch at a time of its own.
  void insert(std::uint64_t from, Full full) {
    for (std::size_t i = 0; i < host_.size(); ++i) host_[i] = key_of(from + i);
    put();
    assign(keys_, full);
    machine_.finish();
  }
  /// The batch: keys of numbers in [from, from + range), scattered, none twice; `range` is a power of two.
  void choose(std::uint64_t from, std::uint64_t range) {
    scatter(from, range, 9, host_.size());
    put();
  }
  void assign(const std::uint64_t* keys, Full full) {
    machine_.give(insert_or_assign(machine_.place(), map_, rows_, keys, batch_, kMi, ++now_, full, slots_,
                                   is_new_, evicted_));
  }
  void insert_present() { assign(keys_, Full::kRefuse); }
  void find() { machine_.give(find_rows(machine_.place(), map_, rows_, keys_, kMi, 0, slots_, batch_)); }
  void find_index() { machine_.give(find_keys(machine_.place(), map_, keys_, kMi, 0, slots_)); }
  void find_or_insert_and_read() {
    machine_.give(
        find_or_insert(machine_.place(), map_, keys_, kMi, ++now_, Full::kRefuse, slots_, is_new_, nullptr));
    read_rows();
  }
  void read_rows() {
    machine_.give(gather_rows(machine_.place(), Element::kFloat32, rows_.base, rows_.stride, slots_, kMi,
                              rows_.dim, batch_));
  }
  /// G keys/s of batches of which three fifths are there, in a map that is full.
  double evicting_rate(std::uint64_t present_from, std::uint64_t range, std::uint64_t fresh) {
    constexpr int kBatches = 24;
    constexpr int kWarm = 4;
    std::mt19937_64 random(10);
    std::vector<const std::uint64_t*> batches;
    for (int b = 0; b < kBatches; ++b) {
      const std::size_t present = host_.size() * 3 / 5;
      scatter(present_from, range, random(), present);
      for (std::size_t i = present; i < host_.size(); ++i) host_[i] = key_of(fresh++);
      std::shuffle(host_.begin(), host_.end(), random);
      batches.push_back(machine_.put(host_));
    }
    for (int b = 0; b < kWarm; ++b) assign(batches[static_cast<std::size_t>(b)], Full::kEvict);
    machine_.finish();
    const auto begin = SteadyClock::now();
    for (int b = kWarm; b < kBatches; ++b) assign(batches[static_cast<std::size_t>(b)], Full::kEvict);
    machine_.finish();
    return (kBatches - kWarm) * static_cast<double>(kMi) / seconds_since(begin) / 1e9;
  }
  double rate_of(const std::function<void()>& work) const { return kMi / machine_.seconds_of(work) / 1e9; }

  static constexpr std::int64_t kSlots = 64 * kMi;

 private:
  static std::uint64_t key_of(std::uint64_t number) { return number * 0x9E3779B97F4A7C15U; }
  void scatter(std::uint64_t from, std::uint64_t range, std::uint64_t seed, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i)
      host_[i] = key_of(from + ((seed + i * 0x2545F491U) & (range - 1)));
  }
  void put() {
    machine_.stream().copy(keys_, host_.data(), host_.size() * sizeof(std::uint64_t)).value();
    machine_.finish();
  }

  Machine& machine_;
  KeyMap map_;
  SlotRows rows_;
  double create_s_ = 0;
  std::uint64_t* keys_ = nullptr;
  std::uint64_t* slots_ = nullptr;
  std::uint64_t* evicted_ = nullptr;
  std::uint8_t* is_new_ = nullptr;
  float* batch_ = nullptr;
  std::uint32_t now_ = 0;
  std::vector<std::uint64_t> host_ = std::vector<std::uint64_t>(static_cast<std::size_t>(kMi));
};

}  // namespace

void bench_maps(const Bench& bench) {
  for (const std::int64_t dim : {64, 8}) {
    const std::string of = "_x" + std::to_string(dim);
    if (!bench.wants("gpu_map" + of)) continue;
    {
      MapBench map(bench, dim);
      print_json("gpu_map" + of + "_create_64Mi", map.create_s(), "s");
      constexpr std::uint64_t kHalf = MapBench::kSlots / 2;
      for (std::uint64_t n = 0; n < kHalf; n += kMi) map.insert(n, Full::kRefuse);
      map.choose(0, kHalf);
      map.find();
      const double rows_alone = map.rate_of([&] { map.read_rows(); });
      const char* const reference = "gather of the rows alone";
      print_json("gpu_map" + of + "_find_load_0.5", map.rate_of([&] { map.find(); }), "G/s", reference,
                 rows_alone);
      print_json("gpu_map" + of + "_find_index_load_0.5", map.rate_of([&] { map.find_index(); }), "G/s");
      print_json("gpu_map" + of + "_find_or_insert_load_0.5",
                 map.rate_of([&] { map.find_or_insert_and_read(); }), "G/s", reference, rows_alone);
      print_json("gpu_map" + of + "_insert_or_assign_load_0.5", map.rate_of([&] { map.insert_present(); }),
                 "G/s", reference, rows_alone);
      // Half as many keys again as there are slots: full.
      for (std::uint64_t n = kHalf; n < 3 * kHalf; n += kMi) map.insert(n, Full::kEvict);
      print_json("gpu_map" + of + "_insert_evict_load_1.0", map.evicting_rate(2 * kHalf, kHalf, 3 * kHalf),
                 "G/s", reference, rows_alone);
    }
    bench.machine.clear();
  }
}

}  // namespace troupe::bench
