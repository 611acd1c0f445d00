// table serve INDEX COUNT ADDRESS: one of COUNT shard servers; number 0 keeps the registry at ADDRESS.
// table train COUNT ADDRESS: moves the rows of four keys towards 1.
#include <array>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include <troupe/actors/node.hpp>
#include <troupe/actors/shard_server.hpp>
#include <troupe/actors/table_client.hpp>

using namespace troupe;

int fail(const Error& error) {
  std::fprintf(stderr, "%s\n", error.to_string().c_str());
  return 1;
}

int serve(std::uint32_t index, std::uint32_t count, const std::string& address) {
  const std::string name = "ps-" + std::to_string(index);
  NodeOptions options{.name = name, .role = "server"};
  (index == 0 ? options.listen : options.registry) = address;
  auto node = Node::start(options);
  if (!node) return fail(node.error());
  if (auto made = (*node)->spawn<ShardServer>(name, index, count, **node); !made) return fail(made.error());
  std::printf("%s serves\n", name.c_str());
  std::fflush(stdout);
  (void)(*node)->run();
  return 0;
}

Result<void> train(Node& node, std::uint32_t count) {
  std::vector<std::string> servers;
  for (std::uint32_t i = 0; i < count; ++i) {
    servers.push_back("ps-" + std::to_string(i));
    if (auto there = node.wait_for_actor(servers.back(), std::chrono::seconds(10)); !there) return there;
  }
  shards::TableSpec spec;
  spec.name = "words";
  spec.dim = 2;
  spec.optimizer = shards::Adagrad{.learning_rate = 0.5F};
  auto table = TableClient::open(node, spec, servers);
  if (!table) return table.error();

  const std::array<std::uint64_t, 4> keys{7, 42, 1'000'000'007, 7'000'000'000'000};
  std::array<float, 8> rows{}, gradients{};
  for (int step = 0; step < 20; ++step) {
    auto versions = (*table)->pull(keys, rows.data()).get();
    if (!versions) return versions.error();
    for (std::size_t i = 0; i < rows.size(); ++i) gradients[i] = rows[i] - 1;  // of (row - 1)^2 / 2
    auto pushed = (*table)->push(keys, gradients.data(), *versions).get();
    if (!pushed) return pushed.error();
  }
  auto read = (*table)->pull(keys, rows.data()).get();
  if (!read) return read.error();
  for (std::size_t i = 0; i < keys.size(); ++i)
    std::printf("%llu: %.3f %.3f\n", static_cast<unsigned long long>(keys[i]), rows[2 * i], rows[2 * i + 1]);
  return {};
}

int run(int argc, char** argv) {
  const std::string command = argc > 3 ? argv[1] : "";
  if (command == "serve" && argc > 4)
    return serve(static_cast<std::uint32_t>(std::stoul(argv[2])),
                 static_cast<std::uint32_t>(std::stoul(argv[3])), argv[4]);
  if (command == "train") {
    auto node = Node::start({.name = "trainer", .registry = argv[3]});
    if (!node) return fail(node.error());
    auto trained = train(**node, static_cast<std::uint32_t>(std::stoul(argv[2])));
    return trained ? 0 : fail(trained.error());
  }
  std::fprintf(stderr, "usage: table serve INDEX COUNT ADDRESS | table train COUNT ADDRESS\n");
  return 2;
}

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& exception) {  // an argument that is no number, for instance
    std::fprintf(stderr, "table: %s\n", exception.what());
    return 1;
  }
}
