#pragma once

#include <atomic>
#include <concepts>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <variant>

#include <troupe/runtime/clock.hpp>
#include <troupe/runtime/error.hpp>
#include <troupe/runtime/result.hpp>
#include <troupe/runtime/trace.hpp>

namespace troupe {

enum class LogLevel : std::uint8_t { kTrace, kDebug, kInfo, kWarn, kError, kOff };

std::string_view to_string(LogLevel level);
/// "trace", "debug", "info", "warn", "error" or "off".
Result<LogLevel> parse_log_level(std::string_view text);

enum class LogFormat : std::uint8_t {
  kText,  ///< for people: 12:00:01.250 info  ps-0 joined peer=w-1 trace=4bf9...4736 span=00f0...02b7
  kJson,  ///< one JSON object a line
};

struct LogOptions {
  LogLevel level = LogLevel::kInfo;
  LogFormat format = LogFormat::kText;
  /// Appended to; empty: standard error, coloured if that is a terminal.
  std::string file = {};
  /// If set, lines (without line feed) go here instead; called under a lock, on the thread that logs.
  std::function<void(std::string_view line)> write = {};
  /// If set, times are this clock's, in seconds since its start: for simulations. Must outlive the log.
  const Clock* clock = nullptr;
};

/// A key and a value of a log line. Texts are not copied: use it in the call's argument list only.
struct LogField {
  template <std::integral T>
  LogField(std::string_view k, T v) : key(k) {
    if constexpr (std::same_as<T, bool>)
      value = v;
    else if constexpr (std::signed_integral<T>)
      value = static_cast<std::int64_t>(v);
    else
      value = static_cast<std::uint64_t>(v);
  }
  LogField(std::string_view k, double v) : key(k), value(v) {}
  LogField(std::string_view k, std::string_view v) : key(k), value(v) {}
  LogField(std::string_view k, const char* v) : key(k), value(std::string_view(v)) {}
  LogField(std::string_view k, const std::string& v) : key(k), value(std::string_view(v)) {}
  LogField(std::string_view k, Duration v) : key(k), value(v) {}

  std::string_view key;
  std::variant<bool, std::int64_t, std::uint64_t, double, std::string_view, Duration> value;
};

/// A handle on a structured log; copies write to the same one. Made by open() in main (or a test) and
/// handed to whoever logs. A call below the level costs a load and a branch. Any thread.
///
///     log.info("peer joined", {{"peer", name}, {"rank", rank}});
class Logger {
 public:
  using Fields = std::initializer_list<LogField>;

  /// Logs nothing.
  Logger() = default;
  /// An error if the file cannot be opened.
  static Result<Logger> open(LogOptions options);

  /// The same log, with every line marked by the node or worker it is about.
  Logger with_node(std::string_view node) const;
  Logger with_worker(std::string_view worker) const;
  /// The same log, with every line joined to a trace; 0: to none. Does not allocate.
  Logger with_trace(std::uint64_t trace_id) const;
  /// The same log, with every line joined to a trace and a span of it; none: to none.
  Logger with_trace(const TraceContext& trace) const;
  /// The same log, whose lines are joined to the trace in which the thread works that writes them, if that is
  /// sampled and they are not joined to another.
  Logger with_current_trace(std::shared_ptr<const CurrentTrace> current) const;

  /// Changes the level of this log and all its copies.
  void set_level(LogLevel level);
  bool enabled(LogLevel level) const { return level >= level_->load(std::memory_order_relaxed); }

  void log(LogLevel level, std::string_view message, Fields fields = {}) const {
    if (enabled(level)) write(level, message, fields);
  }
  void trace(std::string_view message, Fields fields = {}) const { log(LogLevel::kTrace, message, fields); }
  void debug(std::string_view message, Fields fields = {}) const { log(LogLevel::kDebug, message, fields); }
  void info(std::string_view message, Fields fields = {}) const { log(LogLevel::kInfo, message, fields); }
  void warn(std::string_view message, Fields fields = {}) const { log(LogLevel::kWarn, message, fields); }
  void error(std::string_view message, Fields fields = {}) const { log(LogLevel::kError, message, fields); }
  /// An Error with its code, message, node and cause as fields, and its trace if it has one.
  void error(std::string_view message, const Error& error) const;

  void flush() const;

 private:
  class Sink;
  struct Context;
  static constexpr std::atomic<LogLevel> kSilent{LogLevel::kOff};

  void write(LogLevel level, std::string_view message, Fields fields) const;
  TraceContext trace_of_line() const;

  const std::atomic<LogLevel>* level_ = &kSilent;  // the sink's, if there is one
  std::shared_ptr<const Context> context_;
  std::shared_ptr<const CurrentTrace> current_;
  TraceContext trace_;
};

}  // namespace troupe
