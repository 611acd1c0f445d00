#include <troupe/runtime/json.hpp>

#include <algorithm>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <troupe/runtime/files.hpp>
#include <troupe/runtime/text.hpp>

namespace troupe {
namespace {

// The library's messages begin with "[json.exception.parse_error.101] parse error at line 1, column 2: ";
// the place is told by us, in the form that editors understand.
std::string reason_of(const nlohmann::detail::exception& exception) {
  std::string text = exception.what();
  const auto place = text.find("column ");
  const auto end = place == std::string::npos ? text.find("] ") : text.find(": ", place);
  return end == std::string::npos ? text : text.substr(end + 2);
}

std::string place_of(std::string_view text, std::size_t byte) {
  const std::string_view before = text.substr(0, std::min(byte == 0 ? 0 : byte - 1, text.size()));
  const auto line = std::count(before.begin(), before.end(), '\n') + 1;
  const auto line_start = before.rfind('\n');
  const auto column = before.size() - (line_start == std::string_view::npos ? 0 : line_start + 1) + 1;
  return std::to_string(line) + ":" + std::to_string(column);
}

/// No document of ours comes near it; far deeper ones would overflow the stack when they are written again.
constexpr int kDeepest = 256;

/// As far as brackets outside of strings tell.
bool too_deep(std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kDeepest) return true;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return false;
}

/// Finds a member whose name comes twice in one object: which of them counts would be anybody's guess.
class Names {
 public:
  bool operator()(Json::parse_event_t event, const Json& parsed) {
    if (event == Json::parse_event_t::object_start) open_.emplace_back();
    if (event == Json::parse_event_t::object_end) open_.pop_back();
    if (event == Json::parse_event_t::key && !open_.back().insert(parsed.get<std::string>()).second)
      twice_ = parsed.get<std::string>();
    return true;
  }
  const std::optional<std::string>& twice() const { return twice_; }

 private:
  std::vector<std::set<std::string>> open_;
  std::optional<std::string> twice_;
};

}  // namespace

Result<Json> parse_json(std::string_view text, std::string_view what, JsonComments comments) {
  if (too_deep(text))
    return Error{Code::kInvalidArgument,
                 std::string(what) + ": nested deeper than " + std::to_string(kDeepest) + " levels"};
  try {
    Names names;
    Json value = Json::parse(
        text.begin(), text.end(),
        [&](int /*depth*/, Json::parse_event_t event, Json& parsed) { return names(event, parsed); }, true,
        comments == JsonComments::kAllowed);
    if (!names.twice()) return value;
    return Error{Code::kInvalidArgument, std::string(what) + ": '" + *names.twice() + "' comes twice"};
  } catch (const Json::parse_error& exception) {
    return Error{Code::kInvalidArgument,
                 std::string(what) + ":" + place_of(text, exception.byte) + ": " + reason_of(exception)};
  } catch (const Json::exception& exception) {  // a number too large for a double
    return Error{Code::kInvalidArgument, std::string(what) + ": " + reason_of(exception)};
  }
}

Result<Json> read_json_file(const std::string& path, JsonComments comments) {
  const Result<std::string> text = read_file(path);
  if (!text) return text.error();
  return parse_json(*text, path, comments);
}

Json json_of_bytes(std::string_view bytes) {
  if (is_utf8(bytes)) return std::string(bytes);
  Json numbers = Json::array();
  for (const char byte : bytes) numbers.push_back(static_cast<std::uint8_t>(byte));
  return Json{{"bytes", std::move(numbers)}};
}

std::string bytes_of_json(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  std::string bytes;
  for (const Json& number : value.at("bytes")) bytes += static_cast<char>(number.get<std::uint8_t>());
  return bytes;
}

std::string to_line(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace troupe
