// A child of fork(): what the parent made is dead there, and the parent does not notice.
#include <poll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <troupe/actors/remote.hpp>
#include <troupe/rpc/stream.hpp>
#include <troupe/runtime/metrics_server.hpp>
#include <troupe/runtime/span_exporter.hpp>

#include "cluster.hpp"
#include "process.hpp"
#include "states.hpp"
#include "support/temporary_folder.hpp"

// The thread sanitizer does not let a child of a process with threads go on.
#ifndef __SANITIZE_THREAD__

using namespace troupe;
using namespace troupe::test;

namespace {

constexpr int kNoEnd = -1000, kSignal = -2000;

/// Runs `body` in a child that then ends as a program does that returns from main(); what `body` returns is
/// its exit code. kNoEnd: it did not end in time.
int in_child(const std::function<int()>& body) {
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    // Its output is the parent's too: nothing of doctest may be written twice.
    const int code = body();
    std::_Exit(code);
  }
  const int fd = static_cast<int>(syscall(SYS_pidfd_open, child, 0));
  pollfd waited{fd, POLLIN, 0};
  const auto patience = std::chrono::duration_cast<std::chrono::milliseconds>(kPatience).count();
  const bool ended = poll(&waited, 1, static_cast<int>(patience)) == 1;
  close(fd);
  if (!ended) kill(child, SIGKILL);
  int status = 0;
  waitpid(child, &status, 0);
  if (!ended) return kNoEnd;
  return WIFEXITED(status) ? WEXITSTATUS(status) : kSignal - WTERMSIG(status);
}

template <class T>
bool refused(const Result<T>& result) {
  return !result.ok() && result.error().code == Code::kFailedPrecondition &&
         result.error().message.find("fork") != std::string::npos;
}

struct Thing {
  static constexpr std::string_view type_name = "Thing";
};

/// A node here and one in a process of its own, with an actor each, over shared memory or TCP.
struct Pair {
  explicit Pair(const std::string& transports) : cluster(transports) {
    parent = cluster.start({.name = "parent", .metrics_address = "127.0.0.1:0"}).value();
    other = std::make_unique<Process>(
        NodeProcess{.name = "other", .registry = parent->address(), .transports = transports}.command());
    const std::string ready = other->line();
    REQUIRE_MESSAGE(ready.starts_with("ready "), ready);
    REQUIRE(parent->wait_for_actor("other", kPatience).ok());
    REQUIRE(parent->spawn<Calculator>("calculator").ok());
    call_all();
  }
  /// Many, so that what a child had damaged in rings and sockets would show.
  void call_all() {
    for (int i = 0; i < 200; ++i) {
      const auto count = parent->rpc_sync<std::int64_t>("other", "count");
      REQUIRE_MESSAGE(count.ok(), text_of(count));
      REQUIRE(*count == ++counted);
    }
    REQUIRE(parent->rpc_sync<std::int64_t>("calculator", "plus", 1, 2).value() == 3);
  }

  RealCluster cluster;
  std::unique_ptr<Node> parent;
  std::unique_ptr<Process> other;
  std::int64_t counted = 0;
};

}  // namespace

TEST_CASE("fork: a child that destroys what the parent made, as at the end of main(), ends at once") {
  for (const char* transports : {"auto", "tcp"}) {
    CAPTURE(transports);
    Pair pair(transports);
    auto open = pair.parent->rpc_async<std::int64_t>("calculator", "count");
    auto shared = pair.parent->endpoint().shared_pool().allocate(1 << 20);
    CHECK(in_child([&] {
            shared = {};
            pair.parent->stop();
            pair.parent->shutdown();
            pair.parent.reset();
            return 0;
          }) == 0);
    CHECK(open.get().ok());
    pair.call_all();
    CHECK(pair.parent->membership().members.size() == 2);
  }
}

TEST_CASE("fork: calls in the child are refused, in whatever way they are made, and the parent's go on") {
  for (const char* transports : {"auto", "tcp"}) {
    CAPTURE(transports);
    Pair pair(transports);
    auto before = pair.parent->rpc_async<std::int64_t>("other", "count");
    ++pair.counted;
    REQUIRE(pair.parent->loop().wait_until([&] { return before.ready(); },
                                           pair.parent->loop().clock().now() + kPatience));
    const int wrong = in_child([&] {
      Node& node = *pair.parent;
      const std::vector<bool> right{
          refused(node.rpc_sync<std::int64_t>("other", "count")),
          refused(node.rpc_sync<std::int64_t>("calculator", "count")),
          refused(node.rpc_sync_with<std::int64_t>({.retry = {.max_attempts = 3}}, "other", "count")),
          refused(node.rpc_async<std::int64_t>("other", "count").get()),
          refused(node.send("other", "count")),
          refused(node.stream<std::int64_t>("other", "count").next(kPatience)),
          refused(node.remote<Thing>("other").created().get()),
          refused(node.spawn<Calculator>("another")),
          refused(node.kill("calculator")),
          refused(node.barrier("all", {"parent"}, kPatience)),
          refused(node.wait_for_actor("other", kPatience)),
          refused(node.wait_for_role("worker", 1, kPatience)),
          refused(node.run()),
          node.membership().members.empty(),
          before.get().ok(),  // it had come
      };
      int number = 1;
      for (const bool each : right) {
        if (!each) return number;
        ++number;
      }
      return 0;
    });
    CHECK_MESSAGE(wrong == 0, "this check of the child's failed: ", wrong);
    pair.call_all();
  }
}

TEST_CASE("fork: a child that makes a node of its own calls whom it likes") {
  Pair pair("auto");
  const std::string address = pair.parent->address();
  CHECK(in_child([&] {
          NodeOptions options;
          options.name = "child";
          options.registry = address;
          auto node = Node::start(options);
          if (!node) return 1;
          if (!(*node)->wait_for_actor("other", kPatience)) return 2;
          if (!(*node)->rpc_sync<std::int64_t>("calculator", "count")) return 3;
          if (!(*node)->rpc_sync<std::int64_t>("other", "count")) return 4;
          node->reset();
          return 0;
        }) == 0);
  ++pair.counted;
  pair.call_all();
}

TEST_CASE("fork: threads of the parent that serve metrics and export spans are not waited for in the child") {
  const TemporaryFolder folder;
  auto server = MetricsServer::start("127.0.0.1:0", [] { return std::vector<MetricFamily>{}; });
  REQUIRE(server.ok());
  SpanExportOptions options;
  options.file = (folder.path() / "spans").string();
  auto exporter = SpanExporter::open(options);
  REQUIRE(exporter.ok());
  CHECK(in_child([&] {
          server->reset();
          exporter->reset();
          return 0;
        }) == 0);
}

TEST_CASE("fork: the child's own end of shared memory changes nothing of what others map") {
  SharedPool pool;
  Buffer buffer = pool.allocate(1 << 20);
  const auto place = SharedPool::locate(buffer);
  REQUIRE(place.has_value());
  auto mapping = SharedMapping::open(getpid(), *place);
  REQUIRE(mapping.ok());
  CHECK(in_child([&] {
          buffer = {};
          return SharedPool::locate(pool.allocate(1 << 20)).has_value() ? 1
                                                                        : 0;  // not of the parent's memory
        }) == 0);
  CHECK_FALSE((*mapping)->is_closed());
}

#endif
