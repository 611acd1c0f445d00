#include "troupe/tools/job.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <set>

#include "bad_input.hpp"
#include "troupe/tools/nearest.hpp"

namespace troupe::tools {
namespace {

constexpr std::string_view kWordCharacters = "abcdefghijklmnopqrstuvwxyz_";

std::string fill(std::string_view text, const std::map<std::string, std::string>& values) {
  std::string filled;
  for (size_t at = 0; at < text.size();) {
    size_t end = text.find_first_not_of(kWordCharacters, at + 1);
    bool is_placeholder = text[at] == '{' && end != std::string_view::npos && end > at + 1 &&
                          text[end] == '}' && (at == 0 || text[at - 1] != '$');
    if (!is_placeholder) {
      filled += text[at++];
      continue;
    }
    std::string word(text.substr(at + 1, end - at - 1));
    auto value = values.find(word);
    if (value == values.end()) {
      Words known;
      for (const auto& [key, unused] : values) known.push_back(key);
      throw BadInput("unknown placeholder {" + word + "} in \"" + std::string(text) + "\"" +
                     suggestion(word, known));
    }
    filled += value->second;
    at = end + 1;
  }
  return filled;
}

std::map<std::string, std::string> placeholder_values(const Process& process, const Meeting& meeting) {
  return {{"name", process.name},
          {"role", process.role},
          {"index", std::to_string(process.index)},
          {"count", std::to_string(process.count)},
          {"registry", meeting.registry},
          {"run_dir", meeting.run_dir}};
}

bool is_program(const std::string& path) {
  std::error_code error;
  return std::filesystem::is_regular_file(path, error) && access(path.c_str(), X_OK) == 0;
}

// As execvp would find it, but before anything has been started.
std::string find_program(const std::string& name, const Environment& env) {
  if (name.find('/') != std::string::npos) return is_program(name) ? name : "";
  const char* inherited = std::getenv("PATH");
  std::string path = inherited ? inherited : "/usr/local/bin:/usr/bin:/bin";
  if (auto own = env.find("PATH"); own != env.end()) path = own->second;
  for (size_t start = 0; start <= path.size();) {
    size_t end = std::min(path.find(':', start), path.size());
    std::string folder = path.substr(start, end - start);
    std::string candidate = (folder.empty() ? "." : folder) + "/" + name;
    if (is_program(candidate)) return candidate;
    start = end + 1;
  }
  return "";
}

// Turns one plan into processes.
class JobMaker {
 public:
  JobMaker(const JobPlan& plan, const Additions& additions, const Meeting& meeting)
      : plan_(plan), additions_(additions) {
    job_.name = plan.name;
    job_.meeting = meeting;
  }

  Job make() {
    for (const RolePlan& role : plan_.roles) add_role(role);
    for (const Setting& setting : additions_.settings) apply(setting);
    for (const Mark& mark : additions_.marks) apply(mark);
    int consoles = 0;
    for (Process& process : job_.processes) {
      finish(process);
      consoles += process.marks.console ? 1 : 0;
    }
    if (consoles > 1) throw BadInput("only one process can be the console");
    return std::move(job_);
  }

 private:
  void add_role(const RolePlan& role) {
    size_t first = job_.processes.size();
    int count = role.count.value_or(1);
    if (job_.processes.size() + static_cast<size_t>(count) > kMaxProcesses) {
      throw BadInput("a job may have at most " + std::to_string(kMaxProcesses) + " processes");
    }
    for (int index = 0; index < count; ++index) add_process(role, index, count);
    Words names;
    for (size_t i = first; i < job_.processes.size(); ++i) names.push_back(job_.processes[i].name);
    for (const auto& [name, unused] : role.workers) {
      if (std::find(names.begin(), names.end(), name) == names.end()) {
        throw BadInput("no process of role \"" + role.role + "\" is named \"" + name + "\"" +
                       suggestion(name, names));
      }
    }
  }

  void add_process(const RolePlan& role, int index, int count) {
    Process process;
    process.role = role.role;
    process.index = index;
    process.count = count;
    process.name = process_name(role, index);
    if (!names_.insert(process.name).second) {
      throw BadInput("two processes are named \"" + process.name + "\"");
    }
    process.command = role.command;
    process.env = role.env;
    process.marks = role.marks;
    Words args = role.args;
    if (auto found = role.workers.find(process.name); found != role.workers.end()) {
      const SingleSettings& single = found->second;
      if (single.command) process.command = *single.command;
      args.insert(args.end(), single.args.begin(), single.args.end());
      for (const auto& [key, value] : single.env) process.env[key] = value;
      process.marks = {single.main.value_or(role.marks.main), single.critical.value_or(role.marks.critical),
                       single.console.value_or(role.marks.console)};
    }
    if (process.command.empty()) throw BadInput(process.name + " has no command");
    process.command.insert(process.command.end(), args.begin(), args.end());
    job_.processes.push_back(std::move(process));
  }

  static std::string process_name(const RolePlan& role, int index) {
    std::string pattern = role.name;
    if (pattern.empty()) pattern = role.count ? "{role}-{index}" : "{role}";
    std::string name = fill(pattern, {{"role", role.role}, {"index", std::to_string(index)}});
    for (char c : name) {
      if (static_cast<unsigned char>(c) <= ' ' || c == '/' || c == ':' || c == '=') {
        throw BadInput("\"" + name + "\" cannot be a name: spaces and / : = are not allowed");
      }
    }
    return name;
  }

  // The processes whose name or role is `target`.
  std::vector<Process*> targets(const std::string& target, const std::string& flag) {
    std::vector<Process*> found;
    std::set<std::string> known;
    for (Process& process : job_.processes) {
      if (process.name == target || process.role == target) found.push_back(&process);
      known.insert({process.name, process.role});
    }
    if (found.empty()) {
      Words words(known.begin(), known.end());
      throw BadInput(flag + ": no process or role is named \"" + target + "\"" + suggestion(target, words));
    }
    return found;
  }

  void apply(const Setting& setting) {
    for (Process* process : targets(setting.target, "--set")) {
      process->command.push_back("--" + setting.key);
      if (setting.value) process->command.push_back(*setting.value);
    }
  }

  void apply(const Mark& mark) {
    const char* flag = mark.which == &Marks::main       ? "--main"
                       : mark.which == &Marks::critical ? "--critical"
                                                        : "--console";
    for (Process* process : targets(mark.target, flag)) process->marks.*mark.which = true;
  }

  void finish(Process& process) {
    auto values = placeholder_values(process, job_.meeting);
    for (std::string& word : process.command) word = fill(word, values);
    for (auto& [key, value] : process.env) value = fill(value, values);
    process.program = find_program(process.command[0], process.env);
    if (process.program.empty()) {
      throw BadInput(process.name + ": program not found: " + process.command[0]);
    }
  }

  const JobPlan& plan_;
  const Additions& additions_;
  Job job_;
  std::set<std::string> names_;
};

}  // namespace

Outcome<Setting> parse_setting(std::string_view text) {
  size_t colon = text.find(':');
  size_t equals = text.find('=');
  if (colon == std::string_view::npos || colon == 0 || colon + 1 >= text.size() || equals < colon + 2) {
    return Problem{"--set " + std::string(text) + ": must be NAME:KEY=VALUE or NAME:KEY"};
  }
  Setting setting;
  setting.target = text.substr(0, colon);
  setting.key = text.substr(colon + 1, equals == std::string_view::npos ? equals : equals - colon - 1);
  if (equals != std::string_view::npos) setting.value = std::string(text.substr(equals + 1));
  return setting;
}

Outcome<Job> make_job(const JobPlan& plan, const Additions& additions, const Meeting& meeting) {
  try {
    return JobMaker(plan, additions, meeting).make();
  } catch (const BadInput& error) {
    return Problem{error.what()};
  }
}

bool names_the_process(const Words& words) {
  return std::any_of(words.begin(), words.end(), [](const std::string& word) {
    return word.find("{name}") != std::string::npos || word.find("{role}") != std::string::npos ||
           word.find("{index}") != std::string::npos;
  });
}

}  // namespace troupe::tools
