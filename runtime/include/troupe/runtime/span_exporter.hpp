#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include <troupe/runtime/log.hpp>
#include <troupe/runtime/process.hpp>
#include <troupe/runtime/span.hpp>

namespace troupe {

/// Which traces are kept, and where their spans go.
struct TraceOptions {
  std::string file = {};      ///< appended to, one export request on each line
  std::string endpoint = {};  ///< of a collector: http://host:port, or with a path; else /v1/traces is added
  double ratio = 0.01;        ///< of the traces that begin here, 0 to 1
  bool on() const { return !file.empty() || !endpoint.empty(); }
};

/// A key and its value, which says something of a process: OpenTelemetry's resource attributes.
struct TraceResource {
  std::string key;
  std::variant<std::string, std::int64_t> value;
};

/// How spans are exported.
struct SpanExportOptions {
  std::string file = {};                     ///< as in TraceOptions
  std::string endpoint = {};                 ///< likewise
  std::vector<TraceResource> resource = {};  ///< said of this process beside each batch, service.name first
  std::size_t buffered_spans = 1 << 13;      ///< what waits at most; past it spans are dropped
  std::size_t batch_spans = 512;             ///< in one request
  Duration interval{std::chrono::seconds(1)};
  Duration post_timeout{std::chrono::seconds(2)};  ///< of one attempt
  int post_attempts = 4;                           ///< to send one batch, before it is dropped
  Duration first_backoff{std::chrono::milliseconds(100)};
  Duration close_timeout{std::chrono::seconds(3)};  ///< how long what is left may take at the end
  /// Added to a span's times to make them those since 1970.
  Duration clock_offset{0};
  Logger log = {};
};

/// How far the system's time, since 1970, is ahead of `clock`.
Duration offset_to_system_time(const Clock& clock);

class SpanOutput;

/// Takes finished spans and writes them as OTLP/HTTP JSON to a file, or posts them to a collector, in a
/// thread of its own: it never holds anybody up. What cannot be sent is dropped, counted, and told in the
/// log.
class SpanExporter {
 public:
  struct Stats {
    std::uint64_t exported = 0;  ///< spans
    std::uint64_t dropped = 0;   ///< found no room, or could not be sent
  };

  /// kInvalidArgument: neither file nor endpoint, or the endpoint cannot be understood. Errors of opening the
  /// file. A collector that is not there is no error: it may come later.
  static Result<std::unique_ptr<SpanExporter>> open(SpanExportOptions options);
  /// close().
  ~SpanExporter();
  SpanExporter(const SpanExporter&) = delete;
  SpanExporter& operator=(const SpanExporter&) = delete;

  /// Where to put spans; one thread at a time.
  SpanBuffer& spans() { return spans_; }
  /// Exports what is there and ends, within close_timeout; spans that come later are lost. Any thread.
  /// Idempotent.
  void close();
  /// Waits until all that was put there before has been exported or dropped; false: not within `timeout`.
  bool flush(Duration timeout);
  Stats stats() const;

 private:
  SpanExporter(SpanExportOptions options, std::vector<std::unique_ptr<SpanOutput>> outputs);
  Result<void> begin();
  void run();
  void export_batches();
  void send(const std::string& request, std::size_t spans);
  bool send_to(SpanOutput& output, const std::string& request);
  void tell_of_full_buffer();
  /// Before another attempt; ends early when close() begins. False: there is no time for one.
  bool pause(Duration time);
  Duration time_left() const;

  const HomeProcess process_;
  const SpanExportOptions options_;
  const std::vector<std::unique_ptr<SpanOutput>> outputs_;
  SpanBuffer spans_;
  std::atomic<std::uint64_t> exported_{0}, lost_{0};

  // The exporter's thread.
  std::vector<Span> batch_;
  std::uint64_t told_of_ = 0;  // spans that found no room, of which the log tells already
  bool failing_ = false;       // the last batch was lost
  std::uint64_t lost_since_told_ = 0;

  mutable std::mutex mutex_;  // of what follows
  std::condition_variable changed_;
  bool closing_ = false, ended_ = false, due_ = false;
  TimePoint close_by_ = TimePoint::never();
  std::uint64_t rounds_ = 0;  // begun
  std::uint64_t rounds_done_ = 0;
  std::thread thread_;
};

}  // namespace troupe
