#pragma once

#include <cmath>
#include <cstdint>
#include <map>
#include <vector>

#include <troupe/shards/table_spec.hpp>

namespace troupe::shards::test {

/// What a table should do, written the plainest way and in double precision.
class ReferenceTable {
 public:
  explicit ReferenceTable(TableSpec spec) : spec_(std::move(spec)) {}

  std::vector<double> pull(const std::vector<std::uint64_t>& keys) {
    std::vector<double> out;
    for (const std::uint64_t key : keys) {
      const Row& found = row(key);
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
    for (const auto& [key, sum] : sums) step(row(key), sum, scale);
  }

  std::size_t rows() const { return rows_.size(); }

 private:
  struct Row {
    std::vector<double> weights;
    std::vector<double> first;   // Adagrad: sum of squares; Adam: first moment
    std::vector<double> second;  // Adam: second moment
    double steps = 0;
  };

  Row& row(std::uint64_t key) {
    const auto [at, inserted] = rows_.try_emplace(key);
    if (inserted) {
      std::vector<float> weights(spec_.dim);
      initialize_row(spec_, key, weights.data());
      const auto* adagrad = std::get_if<Adagrad>(&spec_.optimizer);
      at->second.weights.assign(weights.begin(), weights.end());
      at->second.first.assign(spec_.dim, adagrad ? adagrad->initial_accumulator : 0);
      at->second.second.assign(spec_.dim, 0);
    }
    return at->second;
  }

  void step(Row& row, const std::vector<double>& gradient, double scale) const {
    row.steps += 1;
    for (std::size_t j = 0; j < spec_.dim; ++j) {
      const double g = gradient[j];
      double& w = row.weights[j];
      double& a = row.first[j];
      double& v = row.second[j];
      if (const auto* sgd = std::get_if<Sgd>(&spec_.optimizer)) {
        w -= scale * sgd->learning_rate * (g + sgd->weight_decay * w);
      } else if (const auto* adagrad = std::get_if<Adagrad>(&spec_.optimizer)) {
        a += g * g;
        w -= scale * adagrad->learning_rate * g / (std::sqrt(a) + adagrad->epsilon);
      } else {
        const Adam& adam = std::get<Adam>(spec_.optimizer);
        a = adam.beta1 * a + (1.0 - adam.beta1) * g;
        v = adam.beta2 * v + (1.0 - adam.beta2) * g * g;
        const double mean = a / (1 - std::pow(double{adam.beta1}, row.steps));
        const double variance = v / (1 - std::pow(double{adam.beta2}, row.steps));
        w -= scale * adam.learning_rate * mean / (std::sqrt(variance) + adam.epsilon);
      }
    }
  }

  TableSpec spec_;
  std::map<std::uint64_t, Row> rows_;
};

}  // namespace troupe::shards::test
