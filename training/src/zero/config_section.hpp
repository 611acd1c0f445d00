#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <troupe/runtime/json.hpp>
#include <troupe/runtime/result.hpp>

namespace troupe::training::zero {

/// What is found while a configuration is read.
struct Findings {
  std::optional<Error> fault;        ///< the first one
  std::vector<std::string> unknown;  ///< keys
  std::vector<std::string> ignored;  ///< keys
  void add(Code code, const std::string& message) {
    if (!fault) fault = Error{code, message};
  }
};

/// An object of a configuration: gives values by name, or what they are where nothing is said.
class Section {
 public:
  /// `json` may be null: there is none. `path`: what stands before a key's name, "fp16.".
  Section(const Json* json, std::string path, Findings& findings);

  bool there() const { return json_ != nullptr; }
  bool has(const char* name) const { return find(name) != nullptr; }
  bool flag(const char* name, bool usual);
  double number(const char* name, double usual);
  /// 5e8 is one, too.
  std::int64_t whole(const char* name, std::int64_t usual, std::int64_t least = 0);
  std::string text(const char* name, const std::string& usual);
  std::vector<double> numbers(const char* name, std::vector<double> usual);
  Section section(const char* name);

  /// Known, and without a meaning here.
  void ignore(std::initializer_list<const char*> names);
  /// Not there unless it is off: missing, null, false, 0, "none", or {"enabled": false}.
  void refuse(std::initializer_list<const char*> names);
  /// Not there unless it is this value.
  void refuse_unless(const char* name, const Json& value);
  void fault(const char* name, const std::string& expected);
  void unimplemented(const char* name, const std::string& why);
  /// Names what nobody has asked for.
  void finish();

 private:
  const Json* find(const char* name) const;
  const Json* take(const char* name);

  const Json* json_;
  std::string path_;
  Findings& findings_;
  std::set<std::string> known_;
};

}  // namespace troupe::training::zero
