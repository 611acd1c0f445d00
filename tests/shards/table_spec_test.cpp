#include <troupe/shards/table_spec.hpp>

#include <cmath>
#include <limits>
#include <set>

#include "support.hpp"

namespace troupe::shards {
namespace {

using test::dense_spec;
using test::embedding_spec;

void check_refused(const TableSpec& spec, const std::string& part) {
  const Result<void> result = spec.validate();
  REQUIRE_FALSE(result.ok());
  CHECK(result.error().code == Code::kInvalidArgument);
  INFO(result.error().message);
  CHECK(result.error().message.find(part) != std::string::npos);
}

TEST_CASE("specs within bounds are valid") {
  CHECK(embedding_spec(200).validate().ok());
  CHECK(dense_spec(10, 3, Adam{}).validate().ok());
  CHECK(dense_spec(TableSpec::kMaxRows, TableSpec::kMaxDim, Adagrad{}).validate().ok());
}

TEST_CASE("what a spec may not hold is refused by the field's name") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  TableSpec spec = embedding_spec(8);
  const auto with = [&](auto change) {
    TableSpec changed = spec;
    change(changed);
    return changed;
  };
  for (const char* name : {"", ".hidden", "a/b", "a b", "..", "käse"}) {
    check_refused(with([&](TableSpec& s) { s.name = name; }), "table name");
  }
  check_refused(with([](TableSpec& s) { s.name = std::string(129, 'a'); }), "table name");
  check_refused(with([](TableSpec& s) { s.dim = 0; }), "dim is 0");
  check_refused(with([](TableSpec& s) { s.dim = TableSpec::kMaxDim + 1; }), "dim is");
  check_refused(with([](TableSpec& s) { s.rows = 5; }), "rows is 5");
  check_refused(with([](TableSpec& s) { s.kind = TableKind::kDense; }), "rows is 0");
  for (const std::uint32_t slots : {0U, 3U, 1000U, TableSpec::kMaxSlots * 2}) {
    check_refused(with([&](TableSpec& s) { s.slots = slots; }), "slots is");
  }
  check_refused(with([&](TableSpec& s) { s.optimizer = Sgd{.learning_rate = nan}; }), "learning_rate");
  check_refused(with([&](TableSpec& s) { s.optimizer = Sgd{.weight_decay = -1}; }), "weight_decay");
  check_refused(with([&](TableSpec& s) { s.optimizer = Adagrad{.epsilon = 0}; }), "epsilon");
  check_refused(with([&](TableSpec& s) { s.optimizer = Adagrad{.initial_accumulator = -1}; }), "initial_acc");
  check_refused(with([&](TableSpec& s) { s.optimizer = Adam{.beta1 = 1}; }), "beta1");
  check_refused(with([&](TableSpec& s) { s.optimizer = Adam{.beta2 = nan}; }), "beta2");
  check_refused(with([&](TableSpec& s) { s.initializer = Uniform{1, -1}; }), "low");
  check_refused(with([&](TableSpec& s) { s.initializer = Normal{0, -1}; }), "stddev");
}

TEST_CASE("a tensor of any shape is a dense table whose slices are whole rows") {
  struct Case {
    std::vector<std::uint64_t> shape;
    std::uint64_t rows, dim, per_slice;
  };
  for (const Case& each :
       {Case{{}, 1, 1, 1}, Case{{1}, 1, 1, 1}, Case{{7}, 7, 1, 1}, Case{{3, 4}, 3, 4, 1},
        Case{{3, 4, 5}, 3, 20, 1}, Case{{2, 3, 1, 4, 5}, 2, 60, 1}, Case{{1, 1U << 20}, 1, 1U << 20, 1},
        Case{{2, 1U << 12, 1U << 12}, 1U << 13, 1U << 12, 1U << 12},
        Case{{2, (1U << 20) + 1}, 2 * ((1U << 20) + 1), 1, (1U << 20) + 1},
        Case{{2, 3, 1U << 20, 2}, 6U << 20, 2, 3U << 20}}) {
    TableSpec spec = embedding_spec(5);
    spec.set_shape(each.shape);
    INFO(spec.to_json());
    REQUIRE(spec.validate().ok());
    CHECK(spec.rows == each.rows);
    CHECK(spec.dim == each.dim);
    CHECK(spec.rows_per_slice() == each.per_slice);
    CHECK(spec.tensor_shape() == (each.shape.empty() ? std::vector<std::uint64_t>{1} : each.shape));
    CHECK(TableSpec::from_json(spec.to_json()).value() == spec);
  }
  CHECK(dense_spec(4, 9).tensor_shape() == std::vector<std::uint64_t>{4, 9});
  CHECK(dense_spec(4, 9).to_json().find("shape") == std::string::npos);
}

TEST_CASE("a shape that is not that of the rows is refused") {
  for (const std::vector<std::uint64_t>& shape : {std::vector<std::uint64_t>{3, 4},
                                                  {0, 12},
                                                  {12, 0},
                                                  {8, 3},
                                                  {5, 5},
                                                  {36},
                                                  {1, 1, 1, 1, 1, 1, 1, 1, 24},
                                                  {std::uint64_t{1} << 63, 2, 24},
                                                  {std::uint64_t{1} << 32, std::uint64_t{1} << 32, 24}}) {
    TableSpec spec = dense_spec(12, 2);
    spec.shape = shape;
    check_refused(spec, "shape is [" + std::to_string(shape[0]));
  }
  TableSpec spec = dense_spec(12, 2);
  for (const std::vector<std::uint64_t>& shape :
       {std::vector<std::uint64_t>{12, 2}, {12, 1, 2}, {6, 4}, {1, 24}, {3, 2, 2, 2}}) {
    spec.shape = shape;
    CHECK(spec.validate().ok());
  }
  spec = embedding_spec(2);
  spec.shape = {1, 2};
  check_refused(spec, "shape is [1, 2]");
  spec.set_shape({std::uint64_t{1} << 40, std::uint64_t{1} << 40});
  check_refused(spec, "rows is");
  spec.set_shape({4, 0});
  check_refused(spec, "dim is 0");
  for (const char* bad : {"[]", "3", "[1.5]", "[-1]", "[\"1\"]", "[1,1,1,1,1,1,1,1,1]", "{}", "null"}) {
    std::string text = dense_spec(1, 1).to_json();
    text.insert(1, "\"shape\":" + std::string(bad) + ",");
    const auto read = TableSpec::from_json(text);
    REQUIRE_FALSE(read.ok());
    CHECK_MESSAGE(read.error().message.find("'shape' is to be") != std::string::npos, read.error().message);
  }
}

TEST_CASE("a row's first weights depend on seed and key alone") {
  TableSpec spec = embedding_spec(33);
  for (const Initializer& initializer : {Initializer(Uniform{-1, 1}), Initializer(Normal{0, 1})}) {
    spec.initializer = initializer;
    std::vector<float> first(spec.dim);
    std::vector<float> again(spec.dim);
    std::vector<float> other(spec.dim);
    initialize_row(spec, 5, first.data());
    initialize_row(spec, 6, other.data());
    initialize_row(spec, 5, again.data());
    CHECK(first == again);
    CHECK(first != other);
    TableSpec reseeded = spec;
    reseeded.seed = 8;
    initialize_row(reseeded, 5, other.data());
    CHECK(first != other);
    // A narrower table's row is the beginning of a wider one's.
    TableSpec narrow = spec;
    narrow.dim = 32;
    std::vector<float> part(narrow.dim);
    initialize_row(narrow, 5, part.data());
    CHECK(std::equal(part.begin(), part.end(), first.begin()));
  }
}

TEST_CASE("initial weights have the distribution that was asked for") {
  TableSpec spec = embedding_spec(101);
  std::vector<float> row(spec.dim);
  const auto moments = [&](const Initializer& initializer) {
    spec.initializer = initializer;
    double sum = 0;
    double squares = 0;
    for (std::uint64_t key = 0; key < 2000; ++key) {
      initialize_row(spec, key, row.data());
      for (const float value : row) {
        if (const auto* range = std::get_if<Uniform>(&initializer)) {
          REQUIRE(value >= range->low);
          REQUIRE(value < range->high);
        }
        sum += value;
        squares += double{value} * value;
      }
    }
    const double n = 2000.0 * static_cast<double>(spec.dim);
    return std::pair(sum / n, std::sqrt(squares / n - sum / n * sum / n));
  };
  const auto [uniform_mean, uniform_deviation] = moments(Uniform{-1, 3});
  CHECK(uniform_mean == doctest::Approx(1).epsilon(0.02));
  CHECK(uniform_deviation == doctest::Approx(4 / std::sqrt(12)).epsilon(0.02));
  const auto [normal_mean, normal_deviation] = moments(Normal{2, 0.5F});
  CHECK(normal_mean == doctest::Approx(2).epsilon(0.01));
  CHECK(normal_deviation == doctest::Approx(0.5).epsilon(0.02));
  CHECK(moments(Zeros{}) == std::pair(0.0, 0.0));
}

TEST_CASE("a range of one number gives that number") {
  TableSpec spec = embedding_spec(4);
  spec.initializer = Uniform{0.25F, 0.25F};
  std::vector<float> row(4);
  initialize_row(spec, 1, row.data());
  CHECK(row == std::vector<float>(4, 0.25F));
}

}  // namespace
}  // namespace troupe::shards
