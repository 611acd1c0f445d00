#include "row_store_contract.hpp"

namespace troupe::shards {
namespace {

using test::dense_spec;
using test::embedding_spec;

/// Tables of all kinds of rows.
std::vector<TableSpec> specs() {
  std::vector<TableSpec> all;
  for (const DType weights : {DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
    for (const std::uint64_t dim : {1U, 3U, 16U}) {
      all.push_back(embedding_spec(dim, Adam{}));
      all.back().weights = weights;
    }
  }
  return all;
}

TEST_CASE("a host store steps rows as the optimizer's paper says, in every type of weights") {
  for (const Optimizer& optimizer : test::every_optimizer()) {
    for (const DType weights : {DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
      for (const std::uint64_t dim : {1U, 2U, 5U, 33U}) {
        for (TableSpec spec : {embedding_spec(dim, optimizer), dense_spec(150, dim, optimizer)}) {
          spec.weights = weights;
          test::store_steps_as_the_formula(make_host_store, spec);
        }
      }
    }
  }
}

TEST_CASE("a host store makes rows when they are wanted, and shows those that are not there") {
  for (const TableSpec& spec : specs()) test::store_makes_and_shows(make_host_store, spec);
}

TEST_CASE("a host store gives its rows to another and takes them, with their state") {
  for (TableSpec spec : specs()) {
    test::store_takes_what_another_gave(make_host_store, spec);
    spec.kind = TableKind::kDense;
    spec.rows = 500;
    test::store_takes_what_another_gave(make_host_store, spec);
  }
}

TEST_CASE("a host store of a dense table takes ranges of rows for the rows that they are") {
  for (const DType weights : {DType::kFloat32, DType::kFloat16}) {
    for (const std::uint64_t dim : {1U, 5U, 16U}) {
      TableSpec spec = dense_spec(5000, dim, Adam{});  // more rows than are stepped at once
      spec.weights = weights;
      test::store_takes_ranges(make_host_store, spec);
    }
  }
}

TEST_CASE("a dense row takes no memory but its own") {
  for (const std::uint64_t rows : {1000U, 100'000U}) {
    const auto store = make_host_store(dense_spec(rows, 16), SlotSet::all(1024));
    CHECK(store->bytes() - rows * 16 * sizeof(float) < 1024);  // the one run
  }
}

TEST_CASE("an embedding table has no ranges") {
  const auto store = make_host_store(embedding_spec(2), SlotSet::all(1024));
  const std::vector<RowRange> ranges{{0, 2}};
  const RowKeys rows((std::span(ranges)));
  float out[4];
  CHECK(store->read(rows, IfMissing::kMake, out).error().code == Code::kInvalidArgument);
  CHECK(store->make(rows).error().code == Code::kInvalidArgument);
  CHECK(store->update(rows, out, 1).error().code == Code::kInvalidArgument);
  CHECK(store->rows() == 0);
}

TEST_CASE("a host store forgets rows, by key and by slot") {
  for (const TableSpec& spec : specs()) test::store_forgets(make_host_store, spec);
}

TEST_CASE("a host store evicts what was not used") {
  for (const TableSpec& spec : specs()) test::store_evicts_the_unused(make_host_store, spec);
}

TEST_CASE("a cut of a host store shows the rows as they were, whatever is done meanwhile") {
  for (TableSpec spec : specs()) {
    test::store_cuts(make_host_store, spec);
    spec.kind = TableKind::kDense;
    spec.rows = 90;
    test::store_cuts(make_host_store, spec);
  }
}

TEST_CASE("a dense table's rows cannot be erased") {
  const auto store = make_host_store(dense_spec(9, 2), SlotSet::all(1024));
  CHECK(store->erase(std::vector<std::uint64_t>{1}).error().code == Code::kFailedPrecondition);
  CHECK(store->erase(SlotSet::all(1024)).error().code == Code::kFailedPrecondition);
  CHECK(store->evict(0).error().code == Code::kFailedPrecondition);
}

}  // namespace
}  // namespace troupe::shards
