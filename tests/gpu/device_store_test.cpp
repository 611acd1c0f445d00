// Rows in device memory: the contract of all stores, on a device of a test's own whose kernels run on the
// host when their stream gets there, and on a GPU.
#include <troupe/shards/device_store.hpp>

#include <deque>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include <troupe/runtime/loop.hpp>

#include "device_homes.hpp"

namespace troupe::shards {
namespace {

using test::dense_spec;
using test::embedding_spec;
using test::finished;
using test::maker;
using test::read_rows;
using test::Real;
using test::Scripted;
using test::Threaded;

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

TEST_CASE_TEMPLATE("a device store steps rows as the optimizer's paper says, in every type of weights", Where,
                   Threaded, Real) {
  Where at;
  if (!at.here()) return;
  for (const Optimizer& optimizer : test::every_optimizer()) {
    for (const DType weights : {DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
      for (const std::uint64_t dim : {1U, 2U, 5U, 33U, 64U}) {
        for (TableSpec spec : {embedding_spec(dim, optimizer), dense_spec(150, dim, optimizer)}) {
          spec.weights = weights;
          test::store_steps_as_the_formula(maker(at.home), spec);
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("a device store makes rows when they are wanted, and shows those that are not there",
                   Where, Threaded, Real) {
  Where at;
  if (!at.here()) return;
  for (const TableSpec& spec : specs()) test::store_makes_and_shows(maker(at.home), spec);
}

TEST_CASE_TEMPLATE("a device store gives its rows to another and takes them, with their state", Where,
                   Threaded, Real) {
  Where at;
  if (!at.here()) return;
  for (TableSpec spec : specs()) {
    test::store_takes_what_another_gave(maker(at.home), spec);
    spec.kind = TableKind::kDense;
    spec.rows = 500;
    test::store_takes_what_another_gave(maker(at.home), spec);
  }
}

TEST_CASE_TEMPLATE("a device store of a dense table takes ranges of rows for the rows that they are", Where,
                   Threaded, Real) {
  Where at;
  if (!at.here()) return;
  for (const DType weights : {DType::kFloat32, DType::kFloat16}) {
    for (const std::uint64_t dim : {1U, 5U, 16U}) {
      TableSpec spec = dense_spec(5000, dim, Adam{});
      spec.weights = weights;
      at.home.piece_bytes = std::size_t{16} << 10;
      test::store_takes_ranges(maker(at.home), spec);
    }
  }
}

TEST_CASE_TEMPLATE("a device store forgets rows, by key and by slot", Where, Threaded, Real) {
  Where at;
  if (!at.here()) return;
  for (const TableSpec& spec : specs()) test::store_forgets(maker(at.home), spec);
}

TEST_CASE_TEMPLATE("a device store evicts what was not used", Where, Threaded, Real) {
  Where at;
  if (!at.here()) return;
  for (const TableSpec& spec : specs()) test::store_evicts_the_unused(maker(at.home), spec);
}

TEST_CASE_TEMPLATE("a cut of a device store shows the rows as they were, whatever is done meanwhile", Where,
                   Threaded, Real) {
  Where at;
  if (!at.here()) return;
  for (TableSpec spec : specs()) {
    test::store_cuts(maker(at.home), spec);
    spec.kind = TableKind::kDense;
    spec.rows = 90;
    test::store_cuts(maker(at.home), spec);
  }
}

TEST_CASE_TEMPLATE("new rows are the same bits in a device store as in the host's", Where, Threaded, Real) {
  Where at;
  if (!at.here()) return;
  for (const Initializer& initializer :
       {Initializer(Zeros{}), Initializer(Uniform{-0.3F, 0.7F}), Initializer(Normal{0.1F, 2.5F})}) {
    for (const DType weights : {DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
      TableSpec spec = embedding_spec(67, Adagrad{.initial_accumulator = 0.5F});
      spec.weights = weights;
      spec.initializer = initializer;
      const auto device = maker(at.home)(spec, SlotSet::all(spec.slots));
      const auto host = make_host_store(spec, SlotSet::all(spec.slots));
      std::vector<std::uint64_t> keys(300);
      for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = i * i * 0x123456789ULL;
      CHECK(read_rows(*device, keys) == read_rows(*host, keys));
      finished(device->make(keys));
      finished(host->make(keys));
      const std::size_t bytes = device->layout().bytes();
      CHECK(test::by_key(test::every_row(*device, SlotSet::all(spec.slots), 100), bytes) ==
            test::by_key(test::every_row(*host, SlotSet::all(spec.slots), 100), bytes));
    }
  }
}

/// Random operations, the same on both; `device` is the store looked at.
void store_is_as_the_hosts(const test::MakeStore& make) {
  const std::uint64_t seed = troupe::test::test_seed();
  std::mt19937_64 random(seed);
  const TableSpec spec = embedding_spec(4, Sgd{.learning_rate = 0.25F});
  const SlotSet all = SlotSet::all(spec.slots);
  const auto device = make(spec, all);
  const auto host = make_host_store(spec, all);
  bool cut = false;
  std::uint64_t cut_rows = 0;
  std::uint64_t device_at = 0, host_at = 0;
  RowBatch device_cut, host_cut;
  for (int turn = 0; turn < 400; ++turn) {
    CAPTURE(turn);
    auto keys = test::random_keys(random, 1 + random() % 200, 1500);
    if (random() % 8 == 0) keys.push_back(UINT64_MAX);
    switch (random() % 8) {
      case 0:
      case 1:
        REQUIRE(read_rows(*device, keys, IfMissing::kMake) == read_rows(*host, keys, IfMissing::kMake));
        break;
      case 2:
        REQUIRE(read_rows(*device, keys) == read_rows(*host, keys));
        break;
      case 3:
      case 4: {
        const std::set<std::uint64_t> distinct(keys.begin(), keys.end());
        keys.assign(distinct.begin(), distinct.end());
        // Powers of two: rounding cannot differ.
        std::vector<float> gradients(keys.size() * spec.dim);
        for (float& each : gradients) each = static_cast<float>(static_cast<int>(random() % 9) - 4) / 4;
        REQUIRE(device->update(keys, gradients.data(), 1).ok());  // nobody waits
        finished(host->update(keys, gradients.data(), 1));
        break;
      }
      case 5:
        REQUIRE(device->erase(keys).value() == host->erase(keys).value());
        break;
      case 6:
        if (cut || random() % 4 != 0) break;
        cut = true;
        cut_rows = host->open_cut().value();
        REQUIRE(device->open_cut().value() == cut_rows);
        device_cut.clear(), host_cut.clear();
        device_at = host_at = 0;
        break;
      default: {
        if (!cut) break;
        const std::uint64_t most = 1 + random() % 60;
        const ExtractPage device_page = device->read_cut(device_at, most, device_cut).value();
        const ExtractPage host_page = host->read_cut(host_at, most, host_cut).value();
        REQUIRE(device_page.rows <= most);
        device_at = device_page.next_cursor, host_at = host_page.next_cursor;
        if (!device_page.done || !host_page.done) break;
        cut = false;
        REQUIRE(device_cut.keys.size() == cut_rows);
        REQUIRE(test::by_key(device_cut, device->layout().bytes()) ==
                test::by_key(host_cut, host->layout().bytes()));
        device->close_cut();
        host->close_cut();
      }
    }
  }
  CHECK(device->erase(std::span<const std::uint64_t>()).value() ==
        0);  // which waits for all that is under way
  CHECK(device->rows() == host->rows());
  const std::size_t bytes = device->layout().bytes();
  CHECK(test::by_key(test::every_row(*device, all, 77), bytes) ==
        test::by_key(test::every_row(*host, all, 77), bytes));
}

TEST_CASE_TEMPLATE("whatever is done in whatever order, a device store has what the host's has", Where,
                   Threaded, Real) {
  Where at;
  if (!at.here()) return;
  store_is_as_the_hosts(maker(at.home));
}

// ---- Tiers --------------------------------------------------------------------------------------

/// So few rows near that they go to and fro.
test::MakeStore tiered_maker(const DeviceHome& home, std::uint64_t near_rows) {
  return [home, near_rows](const TableSpec& spec, const SlotSet& slots) {
    const std::uint64_t bytes = near_rows * spec.optimizer.layout(spec.weights, spec.dim).bytes();
    return make_tiered_stores(home, bytes)(spec, slots).value();
  };
}

TEST_CASE_TEMPLATE("a tiered store is a store, however few rows lie near", Where, Threaded, Real) {
  Where at;
  if (!at.here()) return;
  for (const std::uint64_t near_rows : {64U, 100'000U}) {
    CAPTURE(near_rows);
    const auto make = tiered_maker(at.home, near_rows);
    for (const TableSpec& spec : {specs()[1], specs()[5]}) {
      test::store_makes_and_shows(make, spec);
      test::store_takes_what_another_gave(make, spec);
      test::store_forgets(make, spec);
      test::store_evicts_the_unused(make, spec);
      test::store_cuts(make, spec);
    }
    test::store_steps_as_the_formula(make, embedding_spec(16, Adam{}));
    store_is_as_the_hosts(make);
  }
}

TEST_CASE_TEMPLATE("rows have their numbers in the order in which their keys first came", Where, Threaded,
                   Real) {
  Where at;
  if (!at.here()) return;
  at.home.piece_bytes = std::size_t{256} << 10;
  const TableSpec spec = embedding_spec(8);
  const auto store = maker(at.home)(spec, SlotSet::all(spec.slots));
  std::mt19937_64 random(3);
  std::vector<std::uint64_t> expected;
  std::set<std::uint64_t> seen;
  for (const std::size_t count : {1U, 255U, 256U, 257U, 5000U}) {
    const auto keys = test::random_keys(random, count, 4000);
    for (const std::uint64_t key : keys)
      if (seen.insert(key).second) expected.push_back(key);
    read_rows(*store, keys, IfMissing::kMake);
  }
  CHECK(store->rows() == expected.size());
  CHECK(test::every_row(*store, SlotSet::all(spec.slots), 1000).keys == expected);
}

TEST_CASE_TEMPLATE("rows go to memory that the device writes itself", Where, Threaded, Real) {
  Where at;
  if (!at.here()) return;
  const TableSpec spec = embedding_spec(16);
  const auto store = maker(at.home)(spec, SlotSet::all(spec.slots));
  std::vector<std::uint64_t> keys(100);
  for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = i;
  const std::vector<float> expected = read_rows(*store, keys, IfMissing::kMake);
  const Buffer pinned = store->memory_for(expected.size() * sizeof(float)).value();
  REQUIRE(pinned.device().kind == MemoryKind::kPinned);
  auto* const out = reinterpret_cast<float*>(pinned.data());
  finished(store->read(keys, IfMissing::kMake, {out, MemoryKind::kPinned}));
  CHECK(std::vector<float>(out, out + expected.size()) == expected);
  // Who was told last of a stream of one's own.
  Stream stream = at.home.gpu.make_stream().value();
  const Buffer device = at.home.memory->allocate(expected.size() * sizeof(float), stream).value();
  auto* const there = reinterpret_cast<float*>(device.data());
  REQUIRE(store->read(keys, IfMissing::kMake, {there, MemoryKind::kDevice}, &stream).ok());
  std::vector<float> back(expected.size());
  const Buffer landed = at.home.pinned->allocate(expected.size() * sizeof(float), stream).value();
  REQUIRE(stream.copy(landed.data(), there, landed.size()).ok());
  REQUIRE(stream.finish(std::chrono::seconds(60)).ok());
  std::memcpy(back.data(), landed.data(), landed.size());
  CHECK(back == expected);
}

TEST_CASE("a read that is under way ends on the loop, and what was asked for before comes before it") {
  Scripted at;
  at.script->goes_on = false;  // the test says when
  RealClock clock;
  Loop loop(clock);
  const Loop::Turn turn(loop);
  at.home.watch = std::make_shared<EventWatch>(loop);
  const TableSpec spec = embedding_spec(4, Sgd{.learning_rate = 1});
  at.script->goes_on = true;  // the first rows are waited for
  const auto store = maker(at.home)(spec, SlotSet::all(spec.slots));
  finished(store->make(std::vector<std::uint64_t>{1}));
  at.script->goes_on = false;
  const std::vector<std::uint64_t> keys = {1, 2, 3};
  std::vector<float> expected(keys.size() * spec.dim);
  finished(make_host_store(spec, SlotSet::all(spec.slots))->read(keys, IfMissing::kShow, expected.data()));
  for (float& each : expected) each -= 0.5F;
  const std::vector<float> gradients(keys.size() * spec.dim, 0.5F);
  REQUIRE(store->update(keys, gradients.data(), 1).ok());
  std::vector<float> out(keys.size() * spec.dim, -1);
  int told = 0;
  const Result<Completion> reading = store->read(keys, IfMissing::kMake, out.data());
  REQUIRE(reading.ok());
  reading->then([&](const Result<void>& outcome) { told += outcome.ok() ? 1 : 100; });
  CHECK(!reading->done());
  CHECK(store->rows() == 1);  // as far as is known
  CHECK(told == 0);
  at.script->run_all();
  CHECK(loop.wait_until([&] { return told > 0; }, loop.clock().now() + std::chrono::seconds(60)));
  CHECK(told == 1);
  CHECK(out == expected);
  CHECK(store->rows() == 3);
  at.home.watch = nullptr;  // which is the loop's
}

TEST_CASE("without memory for more rows those that are there are still read and stepped") {
  Threaded at;
  at.home.memory = std::make_shared<GpuPool>(
      at.home.gpu, GpuPoolOptions{.limit_bytes = std::size_t{128} << 10, .slab_bytes = 4096});
  const TableSpec spec = embedding_spec(16, Adagrad{});
  const auto store = maker(at.home)(spec, SlotSet::all(spec.slots));
  std::vector<std::uint64_t> there;
  Code code = Code::kOk;
  for (std::uint64_t key = 0; code == Code::kOk && key < 100'000; key += 10) {
    std::vector<std::uint64_t> keys(10);
    for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = key + i;
    const Result<Completion> made = store->make(keys);
    if (made) {
      there.insert(there.end(), keys.begin(), keys.end());
    } else {
      code = made.error().code;
    }
  }
  CHECK(code == Code::kResourceExhausted);
  REQUIRE(there.size() > 100);
  const std::vector<float> before = read_rows(*store, there, IfMissing::kMake);
  CHECK(store->rows() == there.size());
  const std::vector<float> ones(there.size() * spec.dim, 1.0F);
  finished(store->update(there, ones.data(), 1));
  CHECK(read_rows(*store, there) != before);
  // Of all or none: a batch with one new row too many changes none.
  const auto present = read_rows(*store, there);
  std::vector<std::uint64_t> more = there;
  for (std::uint64_t key = 0; key < 1000; ++key) more.push_back(1'000'000 + key);
  const std::vector<float> many(more.size() * spec.dim, 1.0F);
  CHECK(store->update(more, many.data(), 1).error().code == Code::kResourceExhausted);
  CHECK(read_rows(*store, there) == present);
  CHECK(store->rows() == there.size());
  // Erased rows make room.
  CHECK(store->erase(std::span(there).first(50)).value() == 50);
  std::vector<std::uint64_t> others(20);
  for (std::size_t i = 0; i < others.size(); ++i) others[i] = 2'000'000 + i;
  finished(store->make(others));
  CHECK(store->rows() == there.size() - 30);
}

TEST_CASE("an optimizer without a step for devices is refused for device tables, by name") {
  const Scripted at;
  OptimizerDef def = *builtin_optimizers().find("adam");
  def.name = "mine";
  def.device_step = nullptr;
  const TableSpec spec = embedding_spec(4, Optimizer(def));
  const auto refused = TableShard::create(spec, SlotSet::all(spec.slots), make_device_stores(at.home));
  REQUIRE(!refused.ok());
  CHECK(refused.error().code == Code::kInvalidArgument);
  CHECK(refused.error().message.find("'mine'") != std::string::npos);
  CHECK(refused.error().message.find("device_step") != std::string::npos);
}

TEST_CASE("a device that has failed is told by every operation") {
  Scripted at;
  const TableSpec spec = embedding_spec(4);
  const auto store = maker(at.home)(spec, SlotSet::all(spec.slots));
  std::vector<float> out(4, -1);
  const std::vector<std::uint64_t> key = {1};
  finished(store->make(key));
  at.script->goes_on = false;
  const Result<Completion> reading = store->read(key, IfMissing::kMake, out.data());
  REQUIRE(reading.ok());
  at.script->broken = Error{Code::kInternal, "the device is gone"};
  CHECK(reading->wait().error().code == Code::kInternal);
  CHECK(store->update(key, out.data(), 1).error().code == Code::kInternal);
  CHECK(store->erase(key).error().code == Code::kInternal);
  RowBatch rows;
  CHECK(store->extract(SlotSet::all(spec.slots), 0, 10, rows).error().code == Code::kInternal);
}

}  // namespace
}  // namespace troupe::shards
