#include <string>

#include <doctest/doctest.h>
#include <troupe/runtime/host_port.hpp>

using namespace troupe;

TEST_CASE("a host and its port are read, and printed as they were") {
  for (const char* text :
       {"127.0.0.1:4000", "node7.example:0", "[::1]:65535", "[fe80::1%eth0]:4000", "a:1"}) {
    CAPTURE(text);
    const auto read = parse_host_port(text);
    REQUIRE(read.ok());
    CHECK(read->to_string() == text);
  }
  CHECK(parse_host_port("[::1]:7")->host == "::1");
  CHECK(parse_host_port("node7:7")->port == 7);
}

TEST_CASE("what is no host and port is an error that says how to write one") {
  for (const std::string& text :
       {std::string(), std::string(":"), std::string("host"), std::string("host:"), std::string(":80"),
        std::string("host:x"), std::string("host:-1"), std::string("host:65536"), std::string("::1:80"),
        std::string("[::1]"), std::string("[::1:80"), std::string("a\0b:80", 6),
        std::string(70'000, 'h') + ":80"}) {
    const auto read = parse_host_port(text);
    REQUIRE_FALSE(read.ok());
    CHECK(read.error().code == Code::kInvalidArgument);
    CHECK(read.error().message.find("write host:port, [ipv6]:port") != std::string::npos);
    CHECK(read.error().message.size() < 300);
  }
}
