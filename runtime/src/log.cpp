#include <troupe/runtime/log.hpp>

#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <iterator>
#include <mutex>
#include <utility>

#include <spdlog/fmt/chrono.h>
#include <spdlog/fmt/fmt.h>
#include <spdlog/logger.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>

#include <troupe/runtime/config.hpp>
#include <troupe/runtime/json.hpp>
#include <troupe/runtime/process.hpp>
#include <troupe/runtime/text.hpp>

namespace troupe {
namespace {

constexpr std::array<std::string_view, 6> kLevelNames{"trace", "debug", "info", "warn", "error", "off"};

spdlog::level::level_enum spdlog_level(LogLevel level) {
  constexpr std::array<spdlog::level::level_enum, 6> kLevels{spdlog::level::trace, spdlog::level::debug,
                                                             spdlog::level::info,  spdlog::level::warn,
                                                             spdlog::level::err,   spdlog::level::off};
  return kLevels[static_cast<std::size_t>(level)];
}

/// Our names of the levels, padded to one width.
class LevelFlag final : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message, const std::tm& /*time*/,
              spdlog::memory_buf_t& line) override {
    const auto level =
        message.level == spdlog::level::err ? LogLevel::kError : static_cast<LogLevel>(message.level);
    fmt::format_to(std::back_inserter(line), "{:<5}", to_string(level));
  }
  std::unique_ptr<custom_flag_formatter> clone() const override { return std::make_unique<LevelFlag>(); }
};

/// Hands finished lines to a function.
class FunctionSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit FunctionSink(std::function<void(std::string_view)> write) : write_(std::move(write)) {}

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    write_({line.data(), line.size()});
  }
  void flush_() override {}
  std::function<void(std::string_view)> write_;
};

/// A value of a text line; quoted where it would not read as one word.
void append_text(std::string& line, std::string_view text) {
  // Control characters too: a value must not be able to draw on the terminal.
  const bool plain = !text.empty() && text.find_first_of(" \"=\\") == std::string_view::npos &&
                     is_utf8(text) && std::none_of(text.begin(), text.end(), [](char c) {
                       return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
                     });
  line += plain ? std::string(text) : to_line(Json(text));
}

struct TextValue {
  std::string& line;
  void operator()(bool value) const { line += value ? "true" : "false"; }
  void operator()(std::string_view value) const { append_text(line, value); }
  void operator()(Duration value) const { line += to_string(value); }
  template <class T>
  void operator()(T value) const {
    fmt::format_to(std::back_inserter(line), "{}", value);
  }
};

struct JsonValue {
  Json operator()(std::string_view value) const { return std::string(value); }
  Json operator()(Duration value) const { return value.count(); }  // ns
  template <class T>
  Json operator()(T value) const {
    return value;
  }
};

/// All 32 digits, but of an error only the low half has travelled.
std::string text_of_trace(const TraceContext& trace) {
  return trace.trace_high != 0 ? trace_id_text(trace) : span_id_text(trace.trace_low);
}

/// Line feeds and other control characters of a message would break the one-line rule.
void append_message(std::string& line, std::string_view message) {
  for (const char c : is_utf8(message) ? std::string(message) : to_utf8(message)) {
    if (static_cast<unsigned char>(c) >= 0x20 && c != 0x7f) {
      line += c;
    } else {
      line += c == '\n' ? "\\n" : " ";
    }
  }
}

}  // namespace

/// Where the lines of a log go.
class Logger::Sink {
 public:
  Sink(LogOptions options, std::shared_ptr<spdlog::sinks::sink> target)
      : level(options.level), options_(std::move(options)), logger_("troupe", std::move(target)) {
    const char* const text_pattern = options_.clock ? "%^%*%$ %v" : "%H:%M:%S.%e %^%*%$ %v";
    auto formatter = std::make_unique<spdlog::pattern_formatter>(spdlog::pattern_time_type::local,
                                                                 options_.write ? "" : "\n");
    formatter->add_flag<LevelFlag>('*').set_pattern(options_.format == LogFormat::kJson ? "%v"
                                                                                        : text_pattern);
    logger_.set_formatter(std::move(formatter));
    logger_.set_level(spdlog::level::trace);  // decided before, by `level`
    logger_.flush_on(spdlog::level::warn);
  }

  std::string time() const {
    if (options_.clock) return fmt::format("{:.6f}", static_cast<double>(options_.clock->now().ns) * 1e-9);
    const auto now = std::chrono::floor<std::chrono::microseconds>(std::chrono::system_clock::now());
    return fmt::format("{:%Y-%m-%dT%H:%M:%S}Z", now);
  }
  bool json() const { return options_.format == LogFormat::kJson; }
  bool virtual_time() const { return options_.clock != nullptr; }
  void put(LogLevel at, std::string_view line) {
    logger_.log(spdlog_level(at), fmt::string_view(line.data(), line.size()));
  }
  void flush() { logger_.flush(); }

  std::atomic<LogLevel> level;

 private:
  LogOptions options_;
  spdlog::logger logger_;
};

struct Logger::Context {
  std::shared_ptr<Sink> sink;
  std::string node;
  std::string worker;

  std::string text_line(std::string_view message, Fields fields, const TraceContext& trace) const {
    std::string line;
    if (sink->virtual_time()) line += sink->time() + " ";
    if (!node.empty()) line += node + (worker.empty() ? " " : "");
    if (!worker.empty()) line += "/" + worker + " ";
    append_message(line, message);
    for (const LogField& field : fields) {
      line += ' ';
      line += field.key;
      line += '=';
      std::visit(TextValue{line}, field.value);
    }
    if (trace) line += " trace=" + text_of_trace(trace);
    if (trace && trace.span_id != 0) line += " span=" + span_id_text(trace.span_id);
    return line;
  }

  std::string json_line(LogLevel level, std::string_view message, Fields fields,
                        const TraceContext& trace) const {
    nlohmann::ordered_json line;
    line["time"] = sink->time();
    line["level"] = to_string(level);
    if (!node.empty()) line["node"] = node;
    if (!worker.empty()) line["worker"] = worker;
    if (trace) line["trace"] = text_of_trace(trace);
    if (trace && trace.span_id != 0) line["span"] = span_id_text(trace.span_id);
    line["message"] = message;
    for (const LogField& field : fields) line[std::string(field.key)] = std::visit(JsonValue{}, field.value);
    return line.dump(-1, ' ', false, Json::error_handler_t::replace);
  }
};

std::string_view to_string(LogLevel level) {
  return kLevelNames[static_cast<std::size_t>(level)];
}

Result<LogLevel> parse_log_level(std::string_view text) {
  for (std::size_t i = 0; i < kLevelNames.size(); ++i) {
    if (kLevelNames[i] == text) return static_cast<LogLevel>(i);
  }
  return Error{Code::kInvalidArgument,
               "'" + std::string(text) + "' is not a log level; give trace, debug, info, warn, error or off"};
}

Result<Logger> Logger::open(LogOptions options) {
  std::shared_ptr<spdlog::sinks::sink> target;
  try {
    if (options.write) {
      target = std::make_shared<FunctionSink>(options.write);
    } else if (!options.file.empty()) {
      target = std::make_shared<spdlog::sinks::basic_file_sink_mt>(options.file);
    } else {
      target = std::make_shared<spdlog::sinks::stderr_color_sink_mt>(
          terminal_colors(STDERR_FILENO) ? spdlog::color_mode::always : spdlog::color_mode::never);
    }
  } catch (const spdlog::spdlog_ex& exception) {
    return Error{Code::kInvalidArgument, std::string("cannot open the log file: ") + exception.what()};
  }
  auto context = std::make_shared<Context>();
  context->sink = std::make_shared<Sink>(std::move(options), std::move(target));
  Logger logger;
  logger.level_ = &context->sink->level;
  logger.context_ = std::move(context);
  return logger;
}

Logger Logger::with_node(std::string_view node) const {
  Logger marked = *this;
  if (!context_) return marked;
  auto context = std::make_shared<Context>(*context_);
  context->node = node;
  marked.context_ = std::move(context);
  return marked;
}

Logger Logger::with_worker(std::string_view worker) const {
  Logger marked = *this;
  if (!context_) return marked;
  auto context = std::make_shared<Context>(*context_);
  context->worker = worker;
  marked.context_ = std::move(context);
  return marked;
}

Logger Logger::with_trace(std::uint64_t trace_id) const {
  return with_trace(TraceContext{0, trace_id, 0, 0});
}

Logger Logger::with_trace(const TraceContext& trace) const {
  Logger marked = *this;
  marked.trace_ = trace;
  return marked;
}

Logger Logger::with_current_trace(std::shared_ptr<const CurrentTrace> current) const {
  Logger marked = *this;
  marked.current_ = std::move(current);
  return marked;
}

TraceContext Logger::trace_of_line() const {
  if (!current_) return trace_;
  const TraceContext current = current_->current();
  if (!current.sampled()) return trace_;
  // What is known of an error's trace may be a part of the current one.
  const bool same = trace_.trace_high == 0 && trace_.span_id == 0 && trace_.trace_low == current.trace_low;
  return trace_ && !same ? trace_ : current;
}

void Logger::set_level(LogLevel level) {
  if (context_) context_->sink->level.store(level, std::memory_order_relaxed);
}

void Logger::write(LogLevel level, std::string_view message, Fields fields) const {
  if (level == LogLevel::kOff || !context_) return;
  Sink& sink = *context_->sink;
  const TraceContext trace = trace_of_line();
  sink.put(level, sink.json() ? context_->json_line(level, message, fields, trace)
                              : context_->text_line(message, fields, trace));
}

void Logger::error(std::string_view message, const Error& error) const {
  if (!enabled(LogLevel::kError)) return;
  const Logger joined = error.trace_id != 0 ? with_trace(error.trace_id) : *this;
  const std::string_view code = to_string(error.code);
  if (error.node.empty() && error.cause.empty()) {
    joined.write(LogLevel::kError, message, {{"code", code}, {"error", error.message}});
  } else {
    joined.write(LogLevel::kError, message,
                 {{"code", code}, {"error", error.message}, {"at", error.node}, {"cause", error.cause}});
  }
}

void Logger::flush() const {
  if (context_) context_->sink->flush();
}

}  // namespace troupe
