// Rows of float16 and bfloat16 tables travel as they are kept, if their client wants it.
#include <algorithm>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include <troupe/shards/half.hpp>

#include "tables.hpp"

using namespace troupe;
using namespace troupe::test;

namespace {

shards::TableSpec half_spec(DType weights, bool dense) {
  shards::TableSpec spec;
  spec.name = std::string(to_string(weights)) + (dense ? "-dense" : "");
  spec.weights = weights;
  spec.dim = 24;
  spec.optimizer = shards::Adagrad{};
  spec.initializer = shards::Normal{0, 1};
  spec.slots = 64;
  if (dense) spec.set_shape({60'000, 24});
  return spec;
}

std::unique_ptr<TableClient> open_half(Node& node, const shards::TableSpec& spec,
                                       const std::vector<std::string>& servers, std::uint64_t worker,
                                       bool half_pulls, bool half_pushes) {
  auto client = TableClient::open(node, spec, servers,
                                  {.worker = worker, .half_pulls = half_pulls, .half_pushes = half_pushes});
  REQUIRE_MESSAGE(client.ok(), text_of(client));
  return std::move(*client);
}

/// Numbers that both types of two bytes have.
std::vector<float> short_numbers(std::mt19937_64& random, std::size_t count) {
  std::vector<float> numbers(count);
  for (float& number : numbers) number = static_cast<float>(static_cast<int>(random() % 33) - 16) / 8;
  return numbers;
}

std::vector<float> rows_of(TableClient& client, const std::vector<std::uint64_t>& keys) {
  std::vector<float> rows(keys.size() * client.spec().dim);
  const auto read = client.peek(keys, rows.data()).get();
  REQUIRE_MESSAGE(read.ok(), text_of(read));
  return rows;
}

}  // namespace

TEST_CASE("clients that send two bytes a number, and those that send four, see and make the same rows") {
  RealCluster cluster;
  const auto names = add_servers(cluster, 2);
  Node& node = cluster.add("worker");
  std::mt19937_64 random(17);
  for (const DType weights : {DType::kFloat16, DType::kBFloat16}) {
    for (const bool dense : {false, true}) {
      // The last is worked on in slices, and of a dense table it is a range.
      for (const std::size_t count : {std::size_t{1}, std::size_t{700}, std::size_t{60'000}}) {
        auto spec = half_spec(weights, dense);
        spec.name += "-" + std::to_string(count);
        CAPTURE(spec.name);
        auto twin = spec;
        twin.name += "-twin";
        const auto wide = open_half(node, spec, names, 1, false, false);
        const auto shown = open_half(node, spec, names, 2, true, false);
        const auto half = open_half(node, twin, names, 3, true, true);
        std::vector<std::uint64_t> keys(count);
        for (std::size_t i = 0; i < count; ++i) keys[i] = count > 700 ? i : i * 7919 % 59'999;
        const auto gradients = short_numbers(random, keys.size() * spec.dim);
        for (int round = 0; round < 2; ++round) {
          const auto pushed = wide->push(keys, gradients.data()).get();
          REQUIRE_MESSAGE(pushed.ok(), text_of(pushed));
          std::vector<float> pulled(keys.size() * spec.dim);
          const auto both = half->push_pull(keys, gradients.data(), {}, keys, pulled.data()).get();
          REQUIRE_MESSAGE(both.ok(), text_of(both));
          const auto expected = rows_of(*wide, keys);
          CHECK(pulled == expected);
          CHECK(rows_of(*half, keys) == expected);
          REQUIRE(shown->pull(keys, pulled.data()).get().ok());
          CHECK(pulled == expected);
        }
      }
    }
  }
}

TEST_CASE("a tensor of a table with rows of two bytes is pulled so, and pushed so") {
  RealCluster cluster;
  const auto names = add_servers(cluster, 2);
  Node& node = cluster.add("worker");
  const auto spec = half_spec(DType::kBFloat16, true);
  const auto half = open_half(node, spec, names, 1, true, true);
  const Tensor whole = Tensor::empty(DType::kFloat32, {60'000, 24});
  REQUIRE(half->pull_tensor(whole).get().ok());
  const auto before = whole.as<const float>();
  const Tensor gradients = Tensor::empty(DType::kFloat32, {60'000, 24});
  std::fill_n(gradients.as<float>().data(), gradients.elements(), 0.5F);
  REQUIRE(half->push_tensor(gradients).get().ok());
  const auto wide = open_half(node, spec, names, 2, false, false);
  const Tensor after = Tensor::empty(DType::kFloat32, {60'000, 24});
  REQUIRE(wide->peek_tensor(after).get().ok());
  for (std::size_t i = 0; i < before.size(); ++i) REQUIRE(after.as<const float>()[i] < before[i]);
}

TEST_CASE("a server answers in two bytes a number if that is asked for, and takes gradients so") {
  RealCluster cluster;
  const auto names = add_servers(cluster, 1);
  Node& node = cluster.add("worker");
  const auto spec = half_spec(DType::kFloat16, false);
  const auto client = open_half(node, spec, names, 1, false, false);
  const Tensor keys = Tensor::of<std::uint64_t>({1, 2, 3});
  const PullHead short_rows{.route = 0, .clock = {}, .as_kept = true};
  const auto pulled = node.rpc_sync<PullReply>("ps0", "pull", spec.name, keys, short_rows);
  REQUIRE_MESSAGE(pulled.ok(), text_of(pulled));
  CHECK(pulled->rows.dtype() == DType::kFloat16);
  CHECK(pulled->rows.bytes() == 3 * 24 * 2);
  const auto whole = node.rpc_sync<PullReply>("ps0", "pull", spec.name, keys, PullHead{});
  CHECK(whole.value().rows.dtype() == DType::kFloat32);
  std::vector<float> widened(3 * 24);
  shards::widen(DType::kFloat16, pulled->rows.data(), widened.size(), widened.data());
  CHECK(std::equal(widened.begin(), widened.end(), whole->rows.as<const float>().begin()));

  const Tensor gradients = Tensor::zeros(DType::kFloat16, {3, 24});
  const PushHead head{.clock = {7, 0}, .sequence = 1};
  const auto pushed = node.rpc_sync<PushReply>("ps0", "push", spec.name, keys, gradients, head);
  REQUIRE_MESSAGE(pushed.ok(), text_of(pushed));
  const Tensor others = Tensor::zeros(DType::kBFloat16, {3, 24});
  const auto refused = node.rpc_sync<PushReply>("ps0", "push", spec.name, keys, others, head);
  CHECK(code_of(refused) == Code::kInvalidArgument);
  CHECK(contains(text_of(refused), "float32 tensor, or one of the table's type"));
}

TEST_CASE("a gradient that float16 does not hold is refused by its key, and float32 carries it") {
  RealCluster cluster;
  const auto names = add_servers(cluster, 1);
  Node& node = cluster.add("worker");
  for (const bool dense : {false, true}) {
    const auto spec = half_spec(DType::kFloat16, dense);
    const auto half = open_half(node, spec, names, 1, true, true);
    const std::vector<std::uint64_t> keys{40, 41, 42};
    std::vector<float> gradients(3 * 24, 1);
    gradients[24 + 5] = -7e4F;
    const auto refused = half->push(keys, gradients.data()).get();
    CHECK(code_of(refused) == Code::kInvalidArgument);
    CHECK_MESSAGE(contains(text_of(refused), "gradient of key 41 is -70000"), text_of(refused));
    const auto wide = open_half(node, spec, names, 2, true, false);
    CHECK(wide->push(keys, gradients.data()).get().ok());
    const auto stats = node.rpc_sync<std::vector<TableStats>>("ps0", "stats").value();
    for (const TableStats& table : stats) CHECK(table.pushes == 1);
  }
}
