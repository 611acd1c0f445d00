#include <troupe/shards/optimizer.hpp>

#include "support.hpp"

namespace troupe::shards {
namespace {

// A program's own: w -= learning_rate * sign(g), counting how often.
constexpr OptimizerParameter kParameters[] = {{"learning_rate", 0.5F, OptimizerParameter::Range::kRate}};
constexpr OptimizerState kState[] = {{.name = "count", .extent = Extent::kOne}};
void sign_step(const StepBatch& batch) {
  for (std::int64_t i = 0; i < batch.count; ++i) {
    for (std::int64_t j = 0; j < batch.dim; ++j)
      batch.rows[i][j] -= batch.gradients[i * batch.dim + j] > 0 ? batch.parameters[0] : -batch.parameters[0];
    batch.rows[i][batch.dim] += 1;
  }
}
constexpr OptimizerDef kSign{.name = "sign", .parameters = kParameters, .state = kState, .step = sign_step};

TEST_CASE("a program's own optimizer is named in a spec, and used") {
  OptimizerList known = builtin_optimizers();
  REQUIRE(known.add(kSign).ok());
  TableSpec spec = test::embedding_spec(3, Optimizer(kSign));
  spec.initializer = Zeros{};
  CHECK_FALSE(TableSpec::from_json(spec.to_json()).ok());
  const auto read = TableSpec::from_json(spec.to_json(), known);
  REQUIRE(read.ok());
  CHECK(*read == spec);
  TableShard shard = TableShard::create(*read).value();
  for (std::uint64_t i = 0; i < 2; ++i)
    REQUIRE(shard.push({.sequence = i}, std::vector<std::uint64_t>{4}, std::vector<float>{1, -7, 0.1F}).ok());
  CHECK(test::pull(shard, {4}) == std::vector<float>{-1, 1, -1});
  CHECK(test::field_of(shard.layout(), test::all_rows(shard), 0, 0)[0] == 2);
}

TEST_CASE("optimizers that cannot be are refused") {
  OptimizerList list = builtin_optimizers();
  const auto refused = [&](auto change) {
    OptimizerDef def = kSign;
    change(def);
    CHECK(list.add(def).error().code == Code::kInvalidArgument);
  };
  refused([](OptimizerDef& def) { def.name = "adam"; });
  refused([](OptimizerDef& def) { def.name = ""; });
  refused([](OptimizerDef& def) { def.step = nullptr; });
  refused([](OptimizerDef& def) { def.parameters = {}; });
  static constexpr OptimizerState kTaken[] = {{.name = "weights", .extent = Extent::kDim}};
  refused([](OptimizerDef& def) { def.state = kTaken; });
  CHECK(list.add(kSign).ok());
  CHECK_FALSE(list.add(kSign).ok());
}

TEST_CASE("the ten built-in optimizers") {
  std::vector<std::string> names;
  for (const OptimizerDef* def : builtin_optimizers().all()) {
    names.emplace_back(def->name);
    CHECK(Optimizer(*def).validate().ok());
  }
  CHECK(names == std::vector<std::string>{"sgd", "momentum", "nesterov", "adagrad", "rowwise_adagrad", "adam",
                                          "adamw", "lamb", "rmsprop", "ftrl"});
}

}  // namespace
}  // namespace troupe::shards
