#include <troupe/runtime/config.hpp>

#include <unistd.h>

#include <array>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <troupe/runtime/files.hpp>

using namespace troupe;
using namespace std::chrono_literals;

namespace {

ConfigSchema schema() {
  ConfigSchema schema;
  schema.add("rpc.window", 256, "calls in flight").between(1, 65536);
  schema.add("rpc.timeout", Duration(5s), "default deadline").between(0.001, 60);
  schema.add("rpc.transport", "ucx", "how to talk").one_of({"ucx", "sim"});
  schema.add("train.learning_rate", 0.1, "step size");
  schema.add("train.shuffle", true, "new order each epoch");
  schema.add("train.names", std::vector<std::string>{}, "who takes part");
  return schema;
}

std::string message_of(const Result<void>& result) {
  return result ? "" : result.error().message;
}

std::string text_fault(std::string_view text) {
  Config config(schema());
  return message_of(config.load_text(text, "job.json"));
}

std::string flag_fault(const std::string& flag) {
  Config config(schema());
  return message_of(config.load_flags(std::vector{flag}));
}

std::string environment_fault(const char* variable) {
  Config config(schema());
  const std::array<const char*, 2> environment{variable, nullptr};
  return message_of(config.load_environment(environment.data()));
}

}  // namespace

TEST_CASE("settings have their defaults") {
  const Config config(schema());
  CHECK(config.get<int>("rpc.window") == 256);
  CHECK(config.get<Duration>("rpc.timeout") == 5s);
  CHECK(config.get<std::string>("rpc.transport") == "ucx");
  CHECK(config.get<double>("train.learning_rate") == 0.1);
  CHECK(config.get<bool>("train.shuffle"));
  CHECK(config.get<std::vector<std::string>>("train.names").empty());
  CHECK(config.origin("rpc.window") == "default");
}

TEST_CASE("flags win over the environment, that over the file, that over defaults") {
  const std::string path =
      (std::filesystem::temp_directory_path() / ("troupe-config-" + std::to_string(getpid()))).string();
  REQUIRE(
      write_file_atomically(path, std::string_view("{\n \"rpc\": {\"window\": 1,\n  \"timeout\": \"250ms\",\n"
                                                   "  \"transport\": \"sim\"}, // all of them\n"
                                                   " \"train.names\": [\"a\", \"b\"]}")));
  const std::array<const char*, 4> environment{"TROUPE_RPC_WINDOW=2", "TROUPE_RPC_TIMEOUT=1.5s", "HOME=/",
                                               nullptr};
  const std::vector<std::string> flags{"rpc.window=3"};
  const Result<Config> config = Config::load(schema(), path, environment.data(), flags);
  std::filesystem::remove(path);
  REQUIRE(config.ok());
  CHECK(config->get<int>("rpc.window") == 3);
  CHECK(config->origin("rpc.window") == "flag");
  CHECK(config->get<Duration>("rpc.timeout") == 1500ms);
  CHECK(config->origin("rpc.timeout") == "environment TROUPE_RPC_TIMEOUT");
  CHECK(config->get<std::string>("rpc.transport") == "sim");
  CHECK(config->origin("rpc.transport") == path + ":4");
  CHECK(config->get<std::vector<std::string>>("train.names") == std::vector<std::string>{"a", "b"});
  CHECK(config->get<double>("train.learning_rate") == 0.1);
}

TEST_CASE("an unknown setting is an error that tells the nearest one and the place") {
  CHECK(text_fault("{\n\"rpc\": {\n\"windw\": 4}}") ==
        "job.json:3: unknown setting 'rpc.windw'; did you mean 'rpc.window'?");
  CHECK(flag_fault("learning_rate=1") ==
        "flag: unknown setting 'learning_rate'; did you mean 'train.learning_rate'?");
  CHECK(flag_fault("zzzzzzzz=1") == "flag: unknown setting 'zzzzzzzz'; --print-config lists those there are");
  CHECK(environment_fault("TROUPE_RPC_WINDOWS=1") ==
        "environment: unknown variable TROUPE_RPC_WINDOWS; did you mean TROUPE_RPC_WINDOW?");
}

TEST_CASE("a bad value is an error that tells what would do") {
  CHECK(flag_fault("rpc.window=many") == "flag: rpc.window (calls in flight): 'many' is not a whole number");
  CHECK(flag_fault("rpc.window=0") ==
        "flag: rpc.window (calls in flight): 0: it must be between 1 and 65536");
  CHECK(flag_fault("rpc.timeout=5").find("give a number and h, m, s, ms, us or ns") != std::string::npos);
  CHECK(flag_fault("rpc.timeout=2m") ==
        "flag: rpc.timeout (default deadline): 2m: it must be between 0.001 and 60 seconds");
  CHECK(flag_fault("rpc.transport=tcp").find("must be one of: ucx, sim") != std::string::npos);
  CHECK(flag_fault("train.shuffle=perhaps").find("is not true or false") != std::string::npos);
  CHECK(flag_fault("rpc.window") == "flag 'rpc.window': give it as section.key=value");
  CHECK(text_fault("{\"rpc\": {\"window\": 1.5}}") ==
        "job.json:1: rpc.window (calls in flight): '1.5' is not a whole number");
  CHECK(text_fault("{\"rpc\": {\"timeout\": 5}}").find("a duration in quotes") != std::string::npos);
  CHECK(text_fault("{\"train\": {\"names\": \"a\"}}").find("is not a list of texts") != std::string::npos);
  CHECK(text_fault("[1]").find("job.json:1: a configuration is a JSON object") == 0);
  CHECK(text_fault("{\n\n\"rpc\": }").starts_with("job.json:3:"));
}

TEST_CASE("of several faults of a file the first is told") {
  CHECK(text_fault("{\n\"zz\": 1,\n\"aa\": 2}").starts_with("job.json:2: unknown setting 'zz'"));
}

TEST_CASE("texts of flags are read by the type of the setting") {
  Config config(schema());
  const std::vector<std::string> flags{"train.shuffle=no", "train.learning_rate=1e-3", "train.names=a,b,c",
                                       "rpc.timeout=10us"};
  CHECK(message_of(config.load_flags(flags)).find("rpc.timeout") != std::string::npos);
  CHECK_FALSE(config.get<bool>("train.shuffle"));
  CHECK(config.get<float>("train.learning_rate") == 0.001F);
  CHECK(config.get<std::vector<std::string>>("train.names").size() == 3);
}

TEST_CASE("reserved variables are no settings") {
  ConfigSchema reserving = schema();
  reserving.reserve_environment("TROUPE_TEST_");
  Config config(reserving);
  const std::array<const char*, 2> environment{"TROUPE_TEST_X=1", nullptr};
  CHECK(config.load_environment(environment.data()).ok());
}

TEST_CASE("variables of Kubernetes's services are no settings, what else begins as ours is told of") {
  Config config(schema());
  const std::vector<const char*> of_services{"TROUPE_SERVICE_HOST=10.0.0.7",
                                             "TROUPE_SERVICE_PORT=4711",
                                             "TROUPE_SERVICE_PORT_MEETING=4711",
                                             "TROUPE_PORT=tcp://10.0.0.7:4711",
                                             "TROUPE_PORT_4711_TCP=tcp://10.0.0.7:4711",
                                             "TROUPE_PORT_4711_TCP_PROTO=tcp",
                                             "TROUPE_PORT_4711_TCP_PORT=4711",
                                             "TROUPE_PORT_4711_TCP_ADDR=10.0.0.7",
                                             "TROUPE_PORT_53_UDP=udp://10.0.0.7:53",
                                             "TROUPE_PS_0_SERVICE_HOST=10.0.0.8",
                                             "TROUPE_PS_0_PORT=tcp://10.0.0.8:4711",
                                             "TROUPE_PS_0_PORT_4711_TCP_ADDR=10.0.0.8",
                                             nullptr};
  CHECK(message_of(config.load_environment(of_services.data())) == "");
  for (const char* variable : {"TROUPE_PORT=4711", "TROUPE_RPC_WINDOWS=1", "TROUPE_PORT_X_TCP=1",
                               "TROUPE_PORT_4711_TCPX=1", "TROUPE_4711_TCP=1"}) {
    const std::array<const char*, 2> environment{variable, nullptr};
    CHECK(message_of(config.load_environment(environment.data())).find("unknown variable") !=
          std::string::npos);
  }
}

TEST_CASE("a confidential setting from the environment is without the line end of its file") {
  ConfigSchema keyed = schema();
  keyed.add("node.secret", "", "what all know").confidential();
  Config config(keyed);
  const std::array<const char*, 2> environment{"TROUPE_NODE_SECRET= sixteen bytes or more\n", nullptr};
  REQUIRE(config.load_environment(environment.data()).ok());
  CHECK(config.get<std::string>("node.secret") == "sixteen bytes or more");
}

TEST_CASE("a missing file is an error, and a name that is not declared is a bug") {
  Config config(schema());
  const Result<void> loaded = config.load_file("/nonexistent/job.json");
  REQUIRE_FALSE(loaded);
  CHECK(loaded.error().code == Code::kNotFound);
  CHECK_THROWS_AS(static_cast<void>(config.get<int>("rpc.nothing")), std::logic_error);
  CHECK_THROWS_AS(static_cast<void>(config.get<bool>("rpc.window")), std::logic_error);
}

TEST_CASE("the settings print with value, help and origin") {
  Config config(schema());
  REQUIRE(config.load_flags(std::vector<std::string>{"rpc.window=9"}));
  const std::string text = config.to_string();
  CHECK(text.find("rpc.window = 9 ") != std::string::npos);
  CHECK(text.find("# calls in flight (flag)\n") != std::string::npos);
  CHECK(text.find("rpc.timeout = 5s ") != std::string::npos);
}

TEST_CASE("durations read and print") {
  CHECK(*parse_duration("7ns") == 7ns);
  CHECK(*parse_duration("1.5h") == 90min);
  CHECK(*parse_duration("-2ms") == -2ms);
  for (const char* bad : {"", "5", "ms", "5 s", "1e30h", "nans", "5sx"}) CHECK_FALSE(parse_duration(bad));
  CHECK(to_string(Duration(250ms)) == "250ms");
  CHECK(to_string(Duration(90s)) == "90s");
  CHECK(to_string(Duration(0)) == "0s");
}
