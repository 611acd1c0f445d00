// Objects that a node makes at another one: they are called at once, live as long as somebody holds them, and
// no longer than their owner.
#include <array>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>

#include <troupe/actors/remote.hpp>

#include "cluster.hpp"
#include "process.hpp"
#include "support/seed.hpp"

namespace troupe::test {

using namespace std::chrono_literals;

namespace {

/// Which tallies live, on all nodes of a test.
class Lives {
 public:
  void begin(std::int64_t id) {
    const std::lock_guard lock(mutex_);
    CHECK(alive_.insert(id).second);
  }
  void end(std::int64_t id) {
    const std::lock_guard lock(mutex_);
    alive_.erase(id);
    ended_[id].set();
  }
  bool alive(std::int64_t id) const {
    const std::lock_guard lock(mutex_);
    return alive_.contains(id);
  }
  std::set<std::int64_t> all() const {
    const std::lock_guard lock(mutex_);
    return alive_;
  }
  Signal& ended(std::int64_t id) {
    const std::lock_guard lock(mutex_);
    return ended_[id];
  }

 private:
  mutable std::mutex mutex_;
  std::set<std::int64_t> alive_;
  std::map<std::int64_t, Signal> ended_;
};

/// The lives of the test that runs now: objects' constructors get values only.
Lives* lives = nullptr;

struct LivesOfThis {
  LivesOfThis() { lives = &here; }
  ~LivesOfThis() { lives = nullptr; }
  LivesOfThis(const LivesOfThis&) = delete;
  LivesOfThis& operator=(const LivesOfThis&) = delete;
  Lives here;
};

struct Tally {
  static constexpr std::string_view type_name = "Tally";
  Tally(std::int64_t own_id, std::int64_t start, const Tensor&) : id(own_id), value(start) {
    if (start < 0) throw std::invalid_argument("a tally begins at 0 or above");
    lives->begin(id);
  }
  ~Tally() {
    if (value >= 0) lives->end(id);
  }
  std::int64_t add(std::int64_t more) { return value += more; }
  static void methods(rpc::Methods<Tally>& methods) { methods.add("add", &Tally::add); }

  std::int64_t id;
  std::int64_t value;
};

struct Other {
  static constexpr std::string_view type_name = "Other";
  static void methods(rpc::Methods<Other>&) {}
};

RemoteRef<Tally> make(Node& owner, std::string_view where, std::int64_t id, std::int64_t start = 0,
                      std::int64_t bytes = 0) {
  return owner.remote<Tally>(where, id, start, Tensor::zeros(DType::kUInt8, Shape({bytes})));
}

void allow(Node& node) {
  node.constructible<Tally, std::int64_t, std::int64_t, Tensor>();
}

}  // namespace

TEST_CASE_TEMPLATE("remote: an object is called at once, and ends with its last reference", Kind,
                   TROUPE_CLUSTERS) {
  const LivesOfThis lives_here;
  Kind cluster;
  Node& owner = cluster.add("owner");
  allow(cluster.add("host"));
  {
    auto ref = make(owner, "host", 1, 5);
    std::vector<rpc::Future<std::int64_t>> sums;
    sums.reserve(10);
    for (int i = 0; i < 10; ++i) sums.push_back(ref.template rpc_async<std::int64_t>("add", 1));
    for (int i = 0; i < 10; ++i) CHECK(sums[static_cast<std::size_t>(i)].get().value() == 6 + i);
    CHECK(ref.created().get().ok());
    const std::array copies{ref, ref};
    CHECK(copies[1].template rpc_sync<std::int64_t>("add", 10).value() == 25);
    CHECK(code_of(ref.template rpc_sync<std::int64_t>("subtract", 1)) == Code::kUnimplemented);
    CHECK(lives->alive(1));
  }
  REQUIRE(cluster.wait(lives->ended(1)));
}

TEST_CASE_TEMPLATE("remote: calls that overtake a long creation wait for it", Kind, TROUPE_CLUSTERS) {
  const LivesOfThis lives_here;
  Kind cluster;
  Node& owner = cluster.add("owner");
  allow(cluster.add("host"));
  for (std::int64_t id = 1; id <= 5; ++id) {
    const auto ref = make(owner, "host", id, 7, 16 << 20);
    CHECK(ref.template rpc_sync<std::int64_t>("add", 1).value() == 8);
  }
  for (std::int64_t id = 1; id <= 5; ++id) REQUIRE(cluster.wait(lives->ended(id)));
}

TEST_CASE_TEMPLATE("remote: one may make objects at oneself", Kind, TROUPE_CLUSTERS) {
  const LivesOfThis lives_here;
  Kind cluster;
  Node& node = cluster.add("only");
  allow(node);
  {
    const auto ref = make(node, "only", 1);
    CHECK(ref.template rpc_sync<std::int64_t>("add", 2).value() == 2);
  }
  REQUIRE(cluster.wait(lives->ended(1)));
}

TEST_CASE_TEMPLATE("remote: a failed creation answers the calls with its error", Kind, TROUPE_CLUSTERS) {
  const LivesOfThis lives_here;
  Kind cluster;
  Node& owner = cluster.add("owner");
  allow(cluster.add("host"));
  const auto thrown = make(owner, "host", 1, -1);
  auto early = thrown.template rpc_async<std::int64_t>("add", 1);
  const auto refused = early.get();
  CHECK(code_of(refused) == Code::kInternal);
  CHECK(contains(text_of(refused), "a tally begins at 0 or above"));
  CHECK(code_of(thrown.created().get()) == Code::kInternal);
  CHECK(code_of(thrown.template rpc_sync<std::int64_t>("add", 1)) == Code::kInternal);

  const auto unknown = owner.remote<Other>("host");
  CHECK(code_of(unknown.template rpc_sync<int>("any")) == Code::kUnimplemented);
  const auto nowhere = make(owner, "nobody", 2);
  CHECK(code_of(nowhere.template rpc_sync<std::int64_t>("add", 1)) == Code::kNotFound);
  CHECK(code_of(nowhere.created().get()) == Code::kNotFound);
}

TEST_CASE_TEMPLATE("remote: an owner that leaves takes its objects along, a reference may outlive it", Kind,
                   TROUPE_CLUSTERS) {
  const LivesOfThis lives_here;
  Kind cluster;
  cluster.add("first");
  allow(cluster.add("host"));
  auto ref = make(cluster.add("owner"), "host", 1);
  CHECK(ref.created().get().ok());
  cluster.end("owner");
  REQUIRE(cluster.wait(lives->ended(1)));
}

TEST_CASE_TEMPLATE("remote: a host that has gone is unavailable", Kind, TROUPE_CLUSTERS) {
  const LivesOfThis lives_here;
  Kind cluster;
  Node& owner = cluster.add("owner");
  allow(cluster.add("host"));
  const auto ref = make(owner, "host", 1);
  CHECK(ref.created().get().ok());
  cluster.end("host");
  CHECK(code_of(ref.template rpc_sync<std::int64_t>("add", 1)) == Code::kUnavailable);
}

TEST_CASE("remote: a creation that fails while the continuation of a call on the object waits") {
  const LivesOfThis lives_here;
  SimCluster cluster;
  Node& owner = cluster.add("owner");
  allow(cluster.add("host"));
  cluster.world.set_partition("owner", "host", true);  // so neither comes there; the call gives up first
  auto ref = make(owner, "host", 1);
  auto created = ref.created();
  Signal waited;
  Code answer = Code::kOk;
  ref.rpc_async_with<std::int64_t>({.timeout = 100ms}, "add", 1).then([&](const Result<std::int64_t>& sum) {
    answer = code_of(sum);
    CHECK_FALSE(created.ready());
    CHECK_FALSE(created.get().ok());
    waited.set();
  });
  REQUIRE(cluster.wait(waited));
  CHECK(answer == Code::kDeadlineExceeded);
}

TEST_CASE("remote: a dead owner's objects end") {
  const LivesOfThis lives_here;
  SimCluster cluster;
  cluster.add("first");
  allow(cluster.add("host"));
  const auto ref = make(cluster.add("owner"), "host", 1);
  CHECK(ref.created().get().ok());
  cluster.world.kill("owner");
  REQUIRE(cluster.wait(lives->ended(1)));
}

TEST_CASE("remote: the objects of a process that is killed or stopped end in time, those of others live") {
  constexpr Duration kSilence = 1s;
  constexpr Duration kHeartbeat = 200ms;
  for (const std::string transports : {"shm", "tcp"})
    for (const bool killed : {true, false}) {
      CAPTURE(transports);
      CAPTURE(killed);
      const LivesOfThis lives_here;
      RealCluster cluster(transports);
      const auto start = [&](const std::string& name) {
        auto node =
            cluster.start({.name = name, .heartbeat_interval = kHeartbeat, .silence_limit = kSilence});
        REQUIRE_MESSAGE(node.ok(), text_of(node));
        allow(**node);
        return std::move(*node);
      };
      const auto first = start("first");
      const auto host = start("host");
      const auto owner_process = [&](const std::string& name) {
        return std::make_unique<Process>(NodeProcess{
            .name = name, .registry = first->address(), .transports = transports, .silence_ms = 1000}
                                             .command());
      };
      const auto owner = owner_process("owner");
      const auto other = owner_process("other");
      for (Process* process : {owner.get(), other.get()}) {
        const std::string ready = process->line();
        REQUIRE_MESSAGE(ready.starts_with("ready "), ready);
      }
      const auto make_at = [](Process& process, const std::string& where, int id) {
        process.tell("make " + where + " " + std::to_string(id));
        const std::string made = process.line();
        REQUIRE_MESSAGE(made == "made", made);
      };
      make_at(*owner, "host", 1);
      make_at(*owner, "host", 2);
      make_at(*owner, "first", 3);
      make_at(*other, "host", 4);
      CHECK(lives->all() == std::set<std::int64_t>{1, 2, 3, 4});
      const auto begun = std::chrono::steady_clock::now();
      if (killed)
        owner->kill();
      else
        owner->stop();
      for (const std::int64_t id : {1, 2, 3}) REQUIRE(cluster.wait(lives->ended(id)));
      const Duration took = std::chrono::steady_clock::now() - begun;
      CHECK(took < 1s + (killed ? Duration{0} : kSilence + kHeartbeat));
      CHECK(lives->all() == std::set<std::int64_t>{4});
      CHECK(other->end() == 0);
      REQUIRE(cluster.wait(lives->ended(4)));
    }
}

TEST_CASE("remote: a cut way ends no object, and one that cannot be told of its release ends later") {
  const LivesOfThis lives_here;
  SimCluster cluster;
  cluster.add("first");
  allow(cluster.add("host"));
  Node& owner = cluster.add("owner");
  auto kept = make(owner, "host", 1);
  auto released = std::make_unique<RemoteRef<Tally>>(make(owner, "host", 2));
  CHECK(kept.rpc_sync<std::int64_t>("add", 3).value() == 3);
  CHECK(released->created().get().ok());
  cluster.world.set_partition("owner", "host", true);
  released.reset();
  cluster.world.run_for(30s);  // far more than the silence limit
  CHECK(lives->alive(1));
  CHECK(lives->alive(2));
  cluster.world.set_partition("owner", "host", false);
  REQUIRE(cluster.wait(lives->ended(2)));
  CHECK(kept.rpc_sync<std::int64_t>("add", 3).value() == 6);
  cluster.world.run_for(60s);
  CHECK(lives->alive(1));
}

TEST_CASE("remote: whatever is lost, repeated or reordered, what is held lives and nothing else does") {
  const std::uint64_t first_seed = test_seed();
  for (std::uint64_t seed = first_seed; seed < first_seed + 20; ++seed) {
    CAPTURE(seed);
    const LivesOfThis lives_here;
    SimCluster cluster({.seed = seed});
    cluster.add("first");
    allow(cluster.add("host"));
    Node& owner = cluster.add("owner");
    std::mt19937_64 random(seed);
    std::map<std::int64_t, RemoteRef<Tally>> held;
    cluster.world.options().loss = 0.2;
    cluster.world.options().duplication = 0.2;
    cluster.world.options().reordering = 0.2;
    std::int64_t last = 0;
    for (int action = 0; action < 120; ++action) {
      cluster.world.run_for(Duration(static_cast<std::int64_t>(random() % 300'000'000)));
      if (random() % 2 == 0 || held.empty()) {
        ++last;
        held.emplace(last, make(owner, "host", last, 0, static_cast<std::int64_t>(random() % 20'000)));
        // Not waited for: its answer may be lost, too.
        (void)held.at(last).rpc_async_with<std::int64_t>({.timeout = 1s}, "add", 1);
      } else {
        held.erase(std::next(held.begin(), static_cast<std::ptrdiff_t>(random() % held.size())));
      }
    }
    cluster.world.options().loss = cluster.world.options().duplication = 0;
    cluster.world.options().reordering = 0;
    cluster.world.run_for(90s);
    std::set<std::int64_t> expected;
    for (const auto& [id, ref] : held)
      if (ref.created().get().ok()) expected.insert(id);
    CHECK(expected.size() + 5 > held.size());  // a creation is tried five times
    CHECK(lives->all() == expected);
    held.clear();
    cluster.world.run_for(30s);
    CHECK(lives->all().empty());
  }
}

}  // namespace troupe::test
