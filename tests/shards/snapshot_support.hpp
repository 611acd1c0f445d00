#pragma once

#include <algorithm>
#include <fstream>
#include <iterator>
#include <map>

#include <troupe/shards/snapshot.hpp>

#include "support.hpp"

namespace troupe::shards::test {

namespace fs = std::filesystem;

inline constexpr std::uint64_t kKeys = 300;

inline std::string read_all(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline void write_all(const fs::path& path, const std::string& text) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(text.data(), static_cast<std::streamsize>(text.size()));
}

/// Keys in the order in which a file has their rows, when they came to their table in this one.
inline std::vector<std::uint64_t> in_file_order(const TableSpec& spec, std::vector<std::uint64_t> keys) {
  std::stable_sort(keys.begin(), keys.end(),
                   [&](std::uint64_t a, std::uint64_t b) { return group_of(spec, a) < group_of(spec, b); });
  return keys;
}

/// A table cut into shards, as servers and clients would hold it.
struct Table {
  Table(const TableSpec& spec, std::uint32_t count)
      : partitioner(spec, SlotMap::balanced(spec.slots, count)) {
    for (std::uint32_t i = 0; i < count; ++i) {
      shards.push_back(TableShard::create(spec, partitioner.map().slots_of(i)).value());
    }
  }

  void push(std::uint64_t worker, std::uint64_t sequence, const std::vector<std::uint64_t>& keys,
            const std::vector<float>& gradients) {
    REQUIRE(partitioner.split(keys).ok());
    for (std::uint32_t i = 0; i < shards.size(); ++i) {
      const std::uint64_t dim = shards[i].spec().dim;
      std::vector<float> part(partitioner.keys(i).size() * dim);
      partitioner.gather(i, gradients.data(), dim, part.data());
      const PushHeader header{.worker = worker, .sequence = sequence, .pulled_version = 0};
      REQUIRE(shards[i].push(header, partitioner.keys(i), part).ok());
    }
  }

  void train(std::uint64_t seed, std::uint64_t first_sequence, int pushes) {
    std::mt19937_64 random(seed);
    for (int i = 0; i < pushes; ++i) {
      const auto keys = random_keys(random, 100, kKeys);
      push(random() % 3, first_sequence + static_cast<std::uint64_t>(i), keys,
           random_floats(random, keys.size() * shards[0].spec().dim));
    }
  }

  Manifest save(const fs::path& temporary, const fs::path& final) const {
    Manifest manifest;
    manifest.tables.push_back(shards[0].spec());
    manifest.metadata = R"({"epoch":3,"progress":0.25})";
    for (std::uint32_t i = 0; i < shards.size(); ++i) {
      manifest.files.push_back(write_table_shard(temporary, i, shards[i]).value());
    }
    commit(temporary, final, manifest).value();
    return manifest;
  }

  std::uint64_t load(const fs::path& folder) {
    const Manifest manifest = read_manifest(folder).value();
    std::uint64_t rows = 0;
    for (TableShard& shard : shards) rows += load_rows(folder, manifest, shard.spec().name, shard).value();
    return rows;
  }

  /// Every row's record by key.
  std::map<std::uint64_t, std::vector<std::byte>> contents() const {
    std::map<std::uint64_t, std::vector<std::byte>> all;
    for (const TableShard& shard : shards) {
      const RowBatch rows = all_rows(shard);
      const std::size_t bytes = shard.layout().bytes();
      for (std::size_t i = 0; i < rows.keys.size(); ++i) {
        const std::byte* record = rows.records.data() + i * bytes;
        all[rows.keys[i]].assign(record, record + bytes);
      }
    }
    return all;
  }

  Partitioner partitioner;
  std::vector<TableShard> shards;
};

}  // namespace troupe::shards::test
