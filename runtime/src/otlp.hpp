#pragma once

#include <span>
#include <string>
#include <vector>

#include <troupe/runtime/span_exporter.hpp>

namespace troupe {

/// OpenTelemetry's ExportTraceServiceRequest in its JSON encoding, on one line: ids in hexadecimal, times
/// as decimal texts of nanoseconds since 1970, kinds and status codes as numbers.
/// https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding
class OtlpWriter {
 public:
  /// `resource`: attributes of this process. `clock_offset` is added to the spans' times.
  OtlpWriter(const std::vector<TraceResource>& resource, Duration clock_offset);
  std::string request(std::span<const Span> spans) const;

 private:
  void append(std::string& out, const Span& span) const;

  std::string head_;  // up to the first span
  Duration clock_offset_;
};

}  // namespace troupe
