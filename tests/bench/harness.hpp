#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <vector>

/// What the benchmarks share: time, processes on cores of their own, and lines of JSON.
namespace troupe::bench {

inline constexpr std::size_t kMiB = std::size_t{1} << 20;
/// How often a figure is taken inside a process; the median counts.
inline constexpr int kRepetitions = 5;

using SteadyClock = std::chrono::steady_clock;

double seconds_since(SteadyClock::time_point begin);
/// 0 for no values.
double median(std::vector<double> values);
/// The value below which `fraction` (0 to 1) of the values lie.
double percentile(std::vector<double> values, double fraction);
/// How many messages of `bytes` make one repetition of a bandwidth: half a GiB, but no fewer than 16.
std::size_t bandwidth_count(std::size_t bytes);
/// Pins the calling thread, and those that it starts, to the `index`-th core that it may run on.
void pin_to_core(int index);
/// One line of the benchmarks' JSON on the standard output; without a reference, `reference` is empty.
void print_json(const std::string& name, double value, const std::string& unit,
                const std::string& reference = {}, double reference_value = 0);
/// Whether a figure of this name is asked for: one of `parts` stands in it, or there are none.
bool wanted(const std::string& name, const std::vector<std::string>& parts);

/// A child that runs `body(fd)`, fd being a pipe to us. It ends with us, or when this object goes.
/// Children are made before this process starts threads or uses a library that does.
class Child {
 public:
  explicit Child(const std::function<void(int fd)>& body);
  ~Child();
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  /// What it writes, up to a newline or its end; empty if that does not come within `timeout`.
  std::string line(std::chrono::seconds timeout = std::chrono::seconds(60)) const;
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = 0;
  int from_ = -1;
};

/// Writes a line for Child::line().
void say(int fd, const std::string& text);

/// Says where the server is reached, once, from inside Serve.
using Ready = std::function<void(const std::string& address)>;
/// Serves until it is killed; a server that returns is gone.
using Serve = std::function<void(const Ready& ready)>;
using Measure = std::function<double(const std::string& address)>;

/// Runs `serve` in a child on core 0 and `measure` in a child on core 1, and returns what that measured;
/// nothing if either fails.
std::optional<double> between_processes(const Serve& serve, const Measure& measure);

/// A figure that a program can take, under the name that its line has.
struct Figure {
  std::string name;
  std::string unit;
  std::function<std::optional<double>()> take;
};

/// Medians over kRepetitions of `once`, a repetition of `count` things, after one that does not count.
double median_us_each(std::size_t count, const std::function<void()>& once);
double median_per_second(std::size_t count, const std::function<void()>& once);
double median_gb_per_s(std::size_t count, std::size_t bytes, const std::function<void()>& once);

}  // namespace troupe::bench
