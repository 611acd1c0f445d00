#include "troupe/tools/meeting.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <random>

#include <troupe/runtime/unique_fd.hpp>

namespace troupe::tools {
namespace {

constexpr std::string_view kLoopback = "127.0.0.1:";

// A port of a loopback device that is down can be bound, but nobody gets there: processes would try until
// they give up.
bool is_loopback_down() {
  UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(1);  // to which nothing is sent: only the way is looked up
  return connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 &&
         (errno == ENETUNREACH || errno == ENETDOWN);
}

// Binds a loopback port (0: any) for a moment. Returns the port, or -1 with errno set.
int try_port(int port) {
  UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  int yes = 1;
  // A port whose last user has just ended is free for the registry too.
  setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  auto* any = reinterpret_cast<sockaddr*>(&address);
  socklen_t size = sizeof address;
  // Only listening tells whether someone else listens: SO_REUSEADDR lets two bind.
  if (bind(socket.get(), any, size) != 0 || listen(socket.get(), 1) != 0) return -1;
  if (getsockname(socket.get(), any, &size) != 0) return -1;
  return ntohs(address.sin_port);
}

// A port that is free and that the kernel gives nobody by itself: one that it has just given us, and that we
// have closed, may be the next outgoing connection's before the registry binds it.
int free_port() {
  constexpr int kFirst = 10240;
  constexpr int kAttempts = 64;
  int first_given = 0;
  std::ifstream("/proc/sys/net/ipv4/ip_local_port_range") >> first_given;
  if (first_given - kFirst >= 1000) {
    std::random_device random;
    std::uniform_int_distribution<int> ports(kFirst, first_given - 1);
    for (int attempt = 0; attempt < kAttempts; ++attempt)
      if (int port = try_port(ports(random)); port >= 0) return port;
  }
  return try_port(0);
}

Outcome<std::string> fresh_socket_path() {
  std::error_code error;
  std::string pattern = (std::filesystem::temp_directory_path(error) / "troupe-XXXXXX").string();
  if (error || mkdtemp(pattern.data()) == nullptr) return Problem{"cannot make a temporary folder"};
  return pattern + "/registry";
}

std::string now_text() {
  std::time_t now = std::time(nullptr);
  std::tm parts{};
  localtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y%m%d-%H%M%S", &parts);
  return text;
}

}  // namespace

Outcome<std::string> choose_registry(const std::string& wanted) {
  if (wanted == "unix") return fresh_socket_path();
  bool any_port = wanted == "tcp";
  if (!any_port && !wanted.starts_with(kLoopback)) return wanted;
  int port = any_port ? 0 : std::atoi(wanted.c_str() + kLoopback.size());
  if (port < 0 || port > 65535) return Problem{wanted + ": no such port"};
  if (is_loopback_down())
    return Problem{"127.0.0.1 cannot be reached: the loopback device is down here (ip link set lo up)"};
  int bound = any_port ? free_port() : try_port(port);
  if (bound >= 0) return std::string(kLoopback) + std::to_string(bound);
  if (errno == EADDRINUSE) return Problem{"port " + std::to_string(port) + " is in use"};
  return Problem{"cannot bind " + wanted + ": " + std::strerror(errno)};
}

void remove_registry(const std::string& path) {
  std::error_code error;
  std::filesystem::remove_all(std::filesystem::path(path).parent_path(), error);
}

Outcome<std::string> make_run_dir(const std::string& wanted, const std::string& job_name) {
  std::error_code error;
  if (!wanted.empty()) {
    std::filesystem::create_directories(wanted, error);
    if (error || !std::filesystem::is_directory(wanted))
      return Problem{"cannot make the run folder " + wanted};
    return wanted;
  }
  std::string base = "out/" + job_name + "-" + now_text();
  std::filesystem::create_directories("out", error);
  for (int attempt = 1; attempt < 1000; ++attempt) {
    std::string folder = attempt == 1 ? base : base + "-" + std::to_string(attempt);
    // mkdir, not create_directories: only one of two jobs of the same second gets the folder.
    if (mkdir(folder.c_str(), 0777) == 0) return folder;
    if (errno != EEXIST) return Problem{"cannot make the run folder " + folder + ": " + std::strerror(errno)};
  }
  return Problem{"cannot make a fresh run folder " + base};
}

}  // namespace troupe::tools
