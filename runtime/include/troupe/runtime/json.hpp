#pragma once

#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include <troupe/runtime/result.hpp>

namespace troupe {

using Json = nlohmann::json;

/// What a JSON text may hold beyond the standard.
enum class JsonComments : bool { kForbidden, kAllowed };

/// Parses one JSON value. `what` names the text in errors, which say line and column:
/// "job.json:3:14: expected a comma ...". kInvalidArgument; also for an object with a name that comes twice.
Result<Json> parse_json(std::string_view text, std::string_view what,
                        JsonComments comments = JsonComments::kForbidden);

/// parse_json() of a file's contents, named by its path.
Result<Json> read_json_file(const std::string& path, JsonComments comments = JsonComments::kForbidden);

/// `value` on one line; bytes that are not UTF-8 are replaced, so it never throws.
std::string to_line(const Json& value);

/// Any bytes as JSON, such that bytes_of_json() gives them back: a string if they are UTF-8, else
/// {"bytes": [...]}. For paths and words, which may be anything.
Json json_of_bytes(std::string_view bytes);
/// Throws Json::exception for what json_of_bytes() does not make.
std::string bytes_of_json(const Json& value);

}  // namespace troupe
