#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <vector>

#include <troupe/shards/optimizer.hpp>

namespace troupe::shards::test {

/// A row with its state, in double precision.
struct ReferenceRow {
  std::vector<double> weights;
  std::vector<double> first;   // momentum, sums or means of squares, first moment, FTRL's z
  std::vector<double> second;  // second moment, FTRL's n
  double sum = 0;              // one number for the whole row
  double steps = 0;

  void begin(const Optimizer& optimizer) {
    double begin = 0;
    for (const OptimizerParameter& parameter : optimizer.def().parameters)
      if (parameter.name == "initial_accumulator") begin = double{optimizer.get("initial_accumulator")};
    first.assign(weights.size(), begin);
    second.assign(weights.size(), 0);
    sum = begin;
  }
};

/// Adam's update without rate and decay; keeps the moments.
inline std::vector<double> reference_adam(const Optimizer& o, ReferenceRow& row,
                                          const std::vector<double>& g) {
  const double beta1 = double{o.get("beta1")};
  const double beta2 = double{o.get("beta2")};
  std::vector<double> update(g.size());
  for (std::size_t j = 0; j < g.size(); ++j) {
    row.first[j] = beta1 * row.first[j] + (1 - beta1) * g[j];
    row.second[j] = beta2 * row.second[j] + (1 - beta2) * g[j] * g[j];
    const double mean = row.first[j] / (1 - std::pow(beta1, row.steps));
    const double variance = row.second[j] / (1 - std::pow(beta2, row.steps));
    update[j] = mean / (std::sqrt(variance) + double{o.get("epsilon")});
  }
  return update;
}

inline double norm(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value * value;
  return std::sqrt(sum);
}

/// FTRL-Proximal, algorithm 1 of McMahan et al. 2013.
inline void reference_ftrl(const Optimizer& o, ReferenceRow& row, const std::vector<double>& g,
                           double alpha) {
  const double beta = double{o.get("beta")}, l1 = double{o.get("l1")}, l2 = double{o.get("l2")};
  for (std::size_t j = 0; j < g.size(); ++j) {
    if (g[j] == 0) continue;
    const double sigma = (std::sqrt(row.second[j] + g[j] * g[j]) - std::sqrt(row.second[j])) / alpha;
    row.first[j] += g[j] - sigma * row.weights[j];
    row.second[j] += g[j] * g[j];
    const double z = row.first[j];
    row.weights[j] =
        std::abs(z) <= l1 ? 0 : -(z - (z < 0 ? -l1 : l1)) / ((beta + std::sqrt(row.second[j])) / alpha + l2);
  }
}

/// One step as the paper, or PyTorch's documentation, writes it, the plainest way.
inline void reference_step(const Optimizer& o, ReferenceRow& row, const std::vector<double>& gradient,
                           double scale) {
  const std::string name(o.name());
  const double rate = scale * double{o.get("learning_rate")};
  const std::size_t dim = row.weights.size();
  row.steps += 1;
  std::vector<double> g = gradient;
  if (name == "sgd" || name == "momentum" || name == "nesterov" || name == "rmsprop")
    for (std::size_t j = 0; j < dim; ++j) g[j] += double{o.get("weight_decay")} * row.weights[j];
  if (name == "ftrl") return reference_ftrl(o, row, g, rate);
  std::vector<double> update = g;
  if (name == "momentum" || name == "nesterov") {
    const double momentum = double{o.get("momentum")};
    for (std::size_t j = 0; j < dim; ++j) {
      row.first[j] = momentum * row.first[j] + g[j];
      update[j] = name == "momentum" ? row.first[j] : g[j] + momentum * row.first[j];
    }
  } else if (name == "adagrad" || name == "rmsprop") {
    const double alpha = name == "rmsprop" ? double{o.get("alpha")} : 0;
    for (std::size_t j = 0; j < dim; ++j) {
      row.first[j] =
          name == "adagrad" ? row.first[j] + g[j] * g[j] : alpha * row.first[j] + (1 - alpha) * g[j] * g[j];
      update[j] = g[j] / (std::sqrt(row.first[j]) + double{o.get("epsilon")});
    }
  } else if (name == "rowwise_adagrad") {
    row.sum += norm(g) * norm(g) / static_cast<double>(dim);
    for (double& u : update) u /= std::sqrt(row.sum) + double{o.get("epsilon")};
  } else if (name == "adam" || name == "adamw" || name == "lamb") {
    update = reference_adam(o, row, g);
  } else {
    REQUIRE(name == "sgd");
  }
  if (name == "adamw")
    for (double& w : row.weights) w *= 1 - rate * double{o.get("weight_decay")};
  double trust = 1;
  if (name == "lamb") {
    for (std::size_t j = 0; j < dim; ++j) update[j] += double{o.get("weight_decay")} * row.weights[j];
    if (norm(row.weights) > 0 && norm(update) > 0) trust = norm(row.weights) / norm(update);
  }
  for (std::size_t j = 0; j < dim; ++j) row.weights[j] -= rate * trust * update[j];
}

}  // namespace troupe::shards::test
