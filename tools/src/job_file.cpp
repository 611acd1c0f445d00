#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "bad_input.hpp"
#include "troupe/tools/job.hpp"
#include "troupe/tools/nearest.hpp"

namespace troupe::tools {
namespace {

using Json = nlohmann::json;

// A JSON object that knows where it stands, so that every complaint can name the place.
class Section {
 public:
  Section(const Json& json, std::string place, Words known) : json_(json), place_(std::move(place)) {
    if (!json_.is_object()) fail("must be an object in braces");
    for (const auto& [key, value] : json_.items()) {
      if (std::find(known.begin(), known.end(), key) == known.end()) {
        fail("unknown key \"" + key + "\"" + suggestion(key, known));
      }
    }
  }

  [[noreturn]] void fail(const std::string& what) const { throw BadInput(place_ + ": " + what); }
  const std::string& place() const { return place_; }

  const Json* find(const char* key) const {
    auto found = json_.find(key);
    return found == json_.end() ? nullptr : &*found;
  }

  std::string text(const char* key, std::string otherwise = "") const {
    const Json* value = find(key);
    if (!value) return otherwise;
    if (!value->is_string()) fail("\"" + std::string(key) + "\" must be a string");
    return value->get<std::string>();
  }

  std::optional<bool> flag(const char* key) const {
    const Json* value = find(key);
    if (!value) return std::nullopt;
    if (!value->is_boolean()) fail("\"" + std::string(key) + "\" must be true or false");
    return value->get<bool>();
  }

  Words words(const char* key) const {
    const Json* value = find(key);
    if (!value) return {};
    if (!value->is_array()) fail("\"" + std::string(key) + "\" must be a list, one string for each word");
    Words words;
    for (const Json& word : *value) words.push_back(scalar(key, word));
    return words;
  }

  Environment environment(const char* key) const {
    const Json* value = find(key);
    if (!value) return {};
    if (!value->is_object()) fail("\"" + std::string(key) + "\" must be an object in braces");
    Environment environment;
    for (const auto& [name, word] : value->items()) {
      if (name.empty() || name.find('=') != std::string::npos) {
        fail("\"" + name + "\" is no name for an environment variable");
      }
      environment[name] = scalar(key, word);
    }
    return environment;
  }

 private:
  // Numbers are taken as they are written, so that ["--throttle", 0.4] works.
  std::string scalar(const char* key, const Json& value) const {
    if (!value.is_string() && !value.is_number()) {
      fail("\"" + std::string(key) + "\" may hold only strings and numbers");
    }
    std::string word = value.is_string() ? value.get<std::string>() : value.dump();
    if (word.find('\0') != std::string::npos) fail("\"" + std::string(key) + "\" holds a zero byte");
    return word;
  }

  const Json& json_;
  std::string place_;
};

SingleSettings read_single(const Json& json, const std::string& place) {
  Section section(json, place, {"command", "args", "env", "main", "critical", "console"});
  SingleSettings single;
  if (section.find("command")) single.command = section.words("command");
  single.args = section.words("args");
  single.env = section.environment("env");
  single.main = section.flag("main");
  single.critical = section.flag("critical");
  single.console = section.flag("console");
  return single;
}

std::optional<int> read_count(const Section& section) {
  const Json* count = section.find("count");
  if (!count) return std::nullopt;
  if (!count->is_number_integer() || *count < 1 || *count > kMaxProcesses) {
    section.fail("\"count\" must be a whole number from 1 to " + std::to_string(kMaxProcesses));
  }
  return count->get<int>();
}

RolePlan read_role(const Json& json, const std::string& place) {
  Section section(
      json, place,
      {"role", "count", "name", "command", "args", "env", "main", "critical", "console", "workers"});
  RolePlan role;
  role.role = section.text("role");
  if (role.role.empty()) section.fail("\"role\" is missing");
  role.count = read_count(section);
  role.name = section.text("name");
  role.command = section.words("command");
  role.args = section.words("args");
  role.env = section.environment("env");
  role.marks = {section.flag("main").value_or(false), section.flag("critical").value_or(false),
                section.flag("console").value_or(false)};
  if (const Json* workers = section.find("workers")) {
    if (!workers->is_object()) section.fail("\"workers\" must be an object: name to settings");
    for (const auto& [name, settings] : workers->items()) {
      role.workers[name] = read_single(settings, place + ".workers." + name);
    }
  }
  return role;
}

JobPlan read_plan(const Json& json, const std::string& file) {
  Section section(json, file, {"name", "registry", "processes"});
  JobPlan plan;
  plan.name = section.text("name", "job");
  if (plan.name.empty() || plan.name.find('/') != std::string::npos) {
    section.fail("\"name\" must be a plain word: the run folder is called after it");
  }
  plan.registry = section.text("registry", plan.registry);
  const Json* processes = section.find("processes");
  if (!processes || !processes->is_array() || processes->empty()) {
    section.fail("\"processes\" must be a list with at least one entry");
  }
  for (size_t i = 0; i < processes->size(); ++i) {
    plan.roles.push_back(read_role((*processes)[i], file + ": processes[" + std::to_string(i) + "]"));
  }
  return plan;
}

// nlohmann keeps the last of two equal keys without a word; a person who wrote both meant something.
Json parse_with_unique_keys(const std::string& text) {
  std::vector<std::set<std::string>> open_objects;
  auto check = [&](int, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::object_start) open_objects.emplace_back();
    if (event == Json::parse_event_t::object_end) open_objects.pop_back();
    if (event == Json::parse_event_t::key && !open_objects.back().insert(parsed.get<std::string>()).second) {
      throw BadInput("the key \"" + parsed.get<std::string>() + "\" stands twice in one object");
    }
    return true;
  };
  return Json::parse(text, check);
}

// Where in the text the parser stopped. Its own message is long; line and column are what helps.
std::string position(const std::string& text, size_t byte) {
  size_t end = std::min(byte > 0 ? byte - 1 : 0, text.size());
  size_t line =
      1 + static_cast<size_t>(std::count(text.begin(), text.begin() + static_cast<long>(end), '\n'));
  size_t line_start = end == 0 ? std::string::npos : text.rfind('\n', end - 1);
  size_t column = line_start == std::string::npos ? end + 1 : end - line_start;
  return "line " + std::to_string(line) + ", column " + std::to_string(column);
}

}  // namespace

Outcome<JobPlan> read_job_file(const std::filesystem::path& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error))
    return Problem{path.string() + " is a folder, not a job file"};
  std::ifstream file(path, std::ios::binary);
  if (!file) return Problem{"cannot read the job file " + path.string() + ": " + std::strerror(errno)};
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  try {
    return read_plan(parse_with_unique_keys(text), path.string());
  } catch (const Json::parse_error& malformed) {
    return Problem{path.string() + ": not valid JSON at " + position(text, malformed.byte)};
  } catch (const BadInput& bad) {
    std::string what = bad.what();
    return Problem{what.starts_with(path.string()) ? what : path.string() + ": " + what};
  }
}

}  // namespace troupe::tools
