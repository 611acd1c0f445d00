// One trace of a call that passes through three nodes: the shop asks for a quote, whose handler asks the
// stock what is left. Each is a process; all append their spans to one file, as OTLP JSON: traced FILE
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include <troupe/actors/node.hpp>
#include <troupe/rpc/tracing.hpp>

using namespace troupe;

// [listing]
struct Stock {
  std::int64_t left(std::string_view article) { return article == "violin" ? 3 : 0; }
  static void methods(rpc::Methods<Stock>& methods) { methods.add("left", &Stock::left); }
};

struct Pricing {
  Node* node;
  Logger log;

  Result<double> quote(std::string_view article, std::int64_t count) {
    auto left = node->rpc_sync<std::int64_t>("stock", "left", article);  // part of the call that is answered
    if (!left) return left.error();
    log.info("asked for a quote", {{"article", article}, {"left", *left}});
    if (*left < count) return Error{Code::kResourceExhausted, "too few are left"};
    return 100.0 * static_cast<double>(count);
  }
  static void methods(rpc::Methods<Pricing>& methods) { methods.add("quote", &Pricing::quote); }
};

void shop(Node& node) {
  rpc::TraceSpan order(node.endpoint(), "order");
  for (const std::int64_t count : {2, 5}) {
    auto price = node.rpc_sync_with<double>({.trace = order.context()}, "pricing", "quote", "violin", count);
    if (price)
      std::printf("%lld violins: %g\n", static_cast<long long>(count), *price);
    else
      std::printf("%lld violins: %s\n", static_cast<long long>(count), price.error().to_string().c_str());
  }
  std::printf("trace %s\n", trace_id_text(order.context()).c_str());
}
// [listing]

namespace {

/// Runs `serve(node, log)` in a process of its own, and then its node until the shop has gone. Made before
/// there are threads; hears the shop's address through a pipe.
class Server {
 public:
  template <class Serve>
  Server(const std::string& name, const TraceOptions& trace, Serve serve) {
    std::array<int, 2> ends{};
    if (pipe(ends.data()) != 0) std::perror("pipe");
    child_ = fork();
    if (child_ == 0) {
      close(ends[1]);
      std::array<char, 256> address{};
      if (read(ends[0], address.data(), address.size() - 1) <= 0) _exit(1);
      {
        const Logger log = Logger::open({}).value();
        auto node =
            Node::start({.name = name, .registry = address.data(), .log = log, .trace = trace}).value();
        serve(*node, rpc::follow_trace(log.with_node(name), node->loop()));
        (void)node->run();
      }
      _exit(0);
    }
    close(ends[0]);
    to_child_ = ends[1];
  }
  ~Server() {
    close(to_child_);
    waitpid(child_, nullptr, 0);
  }
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;
  void tell(const std::string& address) const {
    if (write(to_child_, address.data(), address.size()) < 0) std::perror("write");
  }

 private:
  pid_t child_ = -1;
  int to_child_ = -1;
};

void run(const TraceOptions& trace) {
  const Server stock("stock-0", trace, [](Node& node, const Logger&) { node.spawn<Stock>("stock").value(); });
  const Server pricing("pricing-0", trace, [](Node& node, const Logger& log) {
    node.wait_for_actor("stock", std::chrono::seconds(10)).value();
    node.spawn<Pricing>("pricing", Pricing{&node, log}).value();
  });
  auto node = Node::start({.name = "shop", .trace = trace}).value();
  stock.tell(node->address());
  pricing.tell(node->address());
  node->wait_for_actor("pricing", std::chrono::seconds(10)).value();
  shop(*node);
}  // the shop goes, then the others

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2 || argv[1][0] == '-') {
    std::fprintf(stderr, "traced FILE: a call through three nodes; its trace is appended to the file\n");
    return 2;
  }
  try {
    run({.file = argv[1], .ratio = 1});
  } catch (const std::exception& exception) {
    return std::fprintf(stderr, "traced: %s\n", exception.what()), 1;
  }
  return 0;
}
