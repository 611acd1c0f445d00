#include "harness.hpp"

#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace troupe::bench {

double seconds_since(SteadyClock::time_point begin) {
  return std::chrono::duration<double>(SteadyClock::now() - begin).count();
}

double percentile(std::vector<double> values, double fraction) {
  if (values.empty()) return 0;
  const auto last = static_cast<double>(values.size() - 1);
  const auto rank = values.begin() + std::lround(fraction * last);
  std::nth_element(values.begin(), rank, values.end());
  return *rank;
}

double median(std::vector<double> values) {
  return percentile(std::move(values), 0.5);
}

std::size_t bandwidth_count(std::size_t bytes) {
  return std::max<std::size_t>(512 * kMiB / bytes, 16);
}

void pin_to_core(int index) {
  cpu_set_t allowed;
  if (::sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (!CPU_ISSET(core, &allowed) || index-- > 0) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(core, &one);
    ::sched_setaffinity(0, sizeof one, &one);
    return;
  }
}

void print_json(const std::string& name, double value, const std::string& unit, const std::string& reference,
                double reference_value) {
  if (reference.empty()) {
    std::printf(
        R"({"name": "%s", "value": %.6g, "unit": "%s", "reference": null, "reference_value": null, "ratio": 1})"
        "\n",
        name.c_str(), value, unit.c_str());
  } else {
    std::printf(
        R"({"name": "%s", "value": %.6g, "unit": "%s", "reference": "%s", "reference_value": %.6g, "ratio": %.4g})"
        "\n",
        name.c_str(), value, unit.c_str(), reference.c_str(), reference_value, value / reference_value);
  }
  std::fflush(stdout);
}

bool wanted(const std::string& name, const std::vector<std::string>& parts) {
  return parts.empty() || std::any_of(parts.begin(), parts.end(), [&](const std::string& part) {
           return name.find(part) != std::string::npos;
         });
}

Child::Child(const std::function<void(int fd)>& body) {
  std::array<int, 2> ends{};
  if (::pipe(ends.data()) != 0) std::abort();
  pid_ = ::fork();
  if (pid_ < 0) std::abort();
  if (pid_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::close(ends[0]);
    body(ends[1]);
    std::_Exit(0);
  }
  ::close(ends[1]);
  from_ = ends[0];
}

Child::~Child() {
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
  ::close(from_);
}

std::string Child::line(std::chrono::seconds timeout) const {
  const auto deadline = SteadyClock::now() + timeout;
  std::string text;
  for (char c = 0;; text += c) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - SteadyClock::now());
    pollfd readable{from_, POLLIN, 0};
    if (::poll(&readable, 1, std::max(0, static_cast<int>(left.count()))) <= 0) return {};
    if (::read(from_, &c, 1) != 1 || c == '\n') return text;
  }
}

void say(int fd, const std::string& text) {
  const std::string whole = text + "\n";
  if (::write(fd, whole.data(), whole.size()) != static_cast<ssize_t>(whole.size())) std::abort();
}

std::optional<double> between_processes(const Serve& serve, const Measure& measure) {
  const Child server([&](int fd) {
    pin_to_core(0);
    serve([fd](const std::string& address) { say(fd, address); });
  });
  const std::string address = server.line();
  if (address.empty()) return std::nullopt;
  const Child client([&](int fd) {
    pin_to_core(1);
    say(fd, std::to_string(measure(address)));
  });
  const double value = std::strtod(client.line().c_str(), nullptr);
  return value > 0 ? std::optional(value) : std::nullopt;
}

namespace {

double median_seconds(const std::function<void()>& once) {
  once();  // connections, caches, pages
  std::vector<double> seconds;
  seconds.reserve(kRepetitions);
  for (int i = 0; i < kRepetitions; ++i) {
    const auto begin = SteadyClock::now();
    once();
    seconds.push_back(seconds_since(begin));
  }
  return median(seconds);
}

}  // namespace

double median_us_each(std::size_t count, const std::function<void()>& once) {
  return median_seconds(once) * 1e6 / static_cast<double>(count);
}

double median_per_second(std::size_t count, const std::function<void()>& once) {
  return static_cast<double>(count) / median_seconds(once);
}

double median_gb_per_s(std::size_t count, std::size_t bytes, const std::function<void()>& once) {
  return static_cast<double>(count * bytes) / 1e9 / median_seconds(once);
}

}  // namespace troupe::bench
