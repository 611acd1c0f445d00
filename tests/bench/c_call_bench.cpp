// What a call through the library for C costs beside one from C++, taken turn by turn by one process:
//   c_call_bench [part of a figure's name ...]
// Both call the same actors, in C++: one of another process, by the clock; and one of their own
// node, through a message (written in C++ and in C), in processor time, which a busy machine does not change.
// The reference is the figure from C++.
#include <time.h>

#include <chrono>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include <troupe/troupe.h>
#include <troupe/actors/node.hpp>
#include <troupe/rpc/completion_queue.hpp>

#include "harness.hpp"

namespace {

using namespace troupe;
using namespace troupe::bench;
using namespace std::chrono_literals;

constexpr int kTurns = 20;
constexpr std::size_t kCalls = 500;  // in a turn
constexpr std::size_t kWindow = 64;
constexpr std::size_t kBytes = 64;

struct Echo {
  static void methods(rpc::Methods<Echo>& methods) {
    methods.add("echo", [](Echo&, std::string_view text) { return text; })
        .add("same", [](Echo&, std::int64_t number) { return number; });
  }
};

void serve(int fd) {
  pin_to_core(0);
  auto node = Node::start({.name = "server", .own_thread = false}).value();
  node->spawn<Echo>("echo").value();
  say(fd, node->address());
  (void)node->run();
}

void good(troupe_status status) {
  if (status != TROUPE_OK) std::abort();
}

double seconds(clockid_t clock) {
  timespec time{};
  ::clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

/// The same in C.
void same(void*, troupe_incoming* call, const troupe_value* arguments, std::size_t) {
  good(troupe_incoming_answer(call, arguments));
}

/// Nanoseconds a call.
template <class Call>
double timed(clockid_t clock, Call&& call) {
  const double begin = seconds(clock);
  call();
  return (seconds(clock) - begin) * 1e9 / static_cast<double>(kCalls);
}

/// The medians of both, a turn of the one after a turn of the other.
template <class Cpp, class C>
void compare(const std::string& name, clockid_t clock, Cpp&& cpp, C&& c) {
  std::vector<double> times_cpp, times_c, more;
  for (int turn = 0; turn <= kTurns; ++turn) {
    const double of_cpp = timed(clock, cpp), of_c = timed(clock, c);
    if (turn == 0) continue;
    times_cpp.push_back(of_cpp);
    times_c.push_back(of_c);
    more.push_back(of_c - of_cpp);
  }
  print_json(name, median(times_c), "ns", "from C++", median(times_cpp));
  print_json(name + "_more_than_cpp", median(more), "ns");
}

void measure(const std::string& address, const std::vector<std::string>& parts) {
  pin_to_core(1);
  auto node = Node::start({.name = "cpp", .registry = address}).value();
  node->wait_for_actor("echo", 10s).value();
  troupe_node_options options = TROUPE_NODE_OPTIONS_INIT;
  options.name = "c";
  options.registry = address.c_str();
  troupe_node* c_node = nullptr;
  good(troupe_node_start(&options, &c_node));
  good(troupe_node_wait_for_actor(c_node, "echo", 0));

  const std::string text(kBytes, 'x');
  const troupe_value argument = troupe_string(text.c_str());
  troupe_call_options how = TROUPE_CALL_OPTIONS_INIT;
  how.signature = "(string) -> string";
  if (wanted("c_call_sync_64B", parts))
    compare(
        "c_call_sync_64B", CLOCK_MONOTONIC,
        [&] {
          for (std::size_t i = 0; i < kCalls; ++i)
            node->rpc_sync<std::string>("echo", "echo", std::string_view(text)).value();
        },
        [&] {
          for (std::size_t i = 0; i < kCalls; ++i) {
            troupe_answer* answer = nullptr;
            good(troupe_call(c_node, "echo", "echo", &how, &argument, 1, &answer));
            troupe_answer_free(answer);
          }
        });
  if (wanted("c_call_own_node", parts)) {
    node->spawn<Echo>("own").value();
    troupe_call_options typed = TROUPE_CALL_OPTIONS_INIT;
    typed.signature = "(int64) -> int64";
    const troupe_value number = troupe_int(7);
    troupe_methods* methods = nullptr;
    good(troupe_methods_new(&methods));
    good(troupe_methods_add(methods, "same", "(int64) -> int64", &same));
    good(troupe_node_spawn(c_node, "c_own", methods, nullptr, nullptr));
    troupe_methods_free(methods);
    compare(
        "c_call_own_node", CLOCK_PROCESS_CPUTIME_ID,
        [&] {
          // Of another type than the method's, so that it goes through a message.
          for (std::size_t i = 0; i < kCalls; ++i) node->rpc_sync<int>("own", "same", 7).value();
        },
        [&] {
          for (std::size_t i = 0; i < kCalls; ++i) {
            troupe_answer* answer = nullptr;
            good(troupe_call(c_node, "c_own", "same", &typed, &number, 1, &answer));
            troupe_answer_free(answer);
          }
        });
  }
  if (wanted("c_call_queue_64B", parts)) {
    const auto queue = rpc::CompletionQueue::open().value();
    troupe_queue* c_queue = nullptr;
    good(troupe_queue_open(0, &c_queue));
    compare(
        "c_call_queue_64B", CLOCK_MONOTONIC,
        [&] {
          std::size_t begun = 0, ended = 0;
          for (; ended < kCalls;) {
            for (; begun < kCalls && begun - ended < kWindow; ++begun)
              queue->start<std::string>(*node, begun, {}, "echo", "echo", std::string_view(text)).value();
            for (auto done = queue->wait(10s); done; done = queue->pop(), ++ended)
              done->take<std::string>().value();
          }
        },
        [&] {
          std::size_t begun = 0, ended = 0;
          for (; ended < kCalls;) {
            for (; begun < kCalls && begun - ended < kWindow; ++begun)
              good(troupe_queue_call(c_queue, c_node, begun, "echo", "echo", &how, &argument, 1));
            troupe_completion done[kWindow];
            const std::size_t count = troupe_queue_next(c_queue, done, kWindow, 10'000'000'000);
            for (std::size_t i = 0; i < count; ++i) {
              good(done[i].status);
              troupe_answer_free(done[i].answer);
            }
            ended += count;
          }
        });
    troupe_queue_free(c_queue);
  }
  troupe_node_free(c_node);
}

}  // namespace

int main(int count, char** arguments) {
  const std::vector<std::string> parts(arguments + 1, arguments + count);
  const Child server([&](int fd) { serve(fd); });
  const std::string address = server.line();
  const Child client([&](int fd) {
    measure(address, parts);
    say(fd, "done");
  });
  return client.line() == "done" ? 0 : 1;
}
