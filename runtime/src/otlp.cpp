// Written by hand but for texts, which may need escapes: a value of the JSON library for every field of every
// span would take several times as long, on the cores that the calls need.
#include "otlp.hpp"

#include <string_view>

#include <troupe/runtime/json.hpp>

namespace troupe {

namespace {

constexpr int kStatusError = 2;  // opentelemetry.proto.trace.v1.Status.StatusCode

void append_text(std::string& out, std::string_view text) {
  const auto plain = [](char c) { return c >= 0x20 && c != 0x7f && c != '"' && c != '\\'; };
  for (const char c : text)
    if (!plain(c)) {  // also bytes that are not ASCII: they may be no UTF-8
      out += to_line(Json(text));
      return;
    }
  ((out += '"') += text) += '"';
}

void append_attribute(std::string& out, std::string_view key, std::string_view value) {
  if (out.back() == '}') out += ',';
  ((out += R"({"key":")") += key) += R"(","value":{"stringValue":)";
  append_text(out, value);
  out += "}}";
}

void append_attribute(std::string& out, std::string_view key, std::int64_t value) {
  if (out.back() == '}') out += ',';
  ((out += R"({"key":")") += key) += R"(","value":{"intValue":")";
  (out += std::to_string(value)) += "\"}}";
}

/// "actor/method", as OpenTelemetry names the spans of remote calls.
std::string name_of(const Span& span, const std::string& method) {
  return span.actor ? *span.actor + "/" + method : method;
}

}  // namespace

OtlpWriter::OtlpWriter(const std::vector<TraceResource>& resource, Duration clock_offset)
    : clock_offset_(clock_offset) {
  head_ = R"({"resourceSpans":[{"resource":{"attributes":[)";
  for (const TraceResource& each : resource)
    std::visit([&](const auto& value) { append_attribute(head_, each.key, value); }, each.value);
  head_ += R"(]},"scopeSpans":[{"scope":{"name":"troupe"},"spans":[)";
}

std::string OtlpWriter::request(std::span<const Span> spans) const {
  constexpr std::size_t kUsual = 640;  // bytes of a span
  std::string out;
  out.reserve(head_.size() + spans.size() * kUsual);
  out = head_;
  for (const Span& span : spans) {
    if (&span != spans.data()) out += ',';
    append(out, span);
  }
  out += "]}]}]}";
  return out;
}

void OtlpWriter::append(std::string& out, const Span& span) const {
  const bool is_call = span.method_hash != 0;
  const std::string method = span.method ? *span.method
                             : is_call   ? "method-" + span_id_text(span.method_hash)
                                         : std::string("work");
  ((out += R"({"traceId":")") += trace_id_text(span.context)) += R"(","spanId":")";
  (out += span_id_text(span.context.span_id)) += '"';
  if (span.parent_id != 0) ((out += R"(,"parentSpanId":")") += span_id_text(span.parent_id)) += '"';
  out += R"(,"name":)";
  append_text(out, name_of(span, method));
  (out += R"(,"kind":)") += std::to_string(static_cast<int>(span.kind));
  ((out += R"(,"startTimeUnixNano":")") += std::to_string((span.start + clock_offset_).ns)) += '"';
  ((out += R"(,"endTimeUnixNano":")") += std::to_string((span.end + clock_offset_).ns)) += '"';
  out += R"(,"attributes":[)";
  if (is_call) {
    append_attribute(out, "rpc.system", "troupe");
    if (span.actor) append_attribute(out, "rpc.service", *span.actor);
    append_attribute(out, "rpc.method", method);
    if (span.peer) append_attribute(out, "peer.service", *span.peer);
    if (span.attempt != 0) append_attribute(out, "troupe.attempt", std::int64_t{span.attempt});
  }
  if (span.code != Code::kOk) {
    append_attribute(out, "error.type", to_string(span.code));
    append_attribute(out, "troupe.code", static_cast<std::int64_t>(span.code));
  }
  out += R"(],"status":{)";
  if (span.code != Code::kOk) {
    out += R"("message":)";
    append_text(out, span.error);
    (out += R"(,"code":)") += std::to_string(kStatusError);
  }
  out += "}}";
}

}  // namespace troupe
