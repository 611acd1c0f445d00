#include "launch_command.hpp"

#include <filesystem>
#include <iostream>

#include <troupe/runtime/process.hpp>

#include "troupe/tools/launcher.hpp"
#include "troupe/tools/meeting.hpp"

namespace tools = troupe::tools;
using tools::Outcome;
using tools::Problem;

namespace {

int complain(const std::string& text) {
  std::cerr << "troupe launch: " << text << "\n";
  return 2;
}

// As a shell would need it.
std::string quoted(const std::string& word) {
  constexpr const char* kPlain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=,+@%";
  if (!word.empty() && word.find_first_not_of(kPlain) == std::string::npos) return word;
  std::string text = "'";
  for (char c : word) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

void print_commands(const tools::Job& job) {
  for (const tools::Process& process : job.processes) {
    std::cout << process.name << ":";
    for (const auto& [key, value] : process.env) std::cout << " " << key << "=" << quoted(value);
    for (const std::string& word : process.command) std::cout << " " << quoted(word);
    std::string marks;
    if (process.marks.main) marks += " main";
    if (process.marks.critical) marks += " critical";
    if (process.marks.console) marks += " console";
    std::cout << (marks.empty() ? "" : "   #" + marks) << "\n";
  }
}

}  // namespace

void LaunchCommand::declare(CLI::App& app) {
  app.footer(
      "Two ways to say what runs:\n"
      "  troupe launch JOB.json [flags]\n"
      "  troupe launch --role ROLE[=COUNT]... [flags] -- PROGRAM [ARGS...]\n\n"
      "Placeholders in commands and args: {name} {role} {index} {count} {registry} {run_dir}.\n"
      "With --role, a PROGRAM whose args name none of {name} {role} {index} gets\n"
      "  --name NAME --role ROLE [--registry ADDRESS]   appended.\n\n"
      "Exit code: that of the main processes; 1 when a critical process failed; 2 for bad input;\n"
      "130 after Ctrl-C.\n\n"
      "Example: two servers and three workers, the third one slowed down\n"
      "  troupe launch --role ps=2 --role worker=3 --set worker-2:throttle=0.4 --main worker \\\n"
      "                --critical ps --registry tcp -- ./train --epochs 5");
  app.add_option("job", job_file_, "Job file (JSON; see tools/README.md)")->option_text("JOB.json");
  app.add_option("--role", roles_,
                 "Processes of a role, named ROLE-0, ROLE-1...; without =COUNT one named ROLE")
      ->option_text("ROLE[=COUNT]");
  app.add_option("--set", settings_, "Append --KEY VALUE for one process, or for all of a role")
      ->option_text("NAME:KEY[=VALUE]");
  app.add_option("--main", main_, "The job ends when the main processes have ended (default: all)")
      ->option_text("NAME");
  app.add_option("--critical", critical_, "The job fails when one of these fails")->option_text("NAME");
  app.add_option("--console", console_, "Output goes straight to the terminal")->option_text("NAME");
  app.add_option("--registry", registry_,
                 "What {registry} is: tcp (a free loopback port), unix (a fresh "
                 "socket path), or an address")
      ->option_text("tcp|unix|ADDRESS");
  app.add_option("--port", port_, "Like --registry tcp, with this port")
      ->check(CLI::Range(1, 65535))
      ->option_text("PORT");
  app.add_option("--name", name_, "Name of the job")->option_text("NAME");
  app.add_option("--run-dir", run_dir_, "Run folder (default: a fresh one, out/NAME-DATE)")
      ->option_text("DIR");
  app.add_option("--pid-file", pid_file_, "Where to list the processes (default: job.json in the run folder)")
      ->option_text("FILE");
  app.add_option("--grace", grace_s_, "Time to end before SIGKILL (default 5)")
      ->check(CLI::Range(0.0, 86400.0))
      ->option_text("SECONDS");
  app.add_option("--color", color_, "Colour the names")
      ->check(CLI::IsMember({"auto", "always", "never"}))
      ->option_text("auto|always|never");
  app.add_flag("--plain", plain_, "Append nothing to the program's args");
  app.add_flag("--no-status", no_status_, "No line of what runs at the bottom of the terminal");
  app.add_flag("--quiet", quiet_, "Do not tell what was started");
  app.add_flag("--dry-run", dry_run_, "Print the commands and start nothing");
  for (const char* list : {"--role", "--set", "--main", "--critical", "--console"}) {
    app.get_option(list)->allow_extra_args(false);
  }
}

int LaunchCommand::run() {
  auto planned = plan();
  if (auto* problem = std::get_if<Problem>(&planned)) return complain(problem->text);
  auto added = additions();
  if (auto* problem = std::get_if<Problem>(&added)) return complain(problem->text);
  auto& plan = std::get<tools::JobPlan>(planned);
  if (!name_.empty()) plan.name = name_;
  if (!registry_.empty()) plan.registry = registry_;
  if (port_) plan.registry = "127.0.0.1:" + std::to_string(*port_);

  // Once with stand-ins, so that bad input leaves no folder behind; then with the real ones.
  tools::Meeting meeting{"REGISTRY", run_dir_.empty() ? "RUN_DIR" : run_dir_};
  auto trial = tools::make_job(plan, std::get<tools::Additions>(added), meeting);
  if (auto* problem = std::get_if<Problem>(&trial)) return complain(problem->text);
  if (dry_run_) {
    print_commands(std::get<tools::Job>(trial));
    return 0;
  }
  if (auto problem = prepare_meeting(&meeting, plan)) return complain(problem->text);
  auto made = tools::make_job(plan, std::get<tools::Additions>(added), meeting);
  if (auto* problem = std::get_if<Problem>(&made)) return complain(problem->text);
  int code = launch(std::move(std::get<tools::Job>(made)));
  if (plan.registry == "unix") tools::remove_registry(meeting.registry);
  return code;
}

Outcome<tools::JobPlan> LaunchCommand::plan() const {
  if (job_file_.empty()) return plan_of_flags();
  if (!roles_.empty()) return Problem{"give either a job file or --role, not both"};
  if (!command_.empty()) return Problem{"a job file names its own programs: nothing may follow --"};
  return tools::read_job_file(job_file_);
}

Outcome<tools::JobPlan> LaunchCommand::plan_of_flags() const {
  if (roles_.empty()) return Problem{"what shall run? Give a job file, or --role (see troupe launch --help)"};
  if (command_.empty()) return Problem{"what shall run? Give the program after --"};
  tools::JobPlan plan;
  for (const std::string& text : roles_) {
    tools::RolePlan role;
    size_t equals = text.find('=');
    role.role = text.substr(0, equals);
    if (equals != std::string::npos) {
      std::string count = text.substr(equals + 1);
      bool is_number =
          !count.empty() && count.size() < 6 && count.find_first_not_of("0123456789") == std::string::npos;
      if (!is_number || std::stoi(count) < 1)
        return Problem{"--role " + text + ": the count must be 1 or more"};
      role.count = std::stoi(count);
    }
    if (role.role.empty()) return Problem{"--role " + text + ": the role has no name"};
    role.command = command_;
    if (!plain_ && !tools::names_the_process(command_)) {
      role.command.insert(role.command.end(), {"--name", "{name}", "--role", "{role}"});
      if (!registry_.empty() || port_) role.command.insert(role.command.end(), {"--registry", "{registry}"});
    }
    plan.roles.push_back(std::move(role));
  }
  return plan;
}

Outcome<tools::Additions> LaunchCommand::additions() const {
  tools::Additions additions;
  for (const std::string& text : settings_) {
    auto setting = tools::parse_setting(text);
    if (auto* problem = std::get_if<Problem>(&setting)) return *problem;
    additions.settings.push_back(std::get<tools::Setting>(setting));
  }
  for (const std::string& target : main_) additions.marks.push_back({target, &tools::Marks::main});
  for (const std::string& target : critical_) additions.marks.push_back({target, &tools::Marks::critical});
  for (const std::string& target : console_) additions.marks.push_back({target, &tools::Marks::console});
  return additions;
}

std::optional<Problem> LaunchCommand::prepare_meeting(tools::Meeting* meeting, const tools::JobPlan& plan) {
  auto folder = tools::make_run_dir(run_dir_, plan.name);
  if (auto* problem = std::get_if<Problem>(&folder)) return *problem;
  meeting->run_dir = std::get<std::string>(folder);
  auto address = tools::choose_registry(plan.registry);
  if (auto* problem = std::get_if<Problem>(&address)) return *problem;
  meeting->registry = std::get<std::string>(address);
  return std::nullopt;
}

int LaunchCommand::launch(tools::Job job) const {
  bool console = false;
  for (const tools::Process& process : job.processes) console = console || process.marks.console;
  bool terminal = troupe::terminal_draws(1) && troupe::terminal_draws(2);
  bool colors = troupe::terminal_colors(1) && troupe::terminal_colors(2);
  tools::LaunchOptions options;
  options.grace = std::chrono::milliseconds(static_cast<long>(grace_s_ * 1000));
  options.color = color_ == "always" || (color_ == "auto" && colors);
  options.status = terminal && !console && !no_status_;
  options.quiet = quiet_;
  options.in_order = true;
  options.job_json = pid_file_.empty() ? job.meeting.run_dir + "/job.json" : pid_file_;
  return tools::Launcher(std::move(job), options).run();
}
