#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include <troupe/shards/table_spec.hpp>

#include "reference_optimizers.hpp"

namespace troupe::shards::test {

/// What a table should do, written the plainest way and in double precision.
class ReferenceTable {
 public:
  explicit ReferenceTable(TableSpec spec) : spec_(std::move(spec)) {}

  std::vector<double> pull(const std::vector<std::uint64_t>& keys) {
    std::vector<double> out;
    for (const std::uint64_t key : keys) {
      const ReferenceRow& found = row(key);
      out.insert(out.end(), found.weights.begin(), found.weights.end());
    }
    return out;
  }

  void push(const std::vector<std::uint64_t>& keys, const std::vector<float>& gradients, double scale = 1) {
    std::map<std::uint64_t, std::vector<double>> sums;
    for (std::size_t i = 0; i < keys.size(); ++i) {
      std::vector<double>& sum = sums[keys[i]];
      sum.resize(spec_.dim);
      for (std::size_t j = 0; j < spec_.dim; ++j) sum[j] += gradients[i * spec_.dim + j];
    }
    for (const auto& [key, sum] : sums) reference_step(spec_.optimizer, row(key), sum, scale);
  }

  std::size_t rows() const { return rows_.size(); }

 private:
  ReferenceRow& row(std::uint64_t key) {
    const auto [at, inserted] = rows_.try_emplace(key);
    if (inserted) {
      std::vector<float> weights(spec_.dim);
      initialize_row(spec_, key, weights.data());
      at->second.weights.assign(weights.begin(), weights.end());
      at->second.begin(spec_.optimizer);
    }
    return at->second;
  }

  TableSpec spec_;
  std::map<std::uint64_t, ReferenceRow> rows_;
};

}  // namespace troupe::shards::test
