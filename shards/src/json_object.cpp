#include "json_object.hpp"

#include <utility>

namespace troupe::shards {
namespace {

const Json& null_json() {
  static const Json null;
  return null;
}

}  // namespace

JsonObject::JsonObject(const Json& json, std::string what) : json_(json), what_(std::move(what)) {
  if (!json_.is_object()) fault("expected a JSON object, got " + std::string(json_.type_name()));
}

void JsonObject::fault(const std::string& message) {
  if (result_) result_ = Error{Code::kInvalidArgument, what_ + ": " + message};
}

const Json* JsonObject::optional_member(const char* name) {
  known_.insert(name);
  if (!json_.is_object()) return nullptr;
  const auto found = json_.find(name);
  return found == json_.end() ? nullptr : &*found;
}

const Json& JsonObject::member(const char* name) {
  known_.insert(name);
  if (!json_.is_object()) return null_json();
  const auto found = json_.find(name);
  if (found != json_.end()) return *found;
  fault("'" + std::string(name) + "' is missing");
  return null_json();
}

std::uint64_t JsonObject::integer(const char* name, std::uint64_t most) {
  const Json& value = member(name);
  if (value.is_number_unsigned() && value.get<std::uint64_t>() <= most) return value.get<std::uint64_t>();
  fault("'" + std::string(name) + "' is " + to_line(value) + ", expected a whole number from 0 to " +
        std::to_string(most));
  return 0;
}

float JsonObject::number(const char* name) {
  const Json& value = member(name);
  if (value.is_number()) return value.get<float>();
  fault("'" + std::string(name) + "' is " + to_line(value) + ", expected a number");
  return 0;
}

std::string JsonObject::text(const char* name) {
  const Json& value = member(name);
  if (value.is_string()) return value.get<std::string>();
  fault("'" + std::string(name) + "' is " + to_line(value) + ", expected a string");
  return {};
}

Result<void> JsonObject::finish() {
  if (!result_) return result_;
  for (const auto& [name, value] : json_.items()) {
    if (!known_.contains(name)) fault("'" + name + "' is not known here");
  }
  return result_;
}

}  // namespace troupe::shards
