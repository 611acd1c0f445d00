#include <troupe/actors/node_config.hpp>

#include <doctest/doctest.h>

#include <string>
#include <vector>

using namespace troupe;
using namespace std::chrono_literals;

namespace {
Config configured(const char* const* environment, const std::vector<std::string>& flags) {
  ConfigSchema schema;
  add_node_settings(schema);
  return Config::load(schema, "", environment, flags).value();
}
}  // namespace

TEST_CASE("node configuration: what nobody has set leaves the program's options") {
  const char* const none[] = {nullptr};
  const NodeOptions options =
      node_options(configured(none, {}), {.name = "a", .role = "server", .silence_limit = 30s});
  CHECK(options.name == "a");
  CHECK(options.role == "server");
  CHECK(options.silence_limit == 30s);
  CHECK(options.listen == NodeOptions().listen);
}

TEST_CASE("node configuration: the environment overrides the program, flags override both") {
  const char* const environment[] = {"TROUPE_NODE_SILENCE_LIMIT=7s", "TROUPE_NODE_TRANSPORT=tcp", nullptr};
  const NodeOptions options =
      node_options(configured(environment, {"node.transport=shm"}), {.name = "a", .silence_limit = 30s});
  CHECK(options.silence_limit == 7s);
  CHECK(options.transport.transports == "shm");
}

TEST_CASE("node configuration: a secret comes from the environment, never from a flag, and is not shown") {
  const char* const environment[] = {"TROUPE_NODE_SECRET=0123456789abcdef", nullptr};
  const Config config = configured(environment, {});
  CHECK(node_options(config, {.name = "a"}).secret == "0123456789abcdef");
  CHECK(config.to_string().find("0123456789abcdef") == std::string::npos);
  CHECK(config.to_string().find("(hidden)") != std::string::npos);
  ConfigSchema schema;
  add_node_settings(schema);
  const std::vector<std::string> flags{"node.secret=0123456789abcdef"};
  const char* const none[] = {nullptr};
  const auto shown = Config::load(schema, "", none, flags);
  REQUIRE_FALSE(shown);
  CHECK(shown.error().code == Code::kInvalidArgument);
  CHECK(shown.error().message.find("TROUPE_NODE_SECRET") != std::string::npos);
  CHECK(shown.error().message.find("0123456789abcdef") == std::string::npos);
}

TEST_CASE("node configuration: the pool, helping and the last one out are settings, too") {
  const char* const environment[] = {"TROUPE_NODE_POOL_THREADS=7", "TROUPE_LOOP_HELP=false", nullptr};
  const NodeOptions options = node_options(
      configured(environment,
                 {"node.pool_waiting=9", "node.pool_patience=250ms", "node.close_with_last=true"}),
      {.name = "a", .pool_waiting = 3});
  CHECK(options.pool_threads == 7);
  CHECK(options.pool_waiting == 9);
  CHECK(options.pool_patience == 250ms);
  CHECK_FALSE(options.loop.help);
  CHECK(options.close_with_last);
  ConfigSchema schema;
  add_node_settings(schema);
  const std::vector<std::string> flags{"node.pool_threads=-1"};
  const char* const none[] = {nullptr};
  CHECK_FALSE(Config::load(schema, "", none, flags).ok());
}

TEST_CASE("node configuration: a setting that has another name now says so") {
  ConfigSchema schema;
  add_node_settings(schema);
  const char* const none[] = {nullptr};
  const std::vector<std::string> flags{"node.publish=node7"};
  const auto by_flag = Config::load(schema, "", none, flags);
  REQUIRE_FALSE(by_flag);
  CHECK(by_flag.error().message == "flag: the setting 'node.publish' is called 'node.advertise' now");
  const char* const old[] = {"TROUPE_NODE_PUBLISH=node7", nullptr};
  const auto by_environment = Config::load(schema, "", old, {});
  REQUIRE_FALSE(by_environment);
  CHECK(by_environment.error().message ==
        "environment: TROUPE_NODE_PUBLISH is called TROUPE_NODE_ADVERTISE now");
}

TEST_CASE("node configuration: a bad value names its place") {
  const char* const environment[] = {"TROUPE_LOG_LEVEL=loud", nullptr};
  ConfigSchema schema;
  add_node_settings(schema);
  auto config = Config::load(schema, "", environment, {});
  REQUIRE_FALSE(config);
  CHECK(config.error().code == Code::kInvalidArgument);
  CHECK(config.error().message.find("TROUPE_LOG_LEVEL") != std::string::npos);
}

TEST_CASE("node configuration: the log that was asked for") {
  const char* const none[] = {nullptr};
  CHECK(open_log(configured(none, {"log.level=off"})));
}
