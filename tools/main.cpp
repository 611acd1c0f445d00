// The troupe command.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include <troupe/runtime/process.hpp>

#include "checkpoint_command.hpp"
#include "launch_command.hpp"
#include "top_command.hpp"
#include "troupe/tools/nearest.hpp"

namespace {

// CLI11 names the stranger; a person also wants to know what was meant.
std::string explain(const CLI::App& app, const CLI::ParseError& error,
                    const std::vector<std::string>& strangers) {
  if (strangers.empty()) return error.what();
  std::vector<std::string> known;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
  }
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    known.push_back(command->get_name());
  }
  std::string stranger = strangers.front().substr(0, strangers.front().find('='));
  return (stranger.starts_with('-') ? "unknown flag " : "unexpected argument ") + stranger +
         troupe::tools::suggestion(stranger, known);
}

int run(int argc, char** argv) {
  std::vector<std::string> words(argv + 1, argv + argc);
  auto dashes = std::find(words.begin(), words.end(), "--");
  std::vector<std::string> command;
  if (dashes != words.end()) command.assign(dashes + 1, words.end());
  words.erase(dashes, words.end());

  CLI::App app("Troupe: named actors that own parameter shards. This command runs its jobs.", "troupe");
  app.set_version_flag("--version", "troupe " TROUPE_VERSION);
  app.require_subcommand(1);
  LaunchCommand launch(command);
  CLI::App* launch_app = app.add_subcommand("launch", "Start the processes of a job on this machine");
  launch.declare(*launch_app);
  TopCommand top;
  CLI::App* top_app = app.add_subcommand("top", "Show what the nodes of a running cluster do");
  top.declare(*top_app);
  CheckpointCommand checkpoint;
  CLI::App* checkpoint_app =
      app.add_subcommand("checkpoint", "Look at a checkpoint; export and import its tables");
  checkpoint.declare(*checkpoint_app);
  if (words.empty()) words.emplace_back("--help");
  try {
    std::reverse(words.begin(), words.end());  // as CLI11 takes them
    app.parse(words);
  } catch (const CLI::Success& success) {
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    const CLI::App* place = &app;
    std::string name = "troupe";
    for (const CLI::App* each : {launch_app, top_app, checkpoint_app})
      if (each->parsed()) place = each, name += " " + each->get_name();
    for (const CLI::App* each : checkpoint_app->get_subcommands()) place = each;
    std::cerr << name << ": " << explain(*place, error, app.remaining(true)) << "\n";
    return 2;
  }
  if (checkpoint_app->parsed()) return checkpoint.run();
  return top_app->parsed() ? top.run() : launch.run();
}

}  // namespace

int main(int argc, char** argv) {
  troupe::open_standard_descriptors();
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "troupe: " << error.what() << "\n";
    return 1;
  } catch (...) {
    std::cerr << "troupe: ended by an unknown exception\n";
    return 1;
  }
}
