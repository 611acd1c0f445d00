// Traces of a cluster, as its nodes write them to files: one trace through three nodes, in virtual time and
// over the real transport, and what the settings say.
#include <troupe/rpc/tracing.hpp>

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include <troupe/actors/node_config.hpp>
#include <troupe/runtime/files.hpp>
#include <troupe/runtime/json.hpp>

#include "cluster.hpp"
#include "support/temporary_folder.hpp"

using namespace troupe;
using namespace troupe::test;

namespace {

/// What one needs of a span here, and the node that wrote it.
struct Read {
  std::string node, role, trace, id, parent, name, peer, error;
  int kind = 0;
  std::int64_t start = 0, end = 0;
};

std::string attribute(const Json& of, const std::string& key) {
  for (const Json& each : of.at("attributes"))
    if (each.at("key") == key) return each.at("value").at("stringValue");
  return "";
}

std::vector<Read> read_spans(const std::string& file) {
  std::vector<Read> all;
  std::istringstream lines(read_file(file).value());
  for (std::string line; std::getline(lines, line);) {
    const Json request = parse_json(line, file).value();
    const Json& of_node = request.at("resourceSpans").at(0);
    const Json& resource = of_node.at("resource");
    for (const Json& span : of_node.at("scopeSpans").at(0).at("spans"))
      all.push_back({attribute(resource, "service.name"), attribute(resource, "troupe.role"),
                     span.at("traceId"), span.at("spanId"), span.value("parentSpanId", ""), span.at("name"),
                     attribute(span, "peer.service"), attribute(span, "error.type"), span.at("kind"),
                     std::stoll(span.at("startTimeUnixNano").get<std::string>()),
                     std::stoll(span.at("endTimeUnixNano").get<std::string>())});
  }
  return all;
}

const Read& only(const std::vector<Read>& spans, const std::string& name, int kind) {
  const auto matches = [&](const Read& span) { return span.name == name && span.kind == kind; };
  REQUIRE_MESSAGE(std::count_if(spans.begin(), spans.end(), matches) == 1, name);
  return *std::find_if(spans.begin(), spans.end(), matches);
}

/// Asks the next in line, if there is one.
struct Link {
  Node* node = nullptr;
  std::string next = {};
  bool coroutine = false;

  rpc::Future<std::int64_t> ask(std::int64_t value) {
    if (next.empty()) {
      rpc::Promise<std::int64_t> promise(node->loop());
      if (value < 0)
        promise.set(Error{Code::kOutOfRange, "below zero"});
      else
        promise.set(value);
      return promise.future();
    }
    if (coroutine) return ask_and_await(value);
    return node->rpc_async<std::int64_t>(next, "ask", value);
  }
  rpc::Future<std::int64_t> ask_and_await(std::int64_t value) {
    const auto first = co_await node->rpc_async<std::int64_t>(next, "ask", value);
    const auto second = co_await node->rpc_async<std::int64_t>(next, "ask", value);
    co_return first.value() + second.value();
  }
  static void methods(rpc::Methods<Link>& methods) { methods.add("ask", &Link::ask); }
};

template <class C>
struct Line {
  explicit Line(double ratio_of_first, bool coroutine = false) {
    for (const std::string name : {"first", "second", "third"}) {
      auto node =
          cluster.start({.name = name,
                         .role = name + "-role",
                         .trace = {.file = folder / name, .ratio = name == "first" ? ratio_of_first : 1}});
      REQUIRE_MESSAGE(node.ok(), text_of(node));
      nodes.push_back(std::move(*node));
    }
    REQUIRE(nodes[2]->template spawn<Link>("stock", Link{nodes[2].get()}).ok());
    REQUIRE(nodes[1]->wait_for_actor("stock", kPatience).ok());
    REQUIRE(nodes[1]->template spawn<Link>("pricing", Link{nodes[1].get(), "stock", coroutine}).ok());
    REQUIRE(nodes[0]->wait_for_actor("pricing", kPatience).ok());
  }
  /// Ends the nodes, so that all spans are written.
  std::vector<Read> spans() {
    while (!nodes.empty()) nodes.pop_back();
    std::vector<Read> all;
    for (const char* name : {"first", "second", "third"})
      for (Read& span : read_spans(folder / name)) all.push_back(std::move(span));
    return all;
  }

  TemporaryFolder folder;
  C cluster;
  std::vector<std::unique_ptr<Node>> nodes;
};

bool lies_within(const Read& inner, const Read& outer, std::int64_t slack) {
  return inner.start >= outer.start - slack && inner.end <= outer.end + slack && inner.start <= inner.end;
}

}  // namespace

TEST_CASE_TEMPLATE("tracing: a call through three nodes is one trace, each hop the child of the one before",
                   C, TROUPE_CLUSTERS) {
  Line<C> line(1);
  REQUIRE(line.nodes[0]->template rpc_sync<std::int64_t>("pricing", "ask", std::int64_t{4}).ok());
  const auto spans = line.spans();
  REQUIRE(spans.size() == 4);
  const Read& asked = only(spans, "pricing/ask", 3);
  const Read& pricing = only(spans, "pricing/ask", 2);
  const Read& nested = only(spans, "stock/ask", 3);
  const Read& stock = only(spans, "stock/ask", 2);
  CHECK(asked.node == "first");
  CHECK(pricing.node == "second");
  CHECK(nested.node == "second");
  CHECK(stock.node == "third");
  CHECK(stock.role == "third-role");
  CHECK(asked.parent.empty());
  CHECK(pricing.parent == asked.id);
  CHECK(nested.parent == pricing.id);
  CHECK(stock.parent == nested.id);
  CHECK(asked.peer == "second");
  CHECK(pricing.peer == "first");
  CHECK(stock.peer == "second");
  for (const Read& span : spans) CHECK(span.trace == asked.trace);
  // The nodes have read the difference of the system's clock to the loop's one after the other.
  const std::int64_t slack = std::is_same_v<C, SimCluster> ? 0 : 1'000'000;
  CHECK(lies_within(pricing, asked, slack));
  CHECK(lies_within(nested, pricing, 0));
  CHECK(lies_within(stock, nested, slack));
}

TEST_CASE_TEMPLATE("tracing: what the first node does not sample nobody traces", C, TROUPE_CLUSTERS) {
  Line<C> line(0);
  for (std::int64_t i = 0; i < 20; ++i)
    REQUIRE(line.nodes[0]->template rpc_sync<std::int64_t>("pricing", "ask", i).ok());
  REQUIRE(line.nodes[0]->send("pricing", "ask", std::int64_t{1}).ok());
  CHECK(line.spans().empty());
}

TEST_CASE_TEMPLATE("tracing: calls that a coroutine makes later are its children, too", C, TROUPE_CLUSTERS) {
  Line<C> line(1, true);
  REQUIRE(line.nodes[0]->template rpc_sync<std::int64_t>("pricing", "ask", std::int64_t{4}).value() == 8);
  const auto spans = line.spans();
  REQUIRE(spans.size() == 6);
  const Read& pricing = only(spans, "pricing/ask", 2);
  CHECK(std::count_if(spans.begin(), spans.end(), [&](const Read& span) {
          return span.name == "stock/ask" && span.kind == 3 && span.parent == pricing.id;
        }) == 2);
}

TEST_CASE_TEMPLATE("tracing: an error at the end of the line stands at all spans on its way", C,
                   TROUPE_CLUSTERS) {
  Line<C> line(1);
  const auto failed = line.nodes[0]->template rpc_sync<std::int64_t>("pricing", "ask", std::int64_t{-1});
  REQUIRE_FALSE(failed.ok());
  const auto spans = line.spans();
  REQUIRE(spans.size() == 4);
  for (const Read& span : spans) CHECK(span.error == "OUT_OF_RANGE");
  const std::string trace = span_id_text(failed.error().trace_id);
  CHECK(spans[0].trace.ends_with(trace));
}

TEST_CASE(
    "tracing: retries are spans with the actor's name, and calls to an actor of the same node have both") {
  Line<SimCluster> line(1);
  REQUIRE(line.nodes[1]->spawn<Link>("near", Link{line.nodes[1].get()}).ok());
  REQUIRE(line.nodes[1]->rpc_sync<std::int64_t>("near", "ask", std::int64_t{1}).ok());
  REQUIRE(line.nodes[0]
              ->rpc_sync_with<std::int64_t>({.retry = {.max_attempts = 2}}, "stock", "ask", std::int64_t{1})
              .ok());
  const auto spans = line.spans();
  CHECK(only(spans, "near/ask", 2).parent == only(spans, "near/ask", 3).id);
  CHECK(only(spans, "stock/ask", 3).parent == only(spans, "stock/ask", 1).id);
  CHECK(only(spans, "stock/ask", 2).parent == only(spans, "stock/ask", 3).id);
}

TEST_CASE("tracing: settings come from the configuration, and bad ones are refused") {
  ConfigSchema schema;
  add_node_settings(schema);
  const char* const environment[] = {"TROUPE_NODE_TRACE_FILE=/tmp/x", nullptr};
  const std::vector<std::string> flags{"node.trace_endpoint=http://127.0.0.1:4318", "node.trace_ratio=0.5"};
  const NodeOptions options =
      node_options(Config::load(schema, "", environment, flags).value(), {.name = "a"});
  CHECK(options.trace.file == "/tmp/x");
  CHECK(options.trace.endpoint == "http://127.0.0.1:4318");
  CHECK(options.trace.ratio == 0.5);
  CHECK(NodeOptions().trace.ratio == 0.01);
  CHECK_FALSE(NodeOptions().trace.on());
  const std::vector<std::string> too_many{"node.trace_ratio=1.5"};
  CHECK_FALSE(Config::load(schema, "", environment, too_many).ok());

  RealCluster cluster;
  const auto encrypted = cluster.start({.name = "a", .trace = {.endpoint = "https://collector"}});
  REQUIRE_FALSE(encrypted.ok());
  CHECK(contains(encrypted.error().message, "not supported yet"));
  CHECK(code_of(cluster.start({.name = "a", .trace = {.file = "/nowhere/at/all"}})) == Code::kNotFound);
  CHECK(code_of(cluster.start({.name = "a", .trace = {.file = "x", .ratio = -1}})) == Code::kInvalidArgument);
}
