// Large requests for rows do not hold up a server's loop, nor is a half of them seen.
#include <algorithm>
#include <atomic>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include <troupe/runtime/timer.hpp>

#include "support/temporary_folder.hpp"
#include "tables.hpp"

using namespace troupe;
using namespace troupe::test;

namespace {

/// The longest time between two rounds of a node's loop, by a timer that is due in each.
class LongestRound final : public TimerNode {
 public:
  explicit LongestRound(Node& node) : loop_(node.loop()) {
    Loop::Turn turn(loop_);
    last_ = loop_.clock().now();
    loop_.schedule_after(*this, Duration(0));
  }
  ~LongestRound() override {
    Loop::Turn turn(loop_);
    loop_.cancel(*this);
  }
  LongestRound(const LongestRound&) = delete;
  LongestRound& operator=(const LongestRound&) = delete;
  void on_timer() override {
    const TimePoint now = loop_.clock().now();
    longest_ = std::max(longest_, now - last_);
    last_ = now;
    loop_.schedule_after(*this, std::chrono::microseconds(200));
  }
  double ms() {
    Loop::Turn turn(loop_);
    return static_cast<double>(std::chrono::duration_cast<std::chrono::microseconds>(longest_).count()) /
           1000;
  }

 private:
  Loop& loop_;
  TimePoint last_;
  Duration longest_{0};
};

shards::TableSpec spec_of(std::uint64_t dim) {
  shards::TableSpec spec;
  spec.name = "table";
  spec.dim = dim;
  spec.optimizer = shards::Adagrad{};
  spec.initializer = shards::Normal{0, 1};
  return spec;
}

std::vector<std::uint64_t> range(std::uint64_t count) {
  std::vector<std::uint64_t> keys(count);
  std::iota(keys.begin(), keys.end(), 0);
  return keys;
}

Tensor tensor_of(const std::vector<std::uint64_t>& keys) {
  return Tensor::of<std::uint64_t>(keys);
}

/// Rows on the host, and how many were worked on at once at most.
class CountingStore final : public shards::RowStore {
 public:
  CountingStore(std::unique_ptr<shards::RowStore> rows, std::shared_ptr<std::atomic<std::size_t>> most)
      : rows_(std::move(rows)), most_(std::move(most)) {}
  const shards::RowLayout& layout() const override { return rows_->layout(); }
  std::uint64_t rows() const override { return rows_->rows(); }
  std::uint64_t bytes() const override { return rows_->bytes(); }
  Result<shards::Completion> read(const shards::RowKeys& keys, shards::IfMissing missing, shards::RowsOut out,
                                  Stream* stream) override {
    count(keys);
    return rows_->read(keys, missing, out, stream);
  }
  Result<shards::Completion> make(const shards::RowKeys& keys, Stream* stream) override {
    count(keys);
    return rows_->make(keys, stream);
  }
  Result<shards::Completion> update(const shards::RowKeys& keys, const float* gradients, float scale,
                                    Stream* stream) override {
    count(keys);
    return rows_->update(keys, gradients, scale, stream);
  }
  Result<shards::Completion> insert(const shards::RowBatch& rows, Stream* stream) override {
    return rows_->insert(rows, stream);
  }
  Result<void> copy(std::span<const std::uint64_t> keys, shards::RowBatch& into) override {
    return rows_->copy(keys, into);
  }
  Result<shards::ExtractPage> extract(const shards::SlotSet& slots, std::uint64_t cursor, std::uint64_t most,
                                      shards::RowBatch& into) const override {
    return rows_->extract(slots, cursor, most, into);
  }
  Result<std::uint64_t> erase(std::span<const std::uint64_t> keys) override { return rows_->erase(keys); }
  Result<std::uint64_t> erase(const shards::SlotSet& slots) override { return rows_->erase(slots); }
  Result<std::uint64_t> evict(std::uint64_t most) override { return rows_->evict(most); }
  Result<std::uint64_t> open_cut() override { return rows_->open_cut(); }
  Result<shards::ExtractPage> read_cut(std::uint64_t cursor, std::uint64_t most,
                                       shards::RowBatch& into) override {
    return rows_->read_cut(cursor, most, into);
  }
  void close_cut() override { rows_->close_cut(); }

 private:
  void count(const shards::RowKeys& keys) {
    if (keys.size() > *most_) *most_ = keys.size();
  }
  std::unique_ptr<shards::RowStore> rows_;
  std::shared_ptr<std::atomic<std::size_t>> most_;
};

}  // namespace

TEST_CASE("a large push for a round is kept, and its step made, in slices") {
  const auto most = std::make_shared<std::atomic<std::size_t>>(0);
  RealCluster cluster;
  Node& server = cluster.add("server-0", "server");
  const auto store = [most](const shards::TableSpec& spec,
                            const shards::SlotSet& slots) -> Result<std::unique_ptr<shards::RowStore>> {
    return std::make_unique<CountingStore>(shards::make_host_store(spec, slots), most);
  };
  REQUIRE(server.spawn<ShardServer>("ps0", 0U, 1U, server, shards::builtin_optimizers(), store).ok());
  Node& node = cluster.add("worker");
  for (const bool dense : {false, true}) {
    auto spec = exact_spec(dense ? shards::TableKind::kDense : shards::TableKind::kEmbedding);
    spec.name = dense ? "dense" : "embedding";
    spec.dim = 32;
    if (dense) spec.rows = 100'000;
    spec.consistency = shards::Synchronous{};
    const auto first = open_table(node, spec, {"ps0"}, 1), second = open_table(node, spec, {"ps0"}, 2);
    REQUIRE(first->join().ok());
    REQUIRE(second->join().ok());
    const auto keys = range(100'000);  // 13 MB
    const std::vector<float> ones(keys.size() * spec.dim, 1), threes(keys.size() * spec.dim, 3);
    *most = 0;
    auto one = first->push(keys, ones.data()), other = second->push(keys, threes.data());
    const auto done = one.get();
    REQUIRE_MESSAGE(done.ok(), text_of(done));
    REQUIRE(other.get().ok());
    CHECK(done->applied);
    CHECK(*most <= 16'384);  // rows at once; 8,192 are a megabyte of these
    CHECK(*most > 0);
    std::vector<float> rows(keys.size() * spec.dim);
    REQUIRE(first->peek(keys, rows.data()).get().ok());
    CHECK(std::all_of(rows.begin(), rows.end(), [](float row) { return row == -0.5F; }));
  }
}

TEST_CASE("a large push and a large pull hold up a server's loop for a short time only") {
#ifdef TROUPE_SANITIZER
  constexpr std::uint64_t kKeys = 50'000;
#else
  constexpr std::uint64_t kKeys = 200'000;  // 51 MB of gradients
#endif
  RealCluster cluster;
  const auto names = add_servers(cluster, 1);
  const auto client = open_table(cluster.add("worker"), spec_of(64), names, 1);
  const auto keys = range(kKeys);
  std::vector<float> rows(keys.size() * 64, 0.5F);
  LongestRound longest(cluster["server-0"]);
  const auto pushed = client->push(keys, rows.data()).get();
  REQUIRE_MESSAGE(pushed.ok(), text_of(pushed));
  const double push_ms = longest.ms();
  const auto pulled = client->pull(keys, rows.data()).get();
  REQUIRE_MESSAGE(pulled.ok(), text_of(pulled));
  MESSAGE("longest round: ", push_ms, " ms with a push, ", longest.ms(), " ms with a pull, too, of ", kKeys,
          " keys");
  CHECK(longest.ms() < 500);  // a tenth of the silence limit
  CHECK(pushed->applied);
}

TEST_CASE_TEMPLATE("a server answers others while it works on a large push, and nobody sees a half of it",
                   Kind, TROUPE_REAL_CLUSTERS) {
  Kind cluster;
  const auto names = add_servers(cluster, 1);
  Node& node = cluster.add("worker");
  Node& other = cluster.add("other");
  auto spec = exact_spec(shards::TableKind::kEmbedding);
  spec.dim = 32;
  const auto client = open_table(node, spec, names, 1), second = open_table(other, spec, names, 2);
  auto small = spec;
  small.name = "small";
  const auto aside = open_table(other, small, names, 2);
  const auto keys = range(200'000);  // 25 MB
  const std::vector<float> ones(keys.size() * spec.dim, 1);
  std::vector<float> few(2 * spec.dim);
  int answered = 0;
  for (int round = 1; round <= 3; ++round) {
    auto pushed = client->push(keys, ones.data());
    // The first and the last row, which the push steps far from each other.
    for (bool over = false; !over;) {
      over = pushed.ready();
      const std::vector<std::uint64_t> ends{keys.front(), keys.back()};
      REQUIRE(second->pull(ends, few.data()).get().ok());
      REQUIRE(few.front() == few.back());
      REQUIRE(aside->pull(ends, few.data()).get().ok());
      answered += over ? 0 : 1;
    }
    const auto done = pushed.get();
    REQUIRE_MESSAGE(done.ok(), text_of(done));
    CHECK(done->applied);
    std::vector<float> rows(keys.size() * spec.dim);
    REQUIRE(client->peek(keys, rows.data()).get().ok());
    const float expected = -0.25F * static_cast<float>(round);
    CHECK(std::all_of(rows.begin(), rows.end(), [&](float row) { return row == expected; }));
  }
  CHECK(answered > 0);
}

TEST_CASE("a checkpoint that is asked for in the middle of a large push has all of it") {
  const TemporaryFolder folder;
  RealCluster cluster;
  const auto names = add_servers(cluster, 1);
  Node& node = cluster.add("worker");
  auto spec = exact_spec(shards::TableKind::kEmbedding);
  spec.dim = 32;
  const auto client = open_table(node, spec, names, 1);
  const auto keys = range(200'000);
  const std::vector<float> ones(keys.size() * spec.dim, 1);
  auto pushed = client->push(keys, ones.data());
  save(node, spec, names, folder.path() / "a");
  REQUIRE(pushed.get().ok());
  const auto manifest = shards::read_manifest(folder.path() / "a").value();
  auto into = shards::TableShard::create(spec).value();
  const auto loaded = shards::load_rows(folder.path() / "a", manifest, "table", into);
  REQUIRE_MESSAGE(loaded.ok(), text_of(loaded));
  std::vector<float> rows(keys.size() * spec.dim);
  REQUIRE(into.peek(keys, rows.data()).ok());
  // All or nothing; which of them, the messages' order decides.
  CHECK(std::all_of(rows.begin(), rows.end(), [&](float row) { return row == rows.front(); }));
}

TEST_CASE("large requests of others than a TableClient are worked on, and refused, like small ones") {
  RealCluster cluster;
  const auto names = add_servers(cluster, 1);
  Node& node = cluster.add("worker");
  auto spec = exact_spec(shards::TableKind::kEmbedding);
  spec.dim = 32;
  const auto client = open_table(node, spec, names, 1);
  const auto keys = range(100'000);
  std::vector<std::uint64_t> twice = keys;
  twice.insert(twice.end(), keys.begin(), keys.end());  // each key twice, far apart
  const Tensor gradients = Tensor::zeros(DType::kFloat32, {200'000, 32});
  std::fill_n(gradients.as<float>().data(), gradients.elements(), 1.0F);
  const PushHead head{.clock = {7, 0}, .sequence = 1};
  const auto both = node.rpc_sync<PushPullReply>("ps0", "push_pull", "table", tensor_of(twice), gradients,
                                                 head, tensor_of(keys));
  REQUIRE_MESSAGE(both.ok(), text_of(both));
  CHECK(both->push.outcome == PushOutcome::kApplied);
  const auto rows = both->pull.rows.as<const float>();
  REQUIRE(rows.size() == keys.size() * 32);
  CHECK(std::all_of(rows.begin(), rows.end(), [](float row) { return row == -0.5F; }));
  const auto again = node.rpc_sync<PushReply>("ps0", "push", "table", tensor_of(twice), gradients, head);
  CHECK(again.value().outcome == PushOutcome::kRepeated);
  const auto pulled = node.rpc_sync<PullReply>("ps0", "pull", "table", tensor_of(keys), PullHead{});
  REQUIRE_MESSAGE(pulled.ok(), text_of(pulled));
  CHECK(pulled->rows.as<const float>()[99'999 * 32] == -0.5F);
  const auto peeked = node.rpc_sync<PullReply>("ps0", "peek", "table", tensor_of(keys), PullHead{});
  CHECK(peeked.value().rows.as<const float>()[0] == -0.5F);

  gradients.as<float>()[5'000'000] = 3e15F;
  PushHead next = head;
  next.sequence = 2;
  const auto refused = node.rpc_sync<PushReply>("ps0", "push", "table", tensor_of(twice), gradients, next);
  CHECK(code_of(refused) == Code::kInvalidArgument);
  CHECK(contains(text_of(refused), "3e+15 in column"));
  const auto no_keys = node.rpc_sync<PushReply>("ps0", "push", "table", gradients, gradients, next);
  CHECK(code_of(no_keys) == Code::kInvalidArgument);
  const auto stats = node.rpc_sync<std::vector<TableStats>>("ps0", "stats").value();
  CHECK(stats[0].pushes == 1);
  CHECK(stats[0].repeated_pushes == 1);
  CHECK(stats[0].pulls == 2);
}
