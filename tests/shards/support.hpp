#pragma once

#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include <troupe/shards/table_shard.hpp>

#include "support/seed.hpp"
#include "support/temporary_folder.hpp"

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

/// With numbers that are not the usual ones.
inline std::vector<Optimizer> every_optimizer() {
  std::vector<Optimizer> all;
  for (const OptimizerDef* def : builtin_optimizers().all()) {
    Optimizer optimizer(*def);
    for (const OptimizerParameter& parameter : def->parameters) {
      if (parameter.name == "learning_rate")
        optimizer.set("learning_rate", def->name == "ftrl" ? 0.1F : 0.01F);
      if (parameter.name == "weight_decay") optimizer.set("weight_decay", 0.02F);
      if (parameter.name == "initial_accumulator") optimizer.set("initial_accumulator", 0.1F);
      if (parameter.name == "beta2") optimizer.set("beta2", 0.99F);
      if (parameter.name == "epsilon") optimizer.set("epsilon", 1e-6F);
      if (parameter.name == "l1") optimizer.set("l1", 0.05F);
      if (parameter.name == "l2") optimizer.set("l2", 0.1F);
    }
    all.push_back(optimizer);
  }
  return all;
}

/// All rows, in the order of their numbers.
inline RowBatch all_rows(const TableShard& shard) {
  RowBatch batch;
  REQUIRE(shard.extract(shard.slots(), 0, UINT64_MAX, batch).value().done);
  return batch;
}

/// A field of a record's state.
inline std::vector<float> field_of(const RowLayout& layout, const RowBatch& rows, std::size_t row,
                                   std::size_t field) {
  std::vector<float> values(layout.extent(field));
  std::memcpy(values.data(), rows.records.data() + row * layout.bytes() + layout.field_offset(field),
              values.size() * sizeof(float));
  return values;
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

/// A folder that goes with the test; what is in it, as paths.
class TemporaryFolder : public troupe::test::TemporaryFolder {
 public:
  std::filesystem::path operator/(const std::string& name) const { return path() / name; }
};

}  // namespace troupe::shards::test
