// counter serve ADDRESS: keeps a counter.   counter add ADDRESS N: adds N to it.
#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>

#include <troupe/actors/node.hpp>

using namespace troupe;

struct Counter {
  std::int64_t value = 0;

  std::int64_t add(std::int64_t n) { return value += n; }
  Result<std::int64_t> divide(std::int64_t by) {
    if (by == 0) return Error{Code::kInvalidArgument, "cannot divide by zero"};
    return value /= by;
  }

  static void methods(rpc::Methods<Counter>& methods) {
    methods.add("add", &Counter::add).add("divide", &Counter::divide);
  }
};

int fail(const Error& error) {
  std::fprintf(stderr, "%s\n", error.to_string().c_str());
  return 1;
}

int serve(const std::string& address) {
  auto node = Node::start({.name = "server", .role = "server", .listen = address});
  if (!node) return fail(node.error());
  if (auto made = (*node)->spawn<Counter>("counter"); !made) return fail(made.error());
  std::printf("serving at %s\n", (*node)->address().c_str());
  std::fflush(stdout);
  auto ended = (*node)->run();
  return ended ? 0 : fail(ended.error());
}

int add(const std::string& address, std::int64_t n) {
  auto node = Node::start({.name = "client", .registry = address});
  if (!node) return fail(node.error());

  auto sum = (*node)->rpc_sync<std::int64_t>("counter", "add", n);
  if (!sum) return fail(sum.error());
  std::printf("the counter is at %lld\n", static_cast<long long>(*sum));

  rpc::Future<std::int64_t> half = (*node)->rpc_async<std::int64_t>("counter", "divide", std::int64_t{2});
  if (auto value = half.get()) std::printf("half of it is %lld\n", static_cast<long long>(*value));

  auto wrong = (*node)->rpc_sync<std::int64_t>("counter", "divide", std::int64_t{0});
  std::printf("%s\n", wrong.error().to_string().c_str());
  return 0;
}

int run(int argc, char** argv) {
  const std::string command = argc > 2 ? argv[1] : "";
  if (command == "serve") return serve(argv[2]);
  if (command == "add" && argc > 3) return add(argv[2], std::stoll(argv[3]));
  std::fprintf(stderr, "usage: counter serve ADDRESS | counter add ADDRESS N\n");
  return 2;
}

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& exception) {  // an argument that is no number, for instance
    std::fprintf(stderr, "counter: %s\n", exception.what());
    return 1;
  }
}
