// Written by hand but for texts, which may need escapes: a value of the JSON library for every field of every
// span would take several times as long, on the cores that the calls need.
#include "otlp.hpp"

#include <array>
#include <charconv>
#include <string_view>

#include <troupe/runtime/json.hpp>
#include <troupe/runtime/text.hpp>

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

void append_number(std::string& out, std::int64_t value) {
  std::array<char, 24> digits;
  out.append(digits.data(), std::to_chars(digits.data(), digits.data() + digits.size(), value).ptr);
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
  append_number(out, value);
  out += "\"}}";
}

void append_id(std::string& out, std::string_view key, std::uint64_t id) {
  ((out += ",\"") += key) += "\":\"";
  out += to_hex(id);
  out += '"';
}

void append_time(std::string& out, std::string_view key, TimePoint time) {
  ((out += ",\"") += key) += "\":\"";
  append_number(out, time.ns);
  out += '"';
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
  std::string unnamed;
  if (!span.method) unnamed = is_call ? "method-" + span_id_text(span.method_hash) : "work";
  const std::string& method = span.method ? *span.method : unnamed;
  out += R"({"traceId":")";
  out += to_hex(span.context.trace_high);
  out += to_hex(span.context.trace_low);
  out += '"';
  append_id(out, "spanId", span.context.span_id);
  if (span.parent_id != 0) append_id(out, "parentSpanId", span.parent_id);
  out += R"(,"name":)";
  // "actor/method", as OpenTelemetry names the spans of remote calls.
  append_text(out, span.actor ? *span.actor + "/" + method : method);
  out += R"(,"kind":)";
  append_number(out, static_cast<int>(span.kind));
  append_time(out, "startTimeUnixNano", span.start + clock_offset_);
  append_time(out, "endTimeUnixNano", span.end + clock_offset_);
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
    out += R"(,"code":)";
    append_number(out, kStatusError);
  }
  out += "}}";
}

}  // namespace troupe
