#include <troupe/runtime/config.hpp>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <iterator>
#include <stdexcept>
#include <utility>

#include <troupe/runtime/files.hpp>
#include <troupe/runtime/json.hpp>
#include <troupe/runtime/text.hpp>

namespace troupe {
namespace {

constexpr std::string_view kEnvironmentPrefix = "TROUPE_";

Error wrong(std::string_view text, std::string_view wanted) {
  return {Code::kInvalidArgument, "'" + std::string(text) + "' is not " + std::string(wanted)};
}

template <class T>
Result<ConfigValue> parse_number(std::string_view text, std::string_view wanted) {
  T number{};
  const auto [end, fault] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (fault != std::errc() || end != text.data() + text.size() || text.empty()) return wrong(text, wanted);
  return ConfigValue(number);
}

Result<ConfigValue> parse_bool(std::string_view text) {
  if (text == "true" || text == "1" || text == "yes" || text == "on") return ConfigValue(true);
  if (text == "false" || text == "0" || text == "no" || text == "off") return ConfigValue(false);
  return wrong(text, "true or false");
}

std::vector<std::string> split_list(std::string_view text) {
  std::vector<std::string> items;
  while (!text.empty()) {
    const auto comma = std::min(text.find(','), text.size());
    items.emplace_back(text.substr(0, comma));
    text.remove_prefix(std::min(comma + 1, text.size()));
  }
  return items;
}

/// Reads a text as a value of the type that `example` has.
Result<ConfigValue> value_from_text(std::string_view text, const ConfigValue& example) {
  switch (example.index()) {
    case 0:
      return parse_bool(text);
    case 1:
      return parse_number<std::int64_t>(text, "a whole number");
    case 2:
      return parse_number<double>(text, "a number");
    case 4: {
      const Result<Duration> duration = parse_duration(text);
      if (!duration) return duration.error();
      return ConfigValue(*duration);
    }
    case 5:
      return ConfigValue(split_list(text));
    default:
      return ConfigValue(std::string(text));
  }
}

Result<ConfigValue> value_from_json(const Json& json, const ConfigValue& example) {
  const std::string text = to_line(json);
  switch (example.index()) {
    case 0:
      return json.is_boolean() ? Result<ConfigValue>(ConfigValue(json.get<bool>()))
                               : wrong(text, "true or false");
    case 1:
      return parse_number<std::int64_t>(text, "a whole number");
    case 2:
      return json.is_number() ? Result<ConfigValue>(ConfigValue(json.get<double>()))
                              : wrong(text, "a number");
    case 5: {
      const bool texts = json.is_array() && std::all_of(json.begin(), json.end(),
                                                        [](const Json& item) { return item.is_string(); });
      if (!texts) return wrong(text, "a list of texts");
      return ConfigValue(json.get<std::vector<std::string>>());
    }
    default:
      if (!json.is_string())
        return wrong(text,
                     example.index() == 4 ? "a duration in quotes, such as \"250ms\"" : "a text in quotes");
      return value_from_text(json.get<std::string>(), example);
  }
}

struct ValueText {
  std::string operator()(bool value) const { return value ? "true" : "false"; }
  std::string operator()(std::int64_t value) const { return std::to_string(value); }
  std::string operator()(double value) const { return to_line(Json(value)); }
  std::string operator()(const std::string& value) const { return to_line(Json(value)); }
  std::string operator()(Duration value) const { return troupe::to_string(value); }
  std::string operator()(const std::vector<std::string>& value) const { return to_line(Json(value)); }
};

/// TROUPE_RPC_WINDOW_BYTES for "rpc.window_bytes".
std::string environment_name(std::string_view name) {
  std::string upper(kEnvironmentPrefix);
  for (const char c : name)
    upper += c == '.' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return upper;
}

/// Whether a variable has the form of those that Kubernetes (and Docker's links before it) put into the
/// environment of whatever runs beside a service: of one named "troupe" or "troupe-ps" they begin as ours do.
/// TROUPE_SERVICE_HOST, TROUPE_SERVICE_PORT, TROUPE_SERVICE_PORT_HTTP, TROUPE_PORT,
/// TROUPE_PORT_4711_TCP, TROUPE_PORT_4711_TCP_PROTO, ..._PORT, ..._ADDR.
bool is_of_a_service(std::string_view variable, std::string_view value) {
  const auto has_scheme = [&] {
    return value.starts_with("tcp://") || value.starts_with("udp://") || value.starts_with("sctp://");
  };
  if (variable.ends_with("_SERVICE_HOST") || variable.find("_SERVICE_PORT") != std::string_view::npos)
    return true;
  if (variable.ends_with("_PORT") && has_scheme()) return true;
  for (const std::string_view protocol : {"_TCP", "_UDP", "_SCTP"}) {
    const auto at = variable.rfind(protocol);
    const std::string_view rest =
        at == std::string_view::npos ? std::string_view("?") : variable.substr(at + protocol.size());
    if (!rest.empty() && rest != "_PROTO" && rest != "_PORT" && rest != "_ADDR") continue;
    const std::string_view before = variable.substr(0, at);
    const auto digits = before.find_last_not_of("0123456789") + 1;
    if (digits < before.size() && before.substr(0, digits).ends_with("_PORT_")) return true;
  }
  return false;
}

/// Walks over a text and counts its lines as it goes, for a parser that takes iterators and keeps no
/// positions: the count is shared by all copies.
class LineCounter {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  LineCounter(const char* at, int* line) : at_(at), line_(line) {}
  reference operator*() const { return *at_; }
  LineCounter& operator++() {
    if (*at_ == '\n') ++*line_;
    ++at_;
    return *this;
  }
  LineCounter operator++(int) {
    const LineCounter before = *this;
    ++*this;
    return before;
  }
  friend bool operator==(const LineCounter& a, const LineCounter& b) { return a.at_ == b.at_; }

 private:
  const char* at_;
  int* line_;
};

/// A setting of a file: "rpc.window", from {"rpc": {"window": ...}} or {"rpc.window": ...}.
struct Entry {
  std::string name;
  Json value;
  int line = 0;
};

/// The settings of a text that parse_json() accepts.
std::vector<Entry> entries_of(std::string_view text) {
  int line = 1;
  std::vector<std::string> path;
  std::vector<Entry> keys;  // every key, with where it stands
  const auto note = [&](int depth, Json::parse_event_t event, const Json& parsed) {
    if (event != Json::parse_event_t::key) return true;
    path.resize(static_cast<std::size_t>(depth) - 1);
    path.push_back(parsed.get<std::string>());
    std::string name;
    for (const std::string& part : path) name += (name.empty() ? "" : ".") + part;
    keys.push_back({std::move(name), nullptr, line});
    return true;
  };
  const Json root = Json::parse(LineCounter(text.data(), &line),
                                LineCounter(text.data() + text.size(), &line), note, true, true);

  std::vector<Entry> leaves;
  const auto collect = [&](const auto& self, const std::string& prefix, const Json& object) -> void {
    for (const auto& [key, value] : object.items()) {
      const std::string name = prefix.empty() ? key : prefix + "." + key;
      if (value.is_object()) {
        self(self, name, value);
        continue;
      }
      const auto place = std::ranges::find(keys, name, &Entry::name);
      leaves.push_back({name, value, place == keys.end() ? 1 : place->line});
    }
  };
  collect(collect, "", root);
  std::ranges::stable_sort(leaves, {}, &Entry::line);  // the first fault of the file is told
  return leaves;
}

}  // namespace

Result<Config> Config::load(ConfigSchema schema, const std::string& file, const char* const* environment,
                            std::span<const std::string> flags) {
  Config config(std::move(schema));
  Result<void> loaded;
  if (!file.empty()) loaded = config.load_file(file);
  if (loaded && environment) loaded = config.load_environment(environment);
  if (loaded) loaded = config.load_flags(flags);
  if (!loaded) return loaded.error();
  return config;
}

Result<void> Config::load_file(const std::string& path) {
  const Result<std::string> text = read_file(path);
  if (!text) return with_context(text.error(), "configuration");
  return load_text(*text, path);
}

Result<void> Config::load_text(std::string_view text, std::string_view what) {
  const Result<Json> json = parse_json(text, what, JsonComments::kAllowed);
  if (!json) return json.error();
  if (!json->is_object()) {
    return Error{Code::kInvalidArgument,
                 std::string(what) + ":1: a configuration is a JSON object: {\"section\": {\"key\": value}}"};
  }
  for (const Entry& entry : entries_of(text)) {
    std::string origin = std::string(what) + ":" + std::to_string(entry.line);
    const ConfigKey* key = schema_.find(entry.name);
    if (!key) return unknown(entry.name, origin);
    Result<void> stored =
        store(entry.name, value_from_json(entry.value, key->default_value()), std::move(origin));
    if (!stored) return stored;
  }
  return {};
}

Result<void> Config::load_environment(const char* const* environment) {
  std::map<std::string, std::string> names;
  for (const auto& [name, key] : schema_.keys()) names.emplace(environment_name(name), name);
  for (; *environment; ++environment) {
    const std::string_view entry(*environment);
    const auto equals = std::min(entry.find('='), entry.size());
    const std::string variable(entry.substr(0, equals));
    const auto is_reserved = [&](const std::string& prefix) { return variable.starts_with(prefix); };
    if (!variable.starts_with(kEnvironmentPrefix) || std::ranges::any_of(schema_.reserved(), is_reserved))
      continue;
    const auto found = names.find(variable);
    std::string_view text = entry.substr(std::min(equals + 1, entry.size()));
    if (found == names.end() && is_of_a_service(variable, text)) continue;
    if (found == names.end()) {
      for (const auto& [old_name, new_name] : schema_.old_names())
        if (variable == environment_name(old_name))
          return Error{Code::kInvalidArgument,
                       "environment: " + variable + " is called " + environment_name(new_name) + " now"};
      std::string name = variable.substr(kEnvironmentPrefix.size());
      std::ranges::transform(name, name.begin(),
                             [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
      std::ranges::replace(name, '_', '.');
      std::string message = "environment: unknown variable " + variable;
      if (const auto nearest = schema_.nearest(name))
        message += "; did you mean " + environment_name(*nearest) + "?";
      return Error{Code::kInvalidArgument, std::move(message)};
    }
    // As from a file: a secret with the line end of the file that it was read from is the same secret.
    if (schema_.find(found->second)->is_confidential()) text = trimmed(text);
    Result<void> stored = set(found->second, text, "environment " + variable);
    if (!stored) return stored;
  }
  return {};
}

Result<void> Config::load_flags(std::span<const std::string> flags) {
  for (const std::string& flag : flags) {
    const auto equals = flag.find('=');
    if (equals == std::string::npos) {
      return Error{Code::kInvalidArgument, "flag '" + flag + "': give it as section.key=value"};
    }
    const std::string_view name = std::string_view(flag).substr(0, equals);
    if (const ConfigKey* key = schema_.find(name); key && key->is_confidential())
      return Error{Code::kInvalidArgument, "flag: " + std::string(name) + " (" + key->help() +
                                               ") must not stand on a command line, which others can read: "
                                               "give it in the configuration file or as " +
                                               environment_name(name)};
    Result<void> stored = set(name, std::string_view(flag).substr(equals + 1), "flag");
    if (!stored) return stored;
  }
  return {};
}

Result<void> Config::set(std::string_view name, std::string_view text, std::string origin) {
  const ConfigKey* key = schema_.find(name);
  if (!key) return unknown(name, origin);
  return store(name, value_from_text(text, key->default_value()), std::move(origin));
}

Result<void> Config::store(std::string_view name, Result<ConfigValue> value, std::string origin) {
  const ConfigKey& key = *schema_.find(name);
  std::optional<std::string> fault;
  if (!value) {
    fault = value.error().message;
  } else if ((fault = key.fault_of(*value))) {
    *fault = (key.is_confidential() ? "(hidden)" : std::visit(ValueText{}, *value)) + ": it " + *fault;
  }
  if (fault) {
    return Error{Code::kInvalidArgument,
                 origin + ": " + std::string(name) + " (" + key.help() + "): " + *fault};
  }
  settings_.insert_or_assign(std::string(name), Setting{*std::move(value), std::move(origin)});
  return {};
}

Error Config::unknown(std::string_view name, std::string_view origin) const {
  if (const std::string_view now = schema_.new_name(name); !now.empty())
    return {Code::kInvalidArgument, std::string(origin) + ": the setting '" + std::string(name) +
                                        "' is called '" + std::string(now) + "' now"};
  std::string message = std::string(origin) + ": unknown setting '" + std::string(name) + "'";
  if (const auto nearest = schema_.nearest(name)) {
    message += "; did you mean '" + *nearest + "'?";
  } else {
    message += "; --print-config lists those there are";
  }
  return {Code::kInvalidArgument, std::move(message)};
}

const ConfigValue& Config::find(std::string_view name) const {
  if (const auto found = settings_.find(name); found != settings_.end()) return found->second.value;
  const ConfigKey* key = schema_.find(name);
  if (!key) throw std::logic_error("no setting '" + std::string(name) + "' is declared");
  return key->default_value();
}

void Config::throw_wrong_type(std::string_view name) {
  throw std::logic_error("setting '" + std::string(name) + "' is of another type");
}

std::string Config::origin(std::string_view name) const {
  const auto found = settings_.find(name);
  return found == settings_.end() ? "default" : found->second.origin;
}

std::string Config::to_string() const {
  std::string text;
  for (const auto& [name, key] : schema_.keys()) {
    const bool hidden = key.is_confidential() && settings_.contains(name);
    std::string line = name + " = " + (hidden ? "(hidden)" : std::visit(ValueText{}, find(name)));
    line.resize(std::max<std::size_t>(line.size() + 2, 40), ' ');
    text += line + "# " + key.help() + " (" + origin(name) + ")\n";
  }
  return text;
}

}  // namespace troupe
