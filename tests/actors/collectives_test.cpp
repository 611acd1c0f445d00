// Communicators of nodes that know each other by name.
#include <atomic>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <troupe/actors/collectives.hpp>
#include <troupe/runtime/gpu_memory.hpp>

#include "cluster.hpp"
#include "shards/nccl/host_driver.hpp"

using namespace troupe;
using namespace troupe::test;
using namespace std::chrono_literals;

namespace {

using Formed = Result<std::shared_ptr<shards::Communicator>>;

/// Nodes, each with its part in collectives.
struct Members {
  explicit Members(std::vector<std::string> members) : names(std::move(members)) {
    for (const std::string& name : names) parts[name] = Collectives::on(cluster.add(name)).value();
  }
  ~Members() { parts.clear(); }
  /// All of `group`'s members call form() at once.
  std::map<std::string, Formed> form(const CollectiveGroup& group,
                                     const std::map<std::string, Collectives::Options>& options = {}) {
    std::map<std::string, Formed> formed;
    std::mutex mutex;
    std::vector<std::thread> threads;
    for (const std::string& name : group.members) {
      threads.emplace_back([&, name] {
        Collectives::Options own;
        if (const auto given = options.find(name); given != options.end()) own = given->second;
        own.timeout = kPatience;
        Formed mine = parts.at(name)->form(group, own);
        const std::lock_guard lock(mutex);
        formed.emplace(name, std::move(mine));
      });
    }
    for (std::thread& thread : threads) thread.join();
    return formed;
  }

  RealCluster cluster;
  std::vector<std::string> names;
  std::map<std::string, std::unique_ptr<Collectives>> parts;
};

/// The sum of the members' ranks plus one, as each of them gets it.
void sums_ranks(std::map<std::string, Formed>& formed) {
  std::vector<std::pair<Tensor, shards::Work>> works;
  for (const auto& each : formed) {
    const Formed& communicator = each.second;
    REQUIRE_MESSAGE(communicator.ok(), text_of(communicator));
    const Tensor tensor = Tensor::of<float>({static_cast<float>((*communicator)->rank() + 1)});
    works.emplace_back(tensor, (*communicator)->all_reduce(tensor, shards::ReduceOp::kSum));
  }
  const auto n = static_cast<float>(formed.size());
  for (const auto& [tensor, work] : works) {
    const Result<void> ended = work.wait();
    CHECK_MESSAGE(ended.ok(), text_of(ended));
    CHECK(tensor.as<const float>()[0] == n * (n + 1) / 2);
  }
}

}  // namespace

TEST_CASE("collectives: named nodes form groups, ranked as they are named, again and again") {
  Members members({"alice", "bob", "carol"});
  const CollectiveGroup group{"ring", {"carol", "alice", "bob"}};
  auto formed = members.form(group);
  sums_ranks(formed);
  CHECK((*formed.at("carol"))->rank() == 0);
  CHECK((*formed.at("bob"))->rank() == 2);
  CHECK((*formed.at("bob"))->size() == 3);
  for (std::uint64_t round = 1; round < 4; ++round) {
    auto again = members.form({"ring", {"bob", "carol"}, round});
    sums_ranks(again);
    CHECK((*again.at("bob"))->rank() == 0);
  }
  sums_ranks(formed);  // the first one goes on beside the others
  auto alone = members.form({"alone", {"bob"}});
  sums_ranks(alone);
}

TEST_CASE("collectives: a member that leaves ends its groups at once, and the others form anew without it") {
  Members members({"alice", "bob", "carol"});
  auto formed = members.form({"ring", members.names});
  auto other = members.form({"pair", {"alice", "bob"}});
  sums_ranks(formed);
  const auto& alice = *formed.at("alice");
  const shards::Work work = alice->barrier();
  // Its sockets stay: what ends the group is that the node is no member any more.
  members.parts.erase("carol");
  members.cluster.end("carol");
  const Result<void> ended = work.wait(kPatience);
  CHECK(code_of(ended) == Code::kUnavailable);
  CHECK_MESSAGE(contains(text_of(ended), "member 'carol' has left"), text_of(ended));
  CHECK(code_of((*formed.at("bob"))->barrier().wait()) == Code::kUnavailable);
  sums_ranks(other);
  auto again = members.form({"ring", {"alice", "bob"}, 1});
  sums_ranks(again);
  const Formed gone = members.parts.at("alice")->form({"ring", members.names, 2}, {.timeout = 200ms});
  CHECK_FALSE(gone.ok());
  CHECK_MESSAGE(contains(text_of(gone), "carol"), text_of(gone));
}

TEST_CASE("collectives: groups that do not agree, or do not come together, are told so") {
  Members members({"alice", "bob", "carol"});
  Collectives& alice = *members.parts.at("alice");
  CHECK(code_of(alice.form({"ring", {"bob", "carol"}})) == Code::kInvalidArgument);
  CHECK(code_of(alice.form({"ring", {"alice", "bob", "bob"}})) == Code::kInvalidArgument);
  CHECK(code_of(alice.form({"ring", {}})) == Code::kInvalidArgument);
  CHECK(code_of(alice.form({"ring", members.names}, {.timeout = 0ns})) == Code::kInvalidArgument);
  CHECK(code_of(alice.form({"ring", members.names}, {.address = "no.address"})) == Code::kInvalidArgument);

  const Formed late = alice.form({"ring", members.names}, {.timeout = 100ms});
  CHECK(code_of(late) == Code::kDeadlineExceeded);
  CHECK_MESSAGE((contains(text_of(late), "bob") || contains(text_of(late), "carol")), text_of(late));
  // Bob forms the group of this name and round with others, while alice waits.
  Formed hers = Error{Code::kUnknown, "not yet"};
  std::atomic<bool> ended{false};
  std::thread waiting([&] {
    hers = alice.form({"ring", members.names}, {.timeout = kPatience});
    ended = true;
  });
  Collectives& bob = *members.parts.at("bob");
  const Formed different = bob.form({"ring", {"alice", "bob"}}, {.timeout = kPatience});
  CHECK(code_of(different) == Code::kInvalidArgument);
  CHECK_MESSAGE(contains(text_of(different), "other members"), text_of(different));
  while (!ended) (void)bob.form({"ring", {"alice", "bob"}}, {.timeout = 50ms});
  waiting.join();
  CHECK(code_of(hers) == Code::kInvalidArgument);

  CHECK(code_of(Collectives::on(members.cluster["alice"])) == Code::kAlreadyExists);
  // Nobody says for another node where that one's sockets are.
  const auto forged = members.cluster["bob"].rpc_sync<void>(
      "alice.collectives", "offer", std::string("ring"), std::uint64_t{7},
      std::vector<std::string>{"alice", "bob"}, Tensor::of<std::uint8_t>({1, 2, 3}));
  CHECK(code_of(forged) == Code::kPermissionDenied);
  auto formed = members.form({"ring", members.names, 1});
  sums_ranks(formed);
}

TEST_CASE("collectives: with a GPU each, nodes form their group by NCCL, and a member that leaves ends it") {
  Members members({"alice", "bob", "carol"});
  std::map<std::string, Gpu> gpus;
  std::map<std::string, Collectives::Options> options;
  for (const std::string& name : members.names) {
    const int ordinal = static_cast<int>(gpus.size());
    gpus.emplace(name, Gpu(std::make_unique<HostDriver>(ordinal)));
    options[name] = {.gpu = gpus.at(name), .nccl_library = TROUPE_TEST_NCCL};
  }
  const auto sum = [&](std::map<std::string, Formed>& formed) {
    std::vector<std::pair<Tensor, shards::Work>> works;
    std::vector<Stream> streams;
    for (auto& [name, group] : formed) {
      REQUIRE_MESSAGE(group.ok(), text_of(group));
      streams.push_back(gpus.at(name).make_stream().value());
      GpuPool pool(gpus.at(name));
      const Tensor tensor = pool.empty(DType::kInt64, Shape{1}, streams.back()).value();
      *reinterpret_cast<std::int64_t*>(tensor.data()) = (*group)->rank() + 1;
      works.emplace_back(tensor, (*group)->all_reduce(tensor, shards::ReduceOp::kSum));
      CHECK(code_of((*group)->all_reduce(Tensor::of<float>({1}), shards::ReduceOp::kSum).wait()) ==
            Code::kInvalidArgument);
    }
    const auto n = static_cast<std::int64_t>(formed.size());
    for (const auto& [tensor, work] : works) {
      const Result<void> ended = work.wait();
      CHECK_MESSAGE(ended.ok(), text_of(ended));
      CHECK(*reinterpret_cast<const std::int64_t*>(tensor.data()) == n * (n + 1) / 2);
    }
  };
  auto formed = members.form({"ring", members.names}, options);
  sum(formed);
  members.parts.erase("carol");
  members.cluster.end("carol");
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while ((*formed.at("alice"))->state() && std::chrono::steady_clock::now() < deadline)
    std::this_thread::yield();
  CHECK(code_of((*formed.at("alice"))->barrier().wait()) == Code::kUnavailable);
  auto again = members.form({"ring", {"alice", "bob"}, 1}, options);
  sum(again);
  // One of them without NCCL: all are told.
  options["bob"].nccl_library = "libnccl-that-is-not-there.so.2";
  auto none = members.form({"ring", {"alice", "bob"}, 2}, options);
  for (const auto& [name, group] : none) CHECK(code_of(group) == Code::kUnavailable);
}
