#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>

#include <troupe/runtime/json.hpp>
#include <troupe/runtime/result.hpp>

namespace troupe::shards {

/// Reads the members of a JSON object strictly: the first missing or ill-typed one, or one that nobody
/// asked for, is what finish() returns. Until then reads after a fault give empty values.
class JsonObject {
 public:
  /// `what` names the object in errors. `json` must outlive this.
  JsonObject(const Json& json, std::string what);

  std::uint64_t integer(const char* name, std::uint64_t most = UINT64_MAX);
  float number(const char* name);
  std::string text(const char* name);
  /// A member of any type; a null value if it is missing.
  const Json& member(const char* name);
  /// Null if it is missing, which is no fault.
  const Json* optional_member(const char* name);
  /// Makes `message` the fault, unless there is one.
  void fault(const std::string& message);

  /// kInvalidArgument, or success if all was well.
  Result<void> finish();

 private:
  const Json& json_;
  std::string what_;
  std::set<std::string, std::less<>> known_;
  Result<void> result_;
};

}  // namespace troupe::shards
