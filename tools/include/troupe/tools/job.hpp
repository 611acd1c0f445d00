#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

/// What a job is: from a job file or flags (`JobPlan`) to the exact processes to start (`Job`).
namespace troupe::tools {

/// Bad input, told in one line for a person.
struct Problem {
  std::string text;
};

template <class T>
using Outcome = std::variant<T, Problem>;

using Words = std::vector<std::string>;
using Environment = std::map<std::string, std::string>;

/// The bound on processes of one job: all of them live on one machine.
inline constexpr int kMaxProcesses = 1024;

/// What a process means for the job as a whole.
struct Marks {
  bool main = false;      ///< the job ends when all main processes have ended, with their exit code
  bool critical = false;  ///< the job fails when this one fails
  bool console = false;   ///< writes straight to the terminal; also main when no other process is
};

/// What one single process of a role gets besides, or instead of, what its role says.
struct SingleSettings {
  std::optional<Words> command;  ///< replaces the role's command
  Words args;                    ///< appended to the role's args
  Environment env;               ///< added to the role's env; same keys replace
  std::optional<bool> main, critical, console;
};

/// Processes of one role: the same command, `count` times.
struct RolePlan {
  std::string role;
  /// Without a count there is one process, named like its role; with one they are `role-0`, `role-1`...
  std::optional<int> count;
  std::string name;  ///< pattern with {role} and {index}; empty for the default
  Words command;
  Words args;
  Environment env;
  Marks marks;
  std::map<std::string, SingleSettings> workers;  ///< by the name of the process
};

struct JobPlan {
  std::string name = "job";
  std::string registry = "tcp";  ///< what {registry} is to be, as choose_registry() takes it
  std::vector<RolePlan> roles;
};

/// Where the processes of a job find each other and leave their files.
struct Meeting {
  std::string registry;  ///< stands for {registry}: `127.0.0.1:port` or the path of a unix socket
  std::string run_dir;   ///< stands for {run_dir}
};

/// One process, ready to start: no placeholder is left.
struct Process {
  std::string name;
  std::string role;
  int index = 0;        ///< within its role, from 0
  int count = 1;        ///< processes of its role
  std::string program;  ///< the file to execute, found through PATH
  Words command;        ///< argv, with the program as it was written
  Environment env;      ///< added to the launcher's own environment
  Marks marks;
};

struct Job {
  std::string name;
  Meeting meeting;
  std::vector<Process> processes;  ///< in starting order
};

/// Reads a job file (JSON; tools/README.md describes it). Problems name the file and, where the
/// JSON is malformed, the line.
Outcome<JobPlan> read_job_file(const std::filesystem::path& path);

/// `--set TARGET:KEY=VALUE` and its kin: appends `--KEY VALUE` (or `--KEY`) to the args of every
/// process whose name or role is the target.
struct Setting {
  std::string target;
  std::string key;
  std::optional<std::string> value;
};

/// `--main NAME`, `--critical ROLE`, `--console NAME`.
struct Mark {
  std::string target;
  bool Marks::*which;
};

/// What flags add to a plan, whichever way it came.
struct Additions {
  std::vector<Setting> settings;
  std::vector<Mark> marks;
};

/// Reads `TARGET:KEY=VALUE` or `TARGET:KEY`.
Outcome<Setting> parse_setting(std::string_view text);

/// Fills in names, placeholders ({name}, {role}, {index}, {count}, {registry} and {run_dir} in commands,
/// args and env; `${...}` stays for the shell, any other {lower_case_word} is a problem), single settings and
/// additions. Problems: duplicate names, an unknown target, placeholder or single name (each with the nearest
/// known one), a program that is not found, two console processes, too many processes.
Outcome<Job> make_job(const JobPlan& plan, const Additions& additions, const Meeting& meeting);

/// True if a word names the process in some way: holds {name}, {role} or {index}.
bool names_the_process(const Words& words);

}  // namespace troupe::tools
