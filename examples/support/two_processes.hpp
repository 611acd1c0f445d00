#pragma once

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>
#include <type_traits>

namespace examples {

/// Runs a small example in two processes. `second(address)` runs in a process of its own, forked before
/// there is anything else, and gets what `first(tell)` gives to `tell(address)`. It is ended with the first.
/// Returns the exit code: 0, 1 if `first` failed (it throws), 2 for arguments other than --help.
template <class Second, class First>
int two_processes(int argc, char** argv, const char* help, Second second, First first) {
  if (argc > 1) {
    const bool asked = std::strcmp(argv[1], "--help") == 0 || std::strcmp(argv[1], "-h") == 0;
    std::fprintf(asked ? stdout : stderr, "%s\n", asked ? help : "unknown argument; see --help");
    return asked ? 0 : 2;
  }
  std::array<int, 2> pipe_ends{};
  if (pipe(pipe_ends.data()) != 0) return std::perror("pipe"), 1;
  const pid_t child = fork();
  if (child < 0) return std::perror("fork"), 1;
  const auto guarded = [&](auto&& body) {
    try {
      body();
      return 0;
    } catch (const std::exception& exception) {
      std::fprintf(stderr, "%s: %s\n", argv[0], exception.what());
      return 1;
    }
  };
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    close(pipe_ends[1]);
    std::array<char, 256> address{};
    const ssize_t length = read(pipe_ends[0], address.data(), address.size());
    const int code =
        length > 0 ? guarded([&] { second(std::string(address.data(), static_cast<std::size_t>(length))); })
                   : 1;
    std::fflush(nullptr);
    _exit(code);
  }
  close(pipe_ends[0]);
  const auto tell = [&](const std::string& address) {
    if (write(pipe_ends[1], address.data(), address.size()) < 0) std::perror("write");
    close(pipe_ends[1]);
  };
  const int code = guarded([&] {
    if constexpr (std::is_invocable_v<First, decltype(tell), pid_t>)
      first(tell, child);
    else
      first(tell);
  });
  if (code != 0) kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  return code;
}

}  // namespace examples
