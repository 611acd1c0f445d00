// Calls of threads that must not be borrowed: begun, waited for and fetched without running anybody's
// handler.
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <troupe/actors/remote.hpp>
#include <troupe/rpc/completion_queue.hpp>

#include "cluster.hpp"
#include "states.hpp"

using namespace troupe;
using namespace troupe::test;
using namespace std::chrono_literals;

namespace {

/// Notes on which threads it runs.
struct Noting {
  std::mutex mutex;
  std::set<std::thread::id> threads;
  void note() {
    const std::lock_guard lock(mutex);
    threads.insert(std::this_thread::get_id());
  }
  bool ran_here() {
    const std::lock_guard lock(mutex);
    return threads.contains(std::this_thread::get_id());
  }
  static constexpr std::string_view type_name = "Noting";
  static void methods(rpc::Methods<Noting>& methods) {
    methods.add("note", [](Noting& self, std::int64_t value) {
      self.note();
      return value;
    });
  }
};

bool readable(const rpc::CompletionQueue& queue, int timeout_ms = 0) {
  pollfd waited{queue.descriptor(), POLLIN, 0};
  return ::poll(&waited, 1, timeout_ms) == 1;
}

struct Nodes {
  explicit Nodes(NodeOptions for_alice = {.name = "alice"}) {
    auto first = cluster.start({.name = "first"});
    REQUIRE(first.ok());
    others.push_back(std::move(*first));
    auto started = cluster.start(std::move(for_alice));
    REQUIRE(started.ok());
    alice = std::move(*started);
    rpc::Methods<Noting> methods;
    Noting::methods(methods);
    REQUIRE(alice->spawn_state("here", here, methods.table()).ok());
    REQUIRE(others[0]->spawn<Holder>("holder", *others[0]).ok());
    REQUIRE(others[0]->spawn<Calculator>("calculator").ok());
    for (const char* name : {"holder", "calculator"}) REQUIRE(alice->wait_for_actor(name, kPatience).ok());
    // What the node has done so far on this thread does not count.
    const std::lock_guard lock(here->mutex);
    here->threads.clear();
  }
  RealCluster cluster;
  std::vector<std::unique_ptr<Node>> others;
  std::shared_ptr<Noting> here = std::make_shared<Noting>();
  std::unique_ptr<Node> alice;
};

}  // namespace

TEST_CASE("completion queue: what comes is told by a descriptor, and fetched without running a handler") {
  Nodes nodes;
  auto queue = rpc::CompletionQueue::open().value();
  CHECK_FALSE(queue->pop().has_value());
  CHECK_FALSE(readable(*queue));
  constexpr std::uint64_t kCalls = 200;
  for (std::uint64_t i = 0; i < kCalls; ++i) {
    const auto value = static_cast<std::int64_t>(i);
    const auto started =
        i % 2 == 0 ? queue->start<std::int64_t>(*nodes.alice, i, {}, "here", "note", value)
                   : queue->start<std::int64_t>(*nodes.alice, i, {}, "calculator", "plus", value, 0);
    REQUIRE(started.ok());
  }
  std::set<std::uint64_t> tags;
  while (tags.size() < kCalls) {
    REQUIRE(readable(*queue, 30'000));
    auto done = queue->pop();
    REQUIRE(done.has_value());
    CHECK(done->error() == nullptr);
    CHECK(done->take<std::int64_t>().value() == static_cast<std::int64_t>(done->tag()));
    CHECK(tags.insert(done->tag()).second);
  }
  CHECK_FALSE(readable(*queue));
  CHECK(queue->size() == 0);
  CHECK_FALSE(nodes.here->ran_here());
  CHECK(nodes.here->threads.size() == 1);
}

TEST_CASE("completion queue: errors, deadlines, other types, references to objects") {
  Nodes nodes;
  auto queue = rpc::CompletionQueue::open().value();
  REQUIRE(queue->start<std::int64_t>(*nodes.alice, 1, {}, "nobody", "plus").ok());
  auto done = queue->wait(kPatience);
  REQUIRE(done.has_value());
  REQUIRE(done->error());
  CHECK(done->error()->code == Code::kNotFound);
  CHECK(done->take<std::int64_t>().error().message.starts_with("nobody.plus: "));
  REQUIRE(queue->start<std::int64_t>(*nodes.alice, 2, {.timeout = 20ms}, "holder", "hold").ok());
  CHECK_FALSE(queue->wait(1ms).has_value());
  done = queue->wait(kPatience);
  REQUIRE(done.has_value());
  CHECK(done->take<std::int64_t>().error().code == Code::kDeadlineExceeded);
  REQUIRE(queue->start<void>(*nodes.alice, 3, {}, "calculator", "nothing").ok());
  done = queue->wait(kPatience);
  REQUIRE(done.has_value());
  CHECK(done->take<std::int64_t>().error().code == Code::kInvalidArgument);
  CHECK(done->take<void>().ok());
  nodes.others[0]->constructible<Noting>();
  const auto object = nodes.alice->remote<Noting>("first");
  REQUIRE(queue->start<std::int64_t>(object, 4, {}, "note", std::int64_t{5}).ok());
  done = queue->wait(kPatience);
  REQUIRE(done.has_value());
  CHECK(done->take<std::int64_t>().value() == 5);
}

TEST_CASE(
    "completion queue: a bounded number is open or waits to be fetched; tags are of one call at a time") {
  Nodes nodes;
  auto queue = rpc::CompletionQueue::open(2).value();
  REQUIRE(queue->start<std::int64_t>(*nodes.alice, 1, {}, "holder", "hold").ok());
  CHECK(code_of(queue->start<std::int64_t>(*nodes.alice, 1, {}, "holder", "hold")) == Code::kAlreadyExists);
  REQUIRE(queue->start<std::int64_t>(*nodes.alice, 2, {}, "calculator", "plus", 1, 2).ok());
  REQUIRE(readable(*queue, 30'000));
  CHECK(code_of(queue->start<std::int64_t>(*nodes.alice, 3, {}, "calculator", "plus", 1, 2)) ==
        Code::kResourceExhausted);
  CHECK(queue->pop()->tag() == 2);
  REQUIRE(queue->start<std::int64_t>(*nodes.alice, 3, {}, "calculator", "plus", 1, 2).ok());
  queue->cancel(1);
  queue->cancel(77);  // no such call
  std::set<std::uint64_t> tags;
  for (int i = 0; i < 2; ++i) {
    auto done = queue->wait(kPatience);
    REQUIRE(done.has_value());
    tags.insert(done->tag());
    if (done->tag() == 1) CHECK(done->error()->code == Code::kCancelled);
  }
  CHECK(tags == std::set<std::uint64_t>{1, 3});
}

TEST_CASE(
    "completion queue: it may go while calls are open, which are cancelled, and the node may go first") {
  Nodes nodes;
  auto queue = rpc::CompletionQueue::open().value();
  REQUIRE(queue->start<std::int64_t>(*nodes.alice, 1, {}, "holder", "hold").ok());
  const auto held = [&] { return nodes.others[0]->rpc_sync<std::int64_t>("holder", "held").value(); };
  const auto until = std::chrono::steady_clock::now() + kPatience;
  while (held() == 0 && std::chrono::steady_clock::now() < until) std::this_thread::yield();
  queue.reset();
  const auto open = [&] {
    const Loop::Turn turn(nodes.alice->loop());
    return nodes.alice->endpoint().open_calls();
  };
  while (open() > 0 && std::chrono::steady_clock::now() < until) std::this_thread::yield();
  CHECK(open() == 0);

  queue = rpc::CompletionQueue::open().value();
  for (std::uint64_t tag = 0; tag < 20; ++tag)
    REQUIRE(queue->start<std::int64_t>(*nodes.alice, tag, {}, "holder", "hold").ok());
  nodes.alice.reset();
  for (int i = 0; i < 20; ++i) {
    auto done = queue->wait(kPatience);
    REQUIRE(done.has_value());
    CHECK(done->error()->code == Code::kCancelled);
  }
  CHECK(queue->size() == 0);
}

TEST_CASE("completion queue: in a forked process it closes, and the parent's goes on") {
  Nodes nodes;
  auto queue = rpc::CompletionQueue::open().value();
  REQUIRE(queue->start<std::int64_t>(*nodes.alice, 1, {}, "calculator", "plus", 1, 2).ok());
  REQUIRE(readable(*queue, 30'000));
  const pid_t child = ::fork();
  if (child == 0) {
    const bool nothing = !queue->pop().has_value() && queue->size() == 0;
    queue.reset();
    ::_exit(nothing ? 0 : 1);
  }
  REQUIRE(child > 0);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  CHECK(readable(*queue));
  CHECK(queue->pop()->take<std::int64_t>().value() == 3);
}

TEST_CASE("without helping: threads that wait run no handler, whatever they call") {
  NodeOptions options{.name = "alice"};
  options.loop.help = false;
  Nodes nodes(std::move(options));
  Node& alice = *nodes.alice;
  // All the while others call the actor here.
  std::atomic<bool> over{false};
  std::thread caller([&] {
    while (!over) CHECK(nodes.others[0]->rpc_sync<std::int64_t>("here", "note", 1).ok());
  });
  for (int i = 0; i < 100; ++i) {
    CHECK(alice.rpc_sync<std::int64_t>("calculator", "plus", i, 1).value() == i + 1);
    CHECK(alice.rpc_sync<std::int64_t>("here", "note", i).value() == i);
    CHECK(alice.rpc_async<std::int64_t>("here", "note", i).get().value() == i);
    CHECK(alice.send("here", "note", std::int64_t{i}).ok());
  }
  CHECK(alice.broadcast<std::int64_t>({"here", "here"}, "note", std::int64_t{1}).get()->size() == 2);
  CHECK(code_of(alice.rpc_sync_with<std::int64_t>({.timeout = 20ms}, "holder", "hold")) ==
        Code::kDeadlineExceeded);
  CHECK(code_of(alice.rpc_sync<std::int64_t>("nobody", "plus")) == Code::kNotFound);
  CHECK(alice.wait_for_role("worker", 2, kPatience)->size() == 2);
  over = true;
  caller.join();
  CHECK_FALSE(nodes.here->ran_here());
  CHECK(nodes.here->threads.size() == 1);
}
