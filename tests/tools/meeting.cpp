#include <arpa/inet.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <fstream>
#include <string>
#include <thread>

#include <doctest/doctest.h>
#include <troupe/tools/meeting.hpp>

namespace troupe::tools {
namespace {

int port_of(const Outcome<std::string>& address) {
  REQUIRE(std::holds_alternative<std::string>(address));
  const std::string& text = std::get<std::string>(address);
  REQUIRE(text.starts_with("127.0.0.1:"));
  return std::stoi(text.substr(10));
}

}  // namespace

TEST_CASE("a free loopback port is none that the kernel gives to outgoing connections") {
  int first = 0, last = 0;
  std::ifstream("/proc/sys/net/ipv4/ip_local_port_range") >> first >> last;
  for (int i = 0; i < 100; ++i) {
    const int port = port_of(choose_registry("tcp"));
    CHECK(port > 0);
    if (first >= 11240) {
      CHECK((port < first || port > last));
    }
  }
}

TEST_CASE("a port in use is a problem that names it, and is not chosen") {
  const int port = port_of(choose_registry("tcp"));
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  REQUIRE(::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  REQUIRE(::listen(fd, 1) == 0);
  const auto taken = choose_registry("127.0.0.1:" + std::to_string(port));
  REQUIRE(std::holds_alternative<Problem>(taken));
  CHECK(std::get<Problem>(taken).text.find(std::to_string(port)) != std::string::npos);
  ::close(fd);
  CHECK(port_of(choose_registry("127.0.0.1:" + std::to_string(port))) == port);
}

TEST_CASE("where the loopback device is down it is said before anything is started") {
  std::string problem;
  std::thread other([&] {  // the namespace is the thread's own
    if (::unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0 && ::unshare(CLONE_NEWNET) != 0) {
      problem = "skipped";
      return;
    }
    for (const char* wanted : {"tcp", "127.0.0.1:4711"}) {
      const auto chosen = choose_registry(wanted);
      problem = std::holds_alternative<Problem>(chosen) ? std::get<Problem>(chosen).text : "none";
      if (problem == "none") return;
    }
  });
  other.join();
  if (problem == "skipped") {
    MESSAGE("skipped: no network namespace can be made here");
    return;
  }
  CHECK(problem.find("loopback device is down") != std::string::npos);
}

}  // namespace troupe::tools
