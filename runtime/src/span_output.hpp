#pragma once

#include <memory>
#include <string>

#include <troupe/runtime/clock.hpp>
#include <troupe/runtime/result.hpp>

namespace troupe {

/// Where export requests go. One thread, but for stop().
class SpanOutput {
 public:
  virtual ~SpanOutput() = default;
  /// Tries once, for no longer than `timeout`. kUnavailable: it may work later.
  virtual Result<void> send(const std::string& request, Duration timeout) = 0;
  /// Ends a send() that is under way, if it can. Any thread.
  virtual void stop() {}
};

/// A file with one request on each line, as OpenTelemetry's file exporter writes it and its receiver reads
/// it.
Result<std::unique_ptr<SpanOutput>> open_span_file(const std::string& path);
/// Requests to a collector. kInvalidArgument: `url` is no http:// address.
Result<std::unique_ptr<SpanOutput>> open_span_post(const std::string& url);

}  // namespace troupe
