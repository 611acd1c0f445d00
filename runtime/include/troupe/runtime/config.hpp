#pragma once

#include <concepts>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <troupe/runtime/clock.hpp>
#include <troupe/runtime/result.hpp>

namespace troupe {

/// What a setting may hold. The type of its default is the type of the setting.
using ConfigValue = std::variant<bool, std::int64_t, double, std::string, Duration, std::vector<std::string>>;

/// One setting that a program knows.
class ConfigKey {
 public:
  ConfigKey(ConfigValue default_value, std::string help)
      : default_value_(std::move(default_value)), help_(std::move(help)) {}

  /// Numbers (durations: seconds) outside of [least, most] are errors.
  ConfigKey& between(double least, double most) { return bounds_ = {least, most}, *this; }
  /// Texts other than these are errors.
  ConfigKey& one_of(std::vector<std::string> choices) { return choices_ = std::move(choices), *this; }

  /// A value that others must not see: flags cannot set it, because everybody on the machine can read a
  /// command line, and neither to_string() nor errors show it.
  ConfigKey& confidential() { return confidential_ = true, *this; }

  const ConfigValue& default_value() const { return default_value_; }
  bool is_confidential() const { return confidential_; }
  const std::string& help() const { return help_; }
  /// What is wrong with a value of the right type, if anything.
  std::optional<std::string> fault_of(const ConfigValue& value) const;

 private:
  struct Bounds {
    double least = 0.0;
    double most = 0.0;
  };
  ConfigValue default_value_;
  std::string help_;
  std::optional<Bounds> bounds_;
  std::vector<std::string> choices_;
  bool confidential_ = false;
};

/// The settings that a program knows, with types, defaults and help; made by main.
///
///     ConfigSchema schema;
///     schema.add("rpc.window", 256, "calls in flight to one peer").between(1, 65536);
///     schema.add("rpc.timeout", Duration(5s), "default deadline of a call");
class ConfigSchema {
 public:
  /// Names are `section.key`, of lower-case letters, digits and underscores. Precondition: not there yet.
  ConfigKey& add(std::string name, ConfigValue default_value, std::string help);
  template <std::integral T>
  requires(!std::same_as<T, bool>) ConfigKey& add(std::string name, T default_value, std::string help) {
    return add(std::move(name), ConfigValue(static_cast<std::int64_t>(default_value)), std::move(help));
  }
  ConfigKey& add(std::string name, const char* default_value, std::string help) {
    return add(std::move(name), ConfigValue(std::string(default_value)), std::move(help));
  }
  /// Environment variables that begin with `prefix` are others' business: not settings, no errors.
  ConfigSchema& reserve_environment(std::string prefix);

  /// A setting had another name before: whoever still uses that is told the new one.
  ConfigSchema& renamed(std::string old_name, std::string name);

  const ConfigKey* find(std::string_view name) const;
  /// What a setting that was once named so is named now; empty: there was none.
  std::string_view new_name(std::string_view old_name) const;
  /// The known name most like `name`, if one is like it at all.
  std::optional<std::string> nearest(std::string_view name) const;
  const std::map<std::string, ConfigKey, std::less<>>& keys() const { return keys_; }
  const std::map<std::string, std::string, std::less<>>& old_names() const { return renamed_; }
  const std::vector<std::string>& reserved() const { return reserved_; }

 private:
  std::map<std::string, ConfigKey, std::less<>> keys_;
  std::map<std::string, std::string, std::less<>> renamed_;
  std::vector<std::string> reserved_;
};

/// The settings of a program: defaults, overridden by a file, overridden by the environment, overridden
/// by flags: call the load functions in that order, or load(). An unknown name or a bad value is
/// kInvalidArgument with the place and what to do. Reading: any thread; loading: one.
class Config {
 public:
  explicit Config(ConfigSchema schema) : schema_(std::move(schema)) {}

  /// All sources in their order. `file` empty: none. `environment` is like ::environ.
  static Result<Config> load(ConfigSchema schema, const std::string& file, const char* const* environment,
                             std::span<const std::string> flags);

  /// A JSON file, // comments allowed: {"rpc": {"window": 64, "timeout": "250ms"}}.
  Result<void> load_file(const std::string& path);
  /// The same from a text; `what` names it in errors.
  Result<void> load_text(std::string_view text, std::string_view what);
  /// Variables named TROUPE_SECTION_KEY, from a null-terminated list of NAME=value.
  Result<void> load_environment(const char* const* environment);
  /// Each `section.key=value`.
  Result<void> load_flags(std::span<const std::string> flags);
  /// Sets one value from its text; `origin` says where it comes from.
  Result<void> set(std::string_view name, std::string_view text, std::string origin);

  /// The value of a setting: bool, an integer or floating-point type, std::string, Duration or
  /// std::vector<std::string>. Asking for a name or type that the schema lacks is a bug: std::logic_error.
  template <class T>
  T get(std::string_view name) const {
    if constexpr (std::integral<T> && !std::same_as<T, bool>) {
      return static_cast<T>(get_as<std::int64_t>(name));
    } else if constexpr (std::floating_point<T>) {
      return static_cast<T>(get_as<double>(name));
    } else {
      return get_as<T>(name);
    }
  }
  /// Where a value came from: "default", "job.json:3", "environment TROUPE_RPC_WINDOW", "flag".
  std::string origin(std::string_view name) const;
  const ConfigSchema& schema() const { return schema_; }
  /// For --print-config: a line a setting, with value, origin and help.
  std::string to_string() const;

 private:
  struct Setting {
    ConfigValue value;
    std::string origin;
  };
  template <class T>
  const T& get_as(std::string_view name) const {
    const T* value = std::get_if<T>(&find(name));
    if (!value) throw_wrong_type(name);
    return *value;
  }
  const ConfigValue& find(std::string_view name) const;
  [[noreturn]] static void throw_wrong_type(std::string_view name);
  Result<void> store(std::string_view name, Result<ConfigValue> value, std::string origin);
  Error unknown(std::string_view name, std::string_view origin) const;

  ConfigSchema schema_;
  std::map<std::string, Setting, std::less<>> settings_;  // those that are not defaults
};

/// "250ms", "1.5s", "10us", "2m", "1h", "7ns". kInvalidArgument.
Result<Duration> parse_duration(std::string_view text);
/// In the largest unit that gives a whole number: "250ms".
std::string to_string(Duration duration);

}  // namespace troupe
