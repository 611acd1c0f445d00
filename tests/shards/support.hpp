#pragma once

#include <doctest/doctest.h>

#include <cstdint>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include <troupe/shards/table_shard.hpp>

#include "support/seed.hpp"

namespace troupe::shards::test {

inline TableSpec embedding_spec(std::uint64_t dim, Optimizer optimizer = Sgd{}) {
  TableSpec spec;
  spec.name = "entity";
  spec.dim = dim;
  spec.optimizer = optimizer;
  spec.initializer = Uniform{-0.5F, 0.5F};
  spec.seed = 7;
  return spec;
}

inline TableSpec dense_spec(std::uint64_t rows, std::uint64_t dim, Optimizer optimizer = Sgd{}) {
  TableSpec spec = embedding_spec(dim, optimizer);
  spec.name = "bias";
  spec.kind = TableKind::kDense;
  spec.rows = rows;
  return spec;
}

inline std::vector<Optimizer> every_optimizer() {
  return {Sgd{.learning_rate = 0.1F, .weight_decay = 0.01F},
          Adagrad{.learning_rate = 0.1F, .epsilon = 1e-8F, .initial_accumulator = 0.1F},
          Adam{.learning_rate = 0.01F, .beta1 = 0.9F, .beta2 = 0.99F, .epsilon = 1e-6F}};
}

inline std::vector<float> pull(TableShard& shard, const std::vector<std::uint64_t>& keys) {
  std::vector<float> out(keys.size() * shard.spec().dim);
  shard.pull(keys, out.data()).value();
  return out;
}

inline std::vector<float> random_floats(std::mt19937_64& random, std::size_t count) {
  std::uniform_real_distribution<float> distribution(-1, 1);
  std::vector<float> values(count);
  for (float& value : values) value = distribution(random);
  return values;
}

/// `count` keys below `range`, so that some come more than once.
inline std::vector<std::uint64_t> random_keys(std::mt19937_64& random, std::size_t count,
                                              std::uint64_t range) {
  std::vector<std::uint64_t> keys(count);
  for (std::uint64_t& key : keys) key = random() % range;
  return keys;
}

/// A folder that goes with the test.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "troupe-shards-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace troupe::shards::test
