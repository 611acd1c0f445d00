// factors: learns from ratings who likes what. Users and items have a row each; a rating is their product.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <vector>

#include <troupe/runtime/random.hpp>
#include <troupe/training/key_places.hpp>
#include <troupe/training/permutation.hpp>
#include <troupe/training/program.hpp>

namespace {

using namespace troupe;
using namespace troupe::training;

constexpr std::size_t kUsers = 0, kItems = 1;  // the tables' places
constexpr std::size_t kBatch = 256;

struct Rating {
  std::size_t user = 0, item = 0;  // in a batch: where their rows are
  float stars = 0;
};

float product(const float* a, const float* b, std::size_t size) {
  return std::inner_product(a, a + size, b, 0.0F);
}

class Factors : public training::Task {
 public:
  void add_flags(CLI::App& app) override {
    app.add_option("--users", users_, "How many rate")->capture_default_str();
    app.add_option("--items", items_, "How many things they rate")->capture_default_str();
    app.add_option("--ratings", ratings_, "How many ratings there are")->capture_default_str();
    app.add_option("--dimension", dimension_, "Numbers in a row")->capture_default_str();
    app.add_option("--rate", rate_, "Adagrad's learning rate")->capture_default_str();
  }

  /// Made-up ratings by hidden tastes, the same in every process. A tenth is held out.
  Result<void> load() override {
    Random random(7);
    constexpr std::size_t kTastes = 4;
    std::vector<float> tastes((users_ + items_) * kTastes);
    for (float& taste : tastes) taste = static_cast<float>(random.normal());
    for (std::size_t i = 0; i < ratings_; ++i) {
      const std::size_t user = random.below(users_), item = random.below(items_);
      const float stars = product(&tastes[user * kTastes], &tastes[(users_ + item) * kTastes], kTastes);
      (i % 10 == 0 ? test_ : train_).push_back({user, item, stars});
    }
    if (train_.empty()) return Error{Code::kInvalidArgument, "--ratings: there is nothing to learn from"};
    return {};
  }

  std::vector<shards::TableSpec> tables() const override {
    std::vector<shards::TableSpec> specs(2);
    for (std::size_t table : {kUsers, kItems}) {
      specs[table].name = table == kUsers ? "users" : "items";
      specs[table].dim = dimension_;
      specs[table].optimizer = shards::Adagrad{.learning_rate = rate_};
      specs[table].initializer = shards::Normal{0, 0.3F};
      specs[table].seed = 1 + table;
    }
    return specs;
  }

  std::uint64_t batches_per_epoch() const override { return (train_.size() + kBatch - 1) / kBatch; }

  void plan(const BatchId& batch, Step& step) override {
    const Permutation order(train_.size(), batch.epoch);  // another one each epoch
    const std::size_t end = std::min(train_.size(), (batch.index + 1) * kBatch);
    KeyPlaces users(step.keys[kUsers]), items(step.keys[kItems]);
    batch_.clear();
    for (std::size_t i = batch.index * kBatch; i < end; ++i) {
      const Rating& rating = train_[order(i)];
      batch_.push_back({users.of(rating.user), items.of(rating.item), rating.stars});
    }
  }

  Result<void> compute(const BatchId&, Step& step) override {
    for (auto& gradients : step.gradients) std::fill(gradients.begin(), gradients.end(), 0.0F);
    for (const Rating& rating : batch_) {
      const std::size_t u = rating.user * dimension_, i = rating.item * dimension_;
      const float* user = &step.rows[kUsers][u];
      const float* item = &step.rows[kItems][i];
      const float error = product(user, item, dimension_) - rating.stars;
      step.loss_sum += error * error / 2;
      for (std::size_t d = 0; d < dimension_; ++d) {
        step.gradients[kUsers][u + d] += error * item[d];
        step.gradients[kItems][i + d] += error * user[d];
      }
    }
    step.examples = batch_.size();
    return {};
  }

  std::uint64_t evaluation_size(Split split) const override {
    return split == Split::kTest ? test_.size() : 0;
  }
  std::uint64_t evaluation_chunk() const override { return 10'000; }

  /// Sums: of the squared errors, and of the ratings.
  Result<std::vector<double>> evaluate(const EvaluationPart& part, TableGroup& tables) override {
    auto users = tables.read_first(kUsers, users_);
    if (!users) return users.error();
    auto items = tables.read_first(kItems, items_);
    if (!items) return items.error();
    double squares = 0;
    for (std::uint64_t i = part.begin; i < part.end; ++i) {
      const float* user = &(*users)[test_[i].user * dimension_];
      const float* item = &(*items)[test_[i].item * dimension_];
      squares += std::pow(product(user, item, dimension_) - test_[i].stars, 2);
    }
    return std::vector{squares, static_cast<double>(part.end - part.begin)};
  }
  std::vector<Metric> metrics(const std::vector<double>& sums) const override {
    if (sums.size() < 2 || sums[1] == 0) return {};
    return {{"rmse", "RMSE", std::sqrt(sums[0] / sums[1])}};
  }

 private:
  std::size_t users_ = 1000, items_ = 500, ratings_ = 60'000, dimension_ = 8;
  float rate_ = 0.1F;
  std::vector<Rating> train_, test_, batch_;
};

}  // namespace

int main(int argc, char** argv) {
  Program program{"factors", "Learns who likes what", [] { return std::make_unique<Factors>(); }};
  program.defaults.out = "out/factors";
  return run_program(program, argc, argv);
}
