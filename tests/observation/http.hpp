#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <string>

namespace troupe::test {

struct HttpAnswer {
  int status = 0;  ///< 0: there was none, in time
  std::string body;
};

/// A connection to "127.0.0.1:PORT".
class Connected {
 public:
  explicit Connected(const std::string& address) {
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    to.sin_port = htons(static_cast<std::uint16_t>(std::atoi(address.c_str() + address.rfind(':') + 1)));
    ok_ = connect(fd_, reinterpret_cast<sockaddr*>(&to), sizeof to) == 0;
  }
  ~Connected() { close(fd_); }
  Connected(const Connected&) = delete;
  Connected& operator=(const Connected&) = delete;

  explicit operator bool() const { return ok_; }
  int fd() const { return fd_; }

 private:
  const int fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  bool ok_ = false;
};

/// One GET of `path` from "127.0.0.1:PORT", no longer than `patience`.
inline HttpAnswer http_get(const std::string& address, const std::string& path,
                           std::chrono::seconds patience) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  const Connected connected(address);
  std::string text;
  const std::string request = "GET " + path + " HTTP/1.0\r\nHost: " + address + "\r\n\r\n";
  if (connected && send(connected.fd(), request.data(), request.size(), MSG_NOSIGNAL) ==
                       static_cast<ssize_t>(request.size())) {
    for (;;) {
      const auto left =
          std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
      pollfd waited{connected.fd(), POLLIN, 0};
      if (left.count() <= 0 || poll(&waited, 1, static_cast<int>(left.count())) != 1) break;
      char bytes[16384];
      const ssize_t got = read(connected.fd(), bytes, sizeof bytes);
      if (got <= 0) break;
      text.append(bytes, static_cast<std::size_t>(got));
    }
  }
  const auto head_end = text.find("\r\n\r\n");
  if (head_end == std::string::npos) return {};
  return {std::atoi(text.c_str() + text.find(' ')), text.substr(head_end + 4)};
}

}  // namespace troupe::test
