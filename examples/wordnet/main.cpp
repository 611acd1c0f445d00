// wordnet: trains embeddings of a knowledge graph on parameter shards, in several processes.
//
// `wordnet train` starts the others: a chief (registry, coordinator, progress, report), shard servers and
// workers, each of them this same program.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <string>

#include <troupe/kernels/blas.hpp>
#include <troupe/runtime/files.hpp>
#include <troupe/runtime/process.hpp>
#include <troupe/tools/job.hpp>
#include <troupe/tools/launcher.hpp>
#include <troupe/tools/meeting.hpp>

#include "wordnet/checkpoint.hpp"
#include "wordnet/flags.hpp"
#include "wordnet/roles.hpp"
#include "wordnet/settings.hpp"

namespace {

using namespace troupe::wordnet;
namespace tools = troupe::tools;

constexpr int kBadInput = 2;

int complain(const std::string& what, int code = kBadInput) {
  std::fprintf(stderr, "wordnet: %s\n", what.c_str());
  return code;
}

struct TrainFlags {
  JobSettings settings;
  std::vector<std::string> throttles{"worker-2=0.4"};
  std::optional<std::uint64_t> staleness;
  std::string resume;
  std::string reference;
  std::string transport = "auto";
  std::string registry = "tcp";
};

void add_train_flags(CLI::App& app, TrainFlags& flags) {
  add_dataset_flags(app, flags.settings.dataset);
  add_hyper_parameter_flags(app, flags.settings.parameters);
  JobSettings& s = flags.settings;
  app.add_option("--out", s.out, "Folder for the checkpoint, result.json and report.html")
      ->capture_default_str();
  app.add_option("--resume", flags.resume,
                 "Go on from the checkpoint in this run's folder, with its settings");
  app.add_option("--servers", s.servers, "Shard servers")->capture_default_str()->check(CLI::Range(1, 64));
  app.add_option("--workers", s.workers, "Workers")->capture_default_str()->check(CLI::Range(1, 256));
  app.add_option("--throttle", flags.throttles,
                 "Hold a worker at a part of its speed: worker-2=0.4; 'none' for nobody")
      ->capture_default_str();
  app.add_option("--staleness", flags.staleness,
                 "Bounded staleness: no worker gets more than this many batches ahead")
      ->check(zero_or_more());
  app.add_option("--compare-staleness", s.compare_staleness,
                 "The bound that asynchronous training is compared with")
      ->capture_default_str()
      ->check(zero_or_more());
  app.add_option("--compare-seconds", s.compare_seconds,
                 "How long to time each mode of consistency; 0: do not")
      ->capture_default_str()
      ->check(zero_or_more());
  app.add_option("--valid-triples", s.valid_triples, "Validation triples ranked after each epoch; 0: none")
      ->capture_default_str()
      ->check(zero_or_more());
  app.add_option("--checkpoint-every", s.checkpoint_every, "Epochs between checkpoints; 0: only at the end")
      ->capture_default_str()
      ->check(zero_or_more());
  app.add_option("--words", s.words, "Print the nearest neighbours of these entities")->capture_default_str();
  app.add_option("--neighbours", s.neighbours, "How many of them")
      ->capture_default_str()
      ->check(zero_or_more());
  app.add_option("--reference", flags.reference, "What wordnet_reference printed, to be set beside this run");
  app.add_option("--transport", flags.transport, "auto, shm or tcp")
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "shm", "tcp"}));
  app.add_option("--registry", flags.registry,
                 "Where the processes meet: 'tcp' for a free loopback port, or 127.0.0.1:PORT")
      ->capture_default_str();
}

/// Reads "worker-2=0.4" into the settings.
troupe::Result<void> read_throttles(TrainFlags& flags) {
  flags.settings.speeds.clear();
  for (const std::string& text : flags.throttles) {
    if (text == "none") continue;
    const auto equals = text.find('=');
    char* end = nullptr;
    const double speed = equals == std::string::npos ? 0 : std::strtod(text.c_str() + equals + 1, &end);
    if (speed <= 0 || speed > 1 || (end && *end != 0))
      return troupe::Error{troupe::Code::kInvalidArgument,
                           "--throttle " + text + ": is to be NAME=SPEED, with a speed above 0 and up to 1"};
    const std::string name = text.substr(0, equals);
    bool known = false;
    for (std::uint32_t i = 0; i < flags.settings.workers; ++i) known |= name == "worker-" + std::to_string(i);
    // The default may name a worker that a smaller job does not have.
    if (!known && flags.throttles.size() == 1 && text == "worker-2=0.4") continue;
    if (!known)
      return troupe::Error{troupe::Code::kInvalidArgument, "--throttle " + text + ": there is no " + name +
                                                               "; workers are worker-0 to worker-" +
                                                               std::to_string(flags.settings.workers - 1)};
    flags.settings.speeds[name] = speed;
  }
  return {};
}

/// The settings of the run in `folder`, as its checkpoint keeps them, with those changed that may be.
troupe::Result<JobSettings> settings_of_run(const TrainFlags& flags, const CLI::App& app) {
  static constexpr std::array kMayChange{"--resume",     "--help",           "--data",     "--epochs",
                                         "--reference",  "--transport",      "--registry", "--words",
                                         "--neighbours", "--compare-seconds"};
  for (const CLI::Option* option : app.get_options()) {
    const std::string name = option->get_name();
    if (option->count() > 0 && std::find(kMayChange.begin(), kMayChange.end(), name) == kMayChange.end())
      return troupe::Error{troupe::Code::kInvalidArgument,
                           "--resume goes on with the settings of that run: leave out " + name};
  }
  auto progress = read_run_progress(std::filesystem::path(flags.resume) / "checkpoint");
  if (!progress) return troupe::with_context(progress.error(), "--resume " + flags.resume);
  JobSettings settings = std::move(progress->settings);
  settings.out = flags.resume;
  const JobSettings& given = flags.settings;
  if (app.count("--data") > 0) settings.dataset.folder = given.dataset.folder;
  if (app.count("--epochs") > 0) settings.parameters.epochs = given.parameters.epochs;
  if (app.count("--words") > 0) settings.words = given.words;
  if (app.count("--neighbours") > 0) settings.neighbours = given.neighbours;
  if (app.count("--compare-seconds") > 0) settings.compare_seconds = given.compare_seconds;
  return settings;
}

/// A chief that was killed could not say how to go on: `begun` is when the job was started.
void tell_how_to_resume(const TrainFlags& flags, const std::string& program,
                        std::filesystem::file_time_type begun) {
  const auto folder = flags.settings.checkpoint();
  std::error_code failed;
  const auto written = std::filesystem::last_write_time(folder / "manifest.json", failed);
  auto progress = read_run_progress(folder);
  const bool ours = !failed && progress && (written >= begun || !flags.resume.empty());
  std::fprintf(stderr, "%s\n",
               resume_hint(flags.settings, ours ? progress->epoch : 0, program, flags.transport).c_str());
}

tools::JobPlan plan_of(const TrainFlags& flags, const std::string& program,
                       const std::filesystem::path& settings_file) {
  const JobSettings& s = flags.settings;
  const auto role = [&](std::string name, int count, tools::Words command) {
    tools::RolePlan plan;
    plan.role = std::move(name);
    if (count > 0) plan.count = count;
    plan.command = std::move(command);
    for (const char* word : {"--registry", "{registry}", "--transport"}) plan.command.emplace_back(word);
    plan.command.push_back(flags.transport);
    return plan;
  };
  auto chief = role("chief", 0, {program, "chief", "--settings", settings_file.string()});
  if (!flags.resume.empty()) chief.command.emplace_back("--resume");
  if (!flags.reference.empty()) chief.command.insert(chief.command.end(), {"--reference", flags.reference});
  chief.marks.console = chief.marks.main = true;
  auto server = role("ps", static_cast<int>(s.servers),
                     {program, "server", "--name", "{name}", "--index", "{index}", "--count", "{count}"});
  auto worker = role("worker", static_cast<int>(s.workers), {program, "worker", "--name", "{name}"});
  for (const auto& [name, speed] : s.speeds) worker.workers[name].args = {"--speed", std::to_string(speed)};
  tools::JobPlan plan;
  plan.name = "wordnet";
  plan.registry = flags.registry;
  plan.roles = {std::move(chief), std::move(server), std::move(worker)};
  return plan;
}

int train(TrainFlags& flags, const CLI::App& app, const std::string& program) {
  if (!flags.resume.empty()) {
    auto settings = settings_of_run(flags, app);
    if (!settings) return complain(settings.error().message);
    flags.settings = *settings;
  } else {
    flags.settings.staleness = flags.staleness;
    if (auto read = read_throttles(flags); !read) return complain(read.error().message);
  }
  std::error_code failed;
  std::filesystem::create_directories(flags.settings.out, failed);
  if (failed) return complain("--out " + flags.settings.out.string() + ": " + failed.message());
  const auto settings_file = flags.settings.out / "settings.json";
  if (auto written = troupe::write_file_atomically(settings_file, to_json(flags.settings)); !written)
    return complain(written.error().message);

  auto registry = tools::choose_registry(flags.registry);
  if (const auto* problem = std::get_if<tools::Problem>(&registry)) return complain(problem->text);
  const tools::Meeting meeting{std::get<std::string>(registry), flags.settings.out.string()};
  auto job = tools::make_job(plan_of(flags, program, settings_file), {}, meeting);
  if (const auto* problem = std::get_if<tools::Problem>(&job)) return complain(problem->text);
  tools::LaunchOptions options;
  options.quiet = true;
  options.color = troupe::terminal_colors(STDOUT_FILENO);
  options.job_json = flags.settings.job_record();
  const auto begun = std::filesystem::file_time_type::clock::now();
  const int code = tools::Launcher(std::get<tools::Job>(std::move(job)), options).run();
  if (code > 128 && code != 128 + SIGINT && code != 128 + SIGTERM && code != 128 + SIGHUP)
    tell_how_to_resume(flags, program, begun);
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

int run(int argc, char** argv) {
  CLI::App app{"Trains embeddings of a knowledge graph on parameter shards, in several processes"};
  app.require_subcommand(1);
  TrainFlags flags;
  CLI::App* train_command = app.add_subcommand("train", "Run the whole job on this machine");
  add_train_flags(*train_command, flags);

  Place place;
  std::string settings_file, reference;
  bool resume = false;
  CLI::App* chief = app.add_subcommand("chief", "One process of the job: registry, coordinator, report");
  add_place_flags(*chief, place);
  chief->add_option("--settings", settings_file, "The job's settings, a file that `train` wrote")->required();
  chief->add_flag("--resume", resume, "Go on from the checkpoint in the job's folder");
  chief->add_option("--reference", reference, "What wordnet_reference printed");
  std::uint32_t index = 0, count = 1;
  CLI::App* server = app.add_subcommand("server", "One process of the job: a shard server");
  add_place_flags(*server, place);
  server->add_option("--name", place.name, "Its name, unique in the job")->required();
  server->add_option("--index", index, "Its number, from 0")->required();
  server->add_option("--count", count, "How many there are")->required();
  double speed = 1;
  CLI::App* worker = app.add_subcommand("worker", "One process of the job: a worker");
  add_place_flags(*worker, place);
  worker->add_option("--name", place.name, "Its name, unique in the job")->required();
  worker->add_option("--speed", speed, "1: full speed; 0.4: 40 % of it")->check(CLI::Range(0.001, 1.0));

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error), 0;
    return complain(std::string(error.what()) + " (see --help)");
  }
  if (*train_command) {
    std::error_code failed;
    const auto self = std::filesystem::read_symlink("/proc/self/exe", failed);
    return train(flags, *train_command, failed ? argv[0] : self.string());
  }
  if (*server) return run_server(place, index, count);
  if (*worker) return run_worker(place, speed);

  place.name = "chief";
  auto text = troupe::read_file(settings_file);
  if (!text) return complain(text.error().message);
  auto settings = settings_from_json(*text);
  if (!settings) return complain(settings_file + ": " + settings.error().message);
  return run_chief(place, *settings, resume, argv[0],
                   reference.empty() ? std::nullopt : std::optional(reference));
}

}  // namespace

int main(int argc, char** argv) {
  troupe::open_standard_descriptors();
  troupe::kernels::restart_with_better_blas(argv);
  try {
    return run(argc, argv);
  } catch (const std::exception& exception) {
    return std::fprintf(stderr, "wordnet: %s\n", exception.what()), 1;
  } catch (...) {  // in CAF too, whose exceptions need not be of the standard's
    return std::fprintf(stderr, "wordnet: ended by an unknown exception\n"), 1;
  }
}
