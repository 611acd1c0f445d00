// The command of a training program, and the start of a job's processes.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <utility>

#include <troupe/runtime/files.hpp>
#include <troupe/runtime/process.hpp>
#include <troupe/shards/snapshot.hpp>
#include <troupe/tools/job.hpp>
#include <troupe/tools/launcher.hpp>
#include <troupe/tools/meeting.hpp>
#include <troupe/training/program.hpp>

#include "flags.hpp"
#include "roles.hpp"
#include "run_progress.hpp"
#include "shard_memory.hpp"

namespace troupe::training {

namespace {

constexpr int kBadInput = 2;

int complain(const Program& program, const std::string& what) {
  std::fprintf(stderr, "%s: %s\n", program.name.c_str(), what.c_str());
  return kBadInput;
}

/// `PROGRAM train`: its flags, and what follows from them.
struct TrainCommand {
  explicit TrainCommand(const Program& of) : program(of), settings(of.defaults), task(of.make_task()) {}

  const Program& program;
  JobSettings settings;
  std::unique_ptr<Task> task;
  std::string resume;
  bool allow_older = false, allow_added = false;
  std::string transport = "auto";
  std::string registry = "tcp";
  std::string device = "cpu";  // checkpoints are the same, wherever rows lie
  FlagWords words;             // of job and task

  void add_flags(CLI::App& app);
  Result<void> settle(const CLI::App& app);
  Result<void> settle_resumed(const CLI::App& app);
};

/// The flags of the launch alone, of which no checkpoint tells.
const std::vector<std::string> kOfLaunch{"--help",      "--resume",   "--allow-older", "--allow-added",
                                         "--transport", "--registry", "--device"};

void TrainCommand::add_flags(CLI::App& app) {
  task->add_flags(app);
  add_job_flags(app, settings);
  CLI::Option* const from =
      app.add_option("--resume", resume, "Go on from the checkpoint in this run's folder, with its settings");
  app.add_flag("--allow-older", allow_older,
               "Resume from an older checkpoint if the newest is damaged (see --keep-checkpoints)")
      ->needs(from);
  app.add_flag("--allow-added", allow_added, "Resume also if the data has more than that of the checkpoint")
      ->needs(from);
  app.add_option("--transport", transport, "auto, shm or tcp")
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "shm", "tcp"}));
  app.add_option("--device", device, kDeviceHelp)->capture_default_str();
  app.add_option("--registry", registry,
                 "Where the processes meet: 'tcp' for a free loopback port, or 127.0.0.1:PORT")
      ->capture_default_str();
}

Result<void> TrainCommand::settle(const CLI::App& app) {
  if (!resume.empty()) return settle_resumed(app);
  words = words_of(app, kOfLaunch);
  return check_settings(settings, app.count("--throttle") > 0);
}

/// The settings of the run in `resume`, as its checkpoint keeps them, with those changed that may be.
Result<void> TrainCommand::settle_resumed(const CLI::App& app) {
  std::vector<std::string> free = flags_free_to_change(*task);
  std::erase(free, "--out");  // that is what --resume says
  free.insert(free.end(), kOfLaunch.begin(), kOfLaunch.end());
  FlagWords changed;
  for (const CLI::Option* option : app.get_options()) {
    const std::string name = option->get_name();
    if (option->count() == 0) continue;
    if (std::find(free.begin(), free.end(), name) == free.end())
      return Error{Code::kInvalidArgument,
                   "--resume goes on with the settings of that run: leave out " + name};
    if (std::find(kOfLaunch.begin(), kOfLaunch.end(), name) == kOfLaunch.end())
      changed.emplace_back(name, option->results());
  }
  auto run = find_run(std::filesystem::path(resume) / "checkpoint",
                      allow_older ? shards::Older::kAllowed : shards::Older::kRefused, task->optimizers());
  if (!run) return with_context(run.error(), "--resume " + resume);
  changed.emplace_back("--out", std::vector<std::string>{resume});  // it may have been moved
  words = merge(std::move(run->progress.flags), changed);
  settings = program.defaults;
  task = program.make_task();
  return apply(words, settings, *task);
}

/// A chief that was killed could not say how to go on: `begun` is when the job was started.
void tell_how_to_resume(const TrainCommand& command, const std::string& self,
                        std::filesystem::file_time_type begun) {
  const auto folder = command.settings.checkpoint();
  std::error_code failed;
  const auto written = std::filesystem::last_write_time(folder / "manifest.json", failed);
  auto run = find_run(folder, shards::Older::kRefused, command.task->optimizers());
  const bool ours = !failed && run && (written >= begun || !command.resume.empty());
  std::fprintf(
      stderr, "%s\n",
      resume_hint(command.settings, ours ? run->progress.epoch : 0, self, command.transport).c_str());
}

tools::JobPlan plan_of(const TrainCommand& command, const std::string& self,
                       const std::filesystem::path& settings_file) {
  const JobSettings& s = command.settings;
  const auto role = [&](std::string name, int count, tools::Words words) {
    tools::RolePlan plan;
    plan.role = std::move(name);
    if (count > 0) plan.count = count;
    plan.command = std::move(words);
    for (const char* word : {"--registry", "{registry}", "--transport"}) plan.command.emplace_back(word);
    plan.command.push_back(command.transport);
    return plan;
  };
  auto chief = role("chief", 0, {self, "chief", "--settings", settings_file.string()});
  if (!command.resume.empty()) chief.command.emplace_back("--resume");
  if (command.allow_older) chief.command.emplace_back("--allow-older");
  if (command.allow_added) chief.command.emplace_back("--allow-added");
  chief.marks.console = chief.marks.main = true;
  auto server = role("ps", static_cast<int>(s.servers),
                     {self, "server", "--name", "{name}", "--index", "{index}", "--count", "{count}",
                      "--device", command.device});
  auto worker = role("worker", static_cast<int>(s.workers), {self, "worker", "--name", "{name}"});
  for (const auto& [name, speed] : s.speeds) worker.workers[name].args = {"--speed", std::to_string(speed)};
  tools::JobPlan plan;
  plan.name = command.program.name;
  plan.registry = command.registry;
  plan.roles = {std::move(chief), std::move(server), std::move(worker)};
  return plan;
}

int train(TrainCommand& command, const CLI::App& app, const std::string& self) {
  const Program& program = command.program;
  if (auto settled = command.settle(app); !settled) return complain(program, settled.error().message);
  if (auto there = check_device(command.device); !there) return complain(program, there.error().message);
  const JobSettings& settings = command.settings;
  std::error_code failed;
  std::filesystem::create_directories(settings.out, failed);
  if (failed) return complain(program, "--out " + settings.out.string() + ": " + failed.message());
  const auto settings_file = settings.out / "settings.json";
  // Held to the end: the folder is this run's.
  const auto lock = shards::CheckpointLock::take({std::filesystem::absolute(settings_file, failed), {}});
  if (!lock) return complain(program, "--out " + settings.out.string() + ": " + lock.error().message);
  if (auto written = write_file_atomically(settings_file, to_json(command.words)); !written)
    return complain(program, written.error().message);

  auto registry = tools::choose_registry(command.registry);
  if (const auto* problem = std::get_if<tools::Problem>(&registry)) return complain(program, problem->text);
  const tools::Meeting meeting{std::get<std::string>(registry), settings.out.string()};
  auto job = tools::make_job(plan_of(command, self, settings_file), {}, meeting);
  if (const auto* problem = std::get_if<tools::Problem>(&job)) return complain(program, problem->text);
  tools::LaunchOptions options;
  options.quiet = true;
  options.color = terminal_colors(STDOUT_FILENO);
  options.job_json = settings.job_record();
  const auto begun = std::filesystem::file_time_type::clock::now();
  const int code = tools::Launcher(std::get<tools::Job>(std::move(job)), options).run();
  if (code > 128 && code != 128 + SIGINT && code != 128 + SIGTERM && code != 128 + SIGHUP)
    tell_how_to_resume(command, self, begun);
  return code;
}

/// Adds the flags that every process of the job has.
void add_place_flags(CLI::App& app, Place& place) {
  app.add_option("--registry", place.registry, "Address of the chief")->required();
  app.add_option("--transport", place.transport, "auto, shm or tcp");
  app.add_option("--metrics-address", place.metrics_address,
                 "Where it serves metrics, 127.0.0.1:0 for instance")
      ->envname("TROUPE_NODE_METRICS_ADDRESS");
}

int run(const Program& program, int argc, char** argv) {
  CLI::App app{program.about};
  app.require_subcommand(1);
  TrainCommand command(program);
  CLI::App* train_command = app.add_subcommand("train", "Run the whole job on this machine");
  command.add_flags(*train_command);

  Place place;
  std::string settings_file;
  Resume resume;
  CLI::App* chief = app.add_subcommand("chief", "One process of the job: registry, coordinator, report");
  add_place_flags(*chief, place);
  chief->add_option("--settings", settings_file, "The job's settings, a file that `train` wrote")->required();
  chief->add_flag("--resume", resume.wanted, "Go on from the checkpoint in the job's folder");
  chief->add_flag("--allow-older", resume.allow_older, "As of train");
  chief->add_flag("--allow-added", resume.allow_added, "As of train");
  ServerPlan server_plan;
  CLI::App* server = app.add_subcommand("server", "One process of the job: a shard server");
  add_place_flags(*server, place);
  server->add_option("--name", place.name, "Its name, unique in the job")->required();
  server->add_option("--index", server_plan.index, "Its number, from 0")->required();
  server->add_option("--count", server_plan.count, "How many there are")->required();
  server->add_option("--device", server_plan.device, kDeviceHelp)->capture_default_str();
  double speed = 1;
  CLI::App* worker = app.add_subcommand("worker", "One process of the job: a worker");
  add_place_flags(*worker, place);
  worker->add_option("--name", place.name, "Its name, unique in the job")->required();
  worker->add_option("--speed", speed, "1: full speed; 0.4: 40 % of it")->check(CLI::Range(0.001, 1.0));

  const auto commands = app.get_subcommands([](const CLI::App*) { return true; });
  if (argc > 1 && argv[1][0] != '-' &&
      std::ranges::none_of(commands, [&](const CLI::App* each) { return each->get_name() == argv[1]; }))
    return complain(program, "unknown command '" + std::string(argv[1]) +
                                 "': train runs the whole job on this machine (see --help)");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error), 0;
    return complain(program, std::string(error.what()) + " (see --help)");
  }
  if (*train_command) {
    std::error_code failed;
    const auto self = std::filesystem::read_symlink("/proc/self/exe", failed);
    return train(command, *train_command, failed ? argv[0] : self.string());
  }
  if (*server) return run_server(place, program, server_plan);
  if (*worker) return run_worker(place, program, speed);

  place.name = "chief";
  auto text = read_file(settings_file);
  if (!text) return complain(program, text.error().message);
  auto flags = flag_words_from_json(*text);
  if (!flags) return complain(program, settings_file + ": " + flags.error().message);
  return run_chief(place, program, *flags, resume, argv[0]);
}

}  // namespace

int run_program(const Program& program, int argc, char** argv) {
  open_standard_descriptors();
  try {
    return run(program, argc, argv);
  } catch (const std::exception& exception) {
    return std::fprintf(stderr, "%s: %s\n", program.name.c_str(), exception.what()), 1;
  } catch (...) {  // in CAF too, whose exceptions need not be of the standard's
    return std::fprintf(stderr, "%s: ended by an unknown exception\n", program.name.c_str()), 1;
  }
}

}  // namespace troupe::training
