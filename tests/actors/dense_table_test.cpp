// Dense tables as tensors: ranges of rows in place of keys, whole or in slices of any shape.
#include <algorithm>
#include <numeric>
#include <random>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "support/temporary_folder.hpp"
#include "tables.hpp"

using namespace troupe;
using namespace troupe::test;

namespace {

using Extents = std::vector<std::int64_t>;

/// Steps that are exact in float32.
shards::TableSpec tensor_spec(const std::vector<std::uint64_t>& shape) {
  shards::TableSpec spec = exact_spec(shards::TableKind::kDense);
  spec.set_shape(shape);
  return spec;
}

/// As many slices of the table's tensor.
Tensor slices_of(const shards::TableSpec& spec, std::uint64_t slices, float value = 0) {
  const std::vector<std::uint64_t> shape = spec.tensor_shape();
  Extents extents(shape.begin(), shape.end());
  extents[0] = static_cast<std::int64_t>(slices);
  Tensor tensor = Tensor::empty(DType::kFloat32, Shape(extents));
  std::fill_n(tensor.as<float>().data(), tensor.elements(), value);
  return tensor;
}

std::vector<float> numbers_of(const Tensor& tensor) {
  const auto numbers = tensor.as<const float>();
  return {numbers.begin(), numbers.end()};
}

std::vector<float> whole(TableClient& client) {
  const Tensor out = slices_of(client.spec(), client.spec().tensor_shape()[0], -99);
  const auto read = client.peek_tensor(out).get();
  REQUIRE_MESSAGE(read.ok(), text_of(read));
  return numbers_of(out);
}

std::vector<std::uint64_t> range(std::uint64_t begin, std::uint64_t end) {
  std::vector<std::uint64_t> keys(end - begin);
  std::iota(keys.begin(), keys.end(), begin);
  return keys;
}

/// A server that looks at what is asked, and answers zeros.
struct Onlooker {
  std::vector<std::string> asked;
  shards::TableSpec spec;

  static void methods(rpc::Methods<Onlooker>& methods) {
    methods
        .add("open_table",
             [](Onlooker& self, const std::string& text, const std::vector<std::string>& servers) {
               self.spec = shards::TableSpec::from_json(text).value();
               return TableEntry{TableRoute::balanced(self.spec, servers), {1}};
             })
        .add("pull",
             [](Onlooker& self, const std::string&, const Tensor& keys, const PullHead&) {
               self.asked.push_back("pull " + keys.to_string());
               const auto rows = keys.rank() == 2
                                     ? static_cast<std::int64_t>(keys.as<const std::uint64_t>()[1])
                                     : keys.elements();
               return PullReply{
                   .rows = Tensor::zeros(DType::kFloat32, {rows, static_cast<std::int64_t>(self.spec.dim)}),
                   .generation = 1,
                   .route = {}};
             })
        .add("push",
             [](Onlooker& self, const std::string&, const Tensor& keys, const Tensor& gradients,
                const PushHead&) {
               self.asked.push_back("push " + keys.to_string() + " " + gradients.to_string());
               return PushReply{.generation = 1, .route = {}};
             })
        .add("asked", [](Onlooker& self) { return std::exchange(self.asked, {}); });
  }
};

}  // namespace

TEST_CASE_TEMPLATE("a tensor of any shape is pulled and pushed whole, in slices and by rows, on any servers",
                   Kind, TROUPE_CLUSTERS) {
  std::mt19937_64 random(20260607);
  for (const std::vector<std::uint64_t>& shape :
       {std::vector<std::uint64_t>{}, {1}, {9}, {40, 3}, {12, 2, 3, 2}, {3, 1, 5}}) {
    for (const std::uint32_t servers : {1, 3}) {
      CAPTURE(servers);
      Kind cluster;
      const auto names = add_servers(cluster, servers);
      const auto client = open_table(cluster.add("worker"), tensor_spec(shape), names, 1);
      const shards::TableSpec& spec = client->spec();
      const std::uint64_t slices = spec.tensor_shape()[0], numbers = spec.rows * spec.dim / slices;
      std::vector<float> model(spec.rows * spec.dim);
      for (int round = 0; round < 12; ++round) {
        const std::uint64_t first = random() % slices, count = 1 + random() % (slices - first);
        const Tensor out = slices_of(spec, count, -99), gradients = slices_of(spec, count);
        const auto pulled = client->pull_tensor(out, first).get();
        REQUIRE_MESSAGE(pulled.ok(), text_of(pulled));
        const auto begin = model.begin() + static_cast<std::ptrdiff_t>(first * numbers);
        REQUIRE(numbers_of(out) ==
                std::vector<float>(begin, begin + static_cast<std::ptrdiff_t>(count * numbers)));
        for (float& gradient : gradients.as<float>()) gradient = static_cast<float>(random() % 9) - 4;
        const auto pushed = client->push_tensor(gradients, first, *pulled).get();
        REQUIRE_MESSAGE(pushed.ok(), text_of(pushed));
        CHECK(pushed->applied);
        for (std::size_t i = 0; i < count * numbers; ++i)
          model[first * numbers + i] -= 0.25F * gradients.as<float>()[i];
        // The same rows, by number.
        const shards::RowRange rows{first * spec.rows_per_slice(), (first + count) * spec.rows_per_slice()};
        std::vector<float> by_row(rows.size() * spec.dim), by_key(by_row.size());
        REQUIRE(client->pull_rows(rows, by_row.data()).get().ok());
        REQUIRE(client->pull(range(rows.begin, rows.end), by_key.data()).get().ok());
        REQUIRE(by_row == std::vector<float>(begin, begin + static_cast<std::ptrdiff_t>(by_row.size())));
        REQUIRE(by_key == by_row);
        REQUIRE(client->push_rows(rows, by_row.data()).get().ok());
        for (std::size_t i = 0; i < by_row.size(); ++i) model[first * numbers + i] -= 0.25F * by_row[i];
      }
      CHECK(whole(*client) == model);
    }
  }
}

TEST_CASE("sixteen bytes a range go to a server, whatever the range, and keys where rows are scattered") {
  RealCluster cluster;
  REQUIRE(cluster.add("server").spawn<Onlooker>("ps0").ok());
  Node& node = cluster.add("worker");
  const auto client = open_table(node, tensor_spec({1000, 4}), {"ps0"}, 1);
  const auto asked = [&] { return node.rpc_sync<std::vector<std::string>>("ps0", "asked").value(); };
  const std::vector<float> gradients(4000);
  std::vector<float> rows(4000);
  using Asked = std::vector<std::string>;
  REQUIRE(client->pull_tensor(slices_of(client->spec(), 1000)).get().ok());
  CHECK(asked() == Asked{"pull uint64[1, 2]"});
  REQUIRE(client->push_tensor(slices_of(client->spec(), 10), 500).get().ok());
  CHECK(asked() == Asked{"push uint64[1, 2] float32[10, 4]"});
  REQUIRE(client->pull(range(0, 1000), rows.data()).get().ok());
  REQUIRE(client->push(range(7, 900), gradients.data()).get().ok());
  CHECK(asked() == Asked{"pull uint64[1, 2]", "push uint64[1, 2] float32[893, 4]"});
  REQUIRE(client->pull(std::vector<std::uint64_t>{5, 6, 8}, rows.data()).get().ok());
  REQUIRE(client->push(std::vector<std::uint64_t>{6, 5}, gradients.data()).get().ok());
  CHECK(asked() == Asked{"pull uint64[3]", "push uint64[2] float32[2, 4]"});
}

TEST_CASE_TEMPLATE("a range is pushed once, however often it is repeated, also over a way that is cut", Kind,
                   TROUPE_CLUSTERS) {
  Kind cluster;
  const auto names = add_servers(cluster, 2);
  Node& node = cluster.add("worker");
  const auto client = open_table(node, tensor_spec({20, 5}), names, 1);
  const Tensor ones = slices_of(client->spec(), 20, 1);
  const PushIdentity identity{77, 5};
  for (int repeat = 0; repeat < 3; ++repeat) {
    const auto pushed = client->push_tensor(ones, 0, {}, identity).get();
    REQUIRE_MESSAGE(pushed.ok(), text_of(pushed));
    CHECK(pushed->applied == (repeat == 0));
  }
  float expected = -0.25F;
  CHECK(whole(*client) == std::vector<float>(100, expected));
  if constexpr (std::is_same_v<Kind, SimCluster>) {
    for (int when_us = 0; when_us < 40; when_us += 4) {
      CAPTURE(when_us);
      auto pushed = client->push_tensor(ones);
      cluster.world.run_for(std::chrono::microseconds(when_us));
      cluster.world.set_partition("worker", "server-1", true);
      cluster.world.run_for(std::chrono::seconds(12));  // past the silence limit
      cluster.world.set_partition("worker", "server-1", false);
      const auto done = pushed.get();
      REQUIRE_MESSAGE(done.ok(), text_of(done));
      CHECK(done->applied);
      expected -= 0.25F;
      CHECK(whole(*client) == std::vector<float>(100, expected));
    }
    CHECK(stats_of(node, "ps1").repeated_pushes > 2);  // of some only the answer was lost
    CHECK(stats_of(node, "ps1").pushes == 11);
  }
}

TEST_CASE_TEMPLATE("ranges and tensors that cannot be are refused by name, and nothing is changed", Kind,
                   TROUPE_CLUSTERS) {
  Kind cluster;
  const auto names = add_servers(cluster, 2);
  Node& node = cluster.add("worker");
  const auto client = open_table(node, tensor_spec({20, 2, 3}), names, 1);
  const auto refused = [&](auto future, const std::string& why) {
    const auto result = future.get();
    CHECK(code_of(result) == Code::kInvalidArgument);
    CHECK_MESSAGE(contains(text_of(result), why), text_of(result));
  };
  const auto tensor = [](DType dtype, const Extents& extents) {
    return Tensor::zeros(dtype, Shape(extents));
  };
  std::vector<float> rows(21 * 6);
  refused(client->pull_rows({0, 21}, rows.data()), "out of range, it has 20 rows");
  refused(client->peek_rows({5, 5}, rows.data()), "are none");
  refused(client->push_rows({9, 3}, rows.data()), "are none");
  refused(client->push_rows({UINT64_MAX, 3}, rows.data()), "are none");
  refused(client->pull_tensor(tensor(DType::kFloat32, {3, 2, 3}), 18), "3 slices from 18 on are not in");
  refused(client->pull_tensor(tensor(DType::kFloat32, {1, 2, 3}), UINT64_MAX),
          "are not in its tensor [20, 2, 3]");
  refused(client->peek_tensor(tensor(DType::kFloat32, {0, 2, 3})), "0 slices");
  refused(client->pull_tensor(tensor(DType::kFloat32, {2, 3})), "float32[2, 2, 3]");
  refused(client->push_tensor(tensor(DType::kFloat32, {2, 6})), "not float32[2, 6]");
  refused(client->push_tensor(tensor(DType::kFloat16, {2, 2, 3})), "not float16[2, 2, 3]");
  refused(client->pull_tensor(tensor(DType::kFloat64, {2, 2, 3})), "not float64[2, 2, 3]");
  const Tensor base = tensor(DType::kFloat32, {2, 3, 2});
  const Tensor turned(DType::kFloat32, Shape{2, 2, 3}, Shape{6, 1, 2}, base.buffer(), 0);
  refused(client->pull_tensor(turned), "is to be contiguous");
  CHECK(client->push_tensor(turned).get().ok());  // what is only read may lie as it likes

  // What a client would not send. ps0 has rows 0 to 9.
  const auto ranges = [](const std::vector<std::uint64_t>& numbers) {
    return Tensor::of<std::uint64_t>(numbers).reshape({static_cast<std::int64_t>(numbers.size() / 2), 2});
  };
  const auto ones = [](std::int64_t count) {
    Tensor gradients = Tensor::empty(DType::kFloat32, {count, 6});
    std::fill_n(gradients.as<float>().data(), gradients.elements(), 1.0F);
    return gradients;
  };
  std::uint64_t sequence = 0;
  const auto sent = [&](const Tensor& keys, std::int64_t count, Code code, const std::string& why) {
    CAPTURE(why);
    const Tensor gradients = ones(count);
    const PushHead head{.clock = {9, 0}, .sequence = ++sequence};
    const auto pushed = node.rpc_sync<PushReply>("ps0", "push", "table", keys, gradients, head);
    CHECK(code_of(pushed) == code);
    CHECK_MESSAGE(contains(text_of(pushed), why), text_of(pushed));
    const auto both =
        node.rpc_sync<PushPullReply>("ps0", "push_pull", "table", keys, gradients, head, ranges({0, 1}));
    CHECK(code_of(both) == code);
  };
  const auto read = [&](const Tensor& keys, Code code, const std::string& why) {
    CAPTURE(why);
    for (const std::string method : {"pull", "peek"}) {
      const auto got = node.rpc_sync<PullReply>("ps0", method, "table", keys, PullHead{});
      CHECK(code_of(got) == code);
      CHECK_MESSAGE(contains(text_of(got), why), text_of(got));
    }
    const PushHead head{.clock = {9, 0}, .sequence = ++sequence};
    const auto both =
        node.rpc_sync<PushPullReply>("ps0", "push_pull", "table", ranges({0, 1}), ones(1), head, keys);
    CHECK(code_of(both) == code);
  };
  constexpr std::uint64_t kHuge = std::uint64_t{1} << 63;
  struct Bad {
    std::vector<std::uint64_t> ranges;
    Code code;
    std::string why;
  };
  for (const Bad& bad :
       {Bad{{0, 21}, Code::kInvalidArgument, "out of range"}, Bad{{0, 0}, Code::kInvalidArgument, "are none"},
        Bad{{UINT64_MAX, 2}, Code::kInvalidArgument, "more than can be"},
        Bad{{2, UINT64_MAX}, Code::kInvalidArgument, "more than can be"},
        Bad{{0, kHuge, 0, kHuge}, Code::kInvalidArgument, "out of range"},
        Bad{{0, 5, 3, 2}, Code::kInvalidArgument, "in two of them"},
        Bad{{5, 2, 0, 2}, Code::kInvalidArgument, "are to ascend"},
        Bad{{0, 11}, Code::kFailedPrecondition, "key 10 lies in slot"},
        Bad{{0, 1, 12, 3}, Code::kFailedPrecondition, "key 12 lies in slot"}}) {
    sent(ranges(bad.ranges), 2, bad.code == Code::kFailedPrecondition ? Code::kInvalidArgument : bad.code,
         bad.code == Code::kFailedPrecondition ? "gradient numbers" : bad.why);
    read(ranges(bad.ranges), bad.code, bad.why);
  }
  sent(ranges({0, 11}), 11, Code::kFailedPrecondition, "key 10 lies in slot");
  sent(ranges({0, 2, 4, 1}), 2, Code::kInvalidArgument, "3 keys of dimension 6 came with 12");
  const Tensor three = tensor(DType::kUInt64, {2, 3}), wrong = tensor(DType::kInt64, {1, 2});
  sent(three, 1, Code::kInvalidArgument, "[ranges, 2], not uint64[2, 3]");
  read(wrong, Code::kInvalidArgument, "not int64[1, 2]");
  std::vector<float> expected(120);
  CHECK(whole(*client) == expected);
  CHECK(stats_of(node, "ps0").pushes == 1);  // `turned`, of zeros
  const auto good = node.rpc_sync<PullReply>("ps0", "pull", "table", ranges({0, 2, 5, 5}), PullHead{});
  REQUIRE_MESSAGE(good.ok(), text_of(good));
  CHECK(good->rows.shape() == Shape{7, 6});
}

TEST_CASE("an embedding table has no ranges, neither here nor there") {
  RealCluster cluster;
  const auto names = add_servers(cluster, 1);
  Node& node = cluster.add("worker");
  const auto client = open_table(node, exact_spec(shards::TableKind::kEmbedding), names, 1);
  std::vector<float> rows(10);
  CHECK(code_of(client->pull_rows({0, 2}, rows.data()).get()) == Code::kInvalidArgument);
  CHECK(code_of(client->push_rows({0, 2}, rows.data()).get()) == Code::kInvalidArgument);
  CHECK(code_of(client->pull_tensor(Tensor::zeros(DType::kFloat32, {2, 5})).get()) == Code::kInvalidArgument);
  const Tensor keys = Tensor::of<std::uint64_t>({0, 2}).reshape({1, 2});
  const auto pulled = node.rpc_sync<PullReply>("ps0", "pull", "table", keys, PullHead{});
  CHECK(code_of(pulled) == Code::kInvalidArgument);
  CHECK(contains(text_of(pulled), "it is not dense"));
  // A list of keys that follow each other is a list there.
  REQUIRE(client->pull(range(0, 2), rows.data()).get().ok());
  CHECK(stats_of(node, "ps0").rows == 2);
}

TEST_CASE_TEMPLATE("large ranges are worked on in slices: others are answered, and nobody sees a half of one",
                   Kind, TROUPE_REAL_CLUSTERS) {
  Kind cluster;
  const auto names = add_servers(cluster, 2);
  Node& node = cluster.add("worker");
  Node& other = cluster.add("other");
  const auto spec = tensor_spec({200'000, 4, 8});  // 25 MB
  const auto client = open_table(node, spec, names, 1), second = open_table(other, spec, names, 2);
  const Tensor ones = slices_of(spec, 200'000, 1), out = slices_of(spec, 200'000, -99);
  std::vector<float> few(2 * 32);
  for (int round = 1; round <= 3; ++round) {
    auto pushed = client->push_tensor(ones);
    // The first and the last row of the first server, which the push steps far from each other.
    for (bool over = false; !over;) {
      over = pushed.ready();
      const std::vector<std::uint64_t> ends{0, 99'999};
      REQUIRE(second->pull(ends, few.data()).get().ok());
      REQUIRE(few.front() == few.back());
    }
    const auto done = pushed.get();
    REQUIRE_MESSAGE(done.ok(), text_of(done));
    const auto pulled = client->pull_tensor(out).get();
    REQUIRE_MESSAGE(pulled.ok(), text_of(pulled));
    const float expected = -0.25F * static_cast<float>(round);
    const auto numbers = out.as<const float>();
    CHECK(std::all_of(numbers.begin(), numbers.end(), [&](float number) { return number == expected; }));
  }
  // One call for ranges of gigabytes, and one that is in slices at the server.
  const auto ranges = [](std::uint64_t count) {
    return Tensor::of<std::uint64_t>({0, count}).reshape({1, 2});
  };
  const auto large = node.rpc_sync<PullReply>("ps0", "pull", "table", ranges(100'000), PullHead{});
  REQUIRE_MESSAGE(large.ok(), text_of(large));
  CHECK(large->rows.shape() == Shape{100'000, 32});
  CHECK(large->rows.template as<const float>()[99'999 * 32] == -0.75F);
}

TEST_CASE("a server does not answer more rows for a range than a client asks for at once") {
  RealCluster cluster;
  const auto names = add_servers(cluster, 1);
  Node& node = cluster.add("worker");
  shards::TableSpec spec = tensor_spec({20, 1U << 20});  // 80 MiB
  const auto client = open_table(node, spec, names, 1);
  const auto pull = [&](std::uint64_t count) {
    const Tensor keys = Tensor::of<std::uint64_t>({0, count}).reshape({1, 2});
    return node.rpc_sync<PullReply>("ps0", "pull", "table", keys, PullHead{});
  };
  const auto refused = pull(17);
  CHECK(code_of(refused) == Code::kResourceExhausted);
  CHECK(contains(text_of(refused), "ask for 64 MiB at a time"));
  CHECK(pull(16).ok());
  CHECK(whole(*client) == std::vector<float>(std::size_t{20} << 20));
}

TEST_CASE_TEMPLATE("a tensor is restored on another number of servers", Kind, TROUPE_REAL_CLUSTERS) {
  const TemporaryFolder folder;
  const auto spec = tensor_spec({50, 3, 2});
  std::vector<float> model(300);
  std::uint32_t servers = 3;
  for (int life = 0; life < 3; ++life, servers = 5 - servers) {
    Kind cluster;
    const auto names = add_servers(cluster, servers);
    Node& node = cluster.add("worker");
    std::uint64_t rows = 0;
    for (const auto& name : names) {
      if (life == 0) break;
      REQUIRE(node.wait_for_actor(name, kPatience).ok());
      const auto loaded = node.rpc_sync<std::uint64_t>(name, "restore", (folder.path() / "a").string());
      REQUIRE_MESSAGE(loaded.ok(), text_of(loaded));
      rows += *loaded;
    }
    if (life > 0) CHECK(rows == 50);
    const auto client = open_table(node, spec, names, static_cast<std::uint64_t>(life) + 1);
    CHECK(whole(*client) == model);
    const Tensor gradients = slices_of(spec, 30, static_cast<float>(life + 1));
    REQUIRE(client->push_tensor(gradients, 10 + static_cast<std::uint64_t>(life)).get().ok());
    for (std::size_t i = 0; i < 180; ++i)
      model[(10 + static_cast<std::size_t>(life)) * 6 + i] -= 0.25F * static_cast<float>(life + 1);
    CHECK(whole(*client) == model);
    save(node, spec, names, folder.path() / "a");
  }
}

TEST_CASE("a range that was split by an older route finds its rows where the new one says") {
  const TemporaryFolder folder;
  RealCluster cluster;
  const auto names = add_servers(cluster, 2);
  Node& third = cluster.add("server-2", "server");
  REQUIRE(third.spawn<ShardServer>("ps2", 1U, 2U, third).ok());
  Node& node = cluster.add("worker");
  REQUIRE(node.wait_for_actor("ps2", kPatience).ok());
  const auto spec = tensor_spec({60, 2, 2});
  const auto client = open_table(node, spec, names, 1);
  const Tensor ones = slices_of(spec, 60, 1);
  REQUIRE(client->push_tensor(ones).get().ok());
  save(node, spec, names, folder.path() / "a");
  REQUIRE(node.rpc_sync<std::uint64_t>("ps2", "restore", (folder.path() / "a").string()).ok());
  auto route = node.rpc_sync<TableRoute>("ps0", "route", spec.name);
  REQUIRE_MESSAGE(route.ok(), text_of(route));
  route->version = 2;
  route->servers = {"ps0", "ps2"};
  REQUIRE(node.rpc_sync<void>("ps0", "change_route", spec.name, *route).ok());
  SUBCASE("pull") {
    const Tensor out = slices_of(spec, 50, -99);
    const auto pulled = client->pull_tensor(out, 5).get();
    REQUIRE_MESSAGE(pulled.ok(), text_of(pulled));
    CHECK(numbers_of(out) == std::vector<float>(200, -0.25F));
  }
  SUBCASE("push, and its repeat") {
    const PushIdentity identity{50, 1};
    for (int repeat = 0; repeat < 2; ++repeat) {
      const auto pushed = client->push_tensor(ones, 0, {}, identity).get();
      REQUIRE_MESSAGE(pushed.ok(), text_of(pushed));
      CHECK(pushed->applied == (repeat == 0));
    }
    CHECK(whole(*client) == std::vector<float>(240, -0.5F));
    CHECK(stats_of(node, "ps1").pushes == 1);
  }
}

TEST_CASE("rows of a shard in several places are pushed in one call, and so exactly once") {
  const TemporaryFolder folder;
  RealCluster cluster;
  const auto names = add_servers(cluster, 1);
  Node& second = cluster.add("server-1", "server");
  REQUIRE(second.spawn<ShardServer>("ps1", 0U, 1U, second).ok());
  Node& node = cluster.add("worker");
  REQUIRE(node.wait_for_actor("ps1", kPatience).ok());
  const auto spec = tensor_spec({64, 3});  // a slot is a row
  const auto client = open_table(node, spec, names, 1);
  REQUIRE(client->push_tensor(slices_of(spec, 64, 1)).get().ok());
  save(node, spec, names, folder.path() / "a");
  REQUIRE(node.rpc_sync<std::uint64_t>("ps1", "restore", (folder.path() / "a").string()).ok());
  TableRoute route{2, {"ps0", "ps1"}, {}};
  for (std::uint32_t slot = 0; slot < spec.slots; ++slot) route.owners.push_back(slot / 4 % 2);
  const auto changed = node.rpc_sync<void>("ps0", "change_route", spec.name, route);
  REQUIRE_MESSAGE(changed.ok(), text_of(changed));

  const Tensor gradients = slices_of(spec, 64);
  std::vector<float> expected(192);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const std::size_t row = i / 3;
    gradients.as<float>()[i] = static_cast<float>(row);
    expected[i] = -0.25F - 0.25F * static_cast<float>(row);
  }
  const PushIdentity identity{50, 1};
  for (int repeat = 0; repeat < 2; ++repeat) {
    const auto pushed = client->push_tensor(gradients, 0, {}, identity).get();
    REQUIRE_MESSAGE(pushed.ok(), text_of(pushed));
    CHECK(pushed->applied == (repeat == 0));
    CHECK(whole(*client) == expected);
  }
  CHECK(stats_of(node, "ps0").pushed_keys == 64 + 32);
  CHECK(stats_of(node, "ps1").pushed_keys == 32);
  const Tensor out = slices_of(spec, 50, -99);
  REQUIRE(client->pull_tensor(out, 7).get().ok());
  CHECK(numbers_of(out) == std::vector<float>(expected.begin() + 21, expected.begin() + 171));
}
