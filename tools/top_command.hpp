#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include <troupe/actors/observer.hpp>

#include "src/top_keys.hpp"

/// `troupe top`: the flags, and what they mean.
class TopCommand {
 public:
  void declare(CLI::App& app);
  /// Returns the process's exit code: 2 for bad input, 1 if the cluster cannot be reached, or goes.
  int run();

 private:
  int watch(troupe::ClusterObserver& observer);
  std::optional<troupe::Error> draw_until_ended(troupe::ClusterObserver& observer);
  int print_targets(troupe::ClusterObserver& observer);
  void wait(troupe::ClusterObserver& observer, troupe::tools::Keys& keys);
  std::size_t nodes_on_screen() const;
  void draw();

  std::string address_;
  std::string secret_file_;
  std::string transport_;
  double interval_s_ = 1;
  double timeout_s_ = 3;
  bool once_ = false;
  bool targets_ = false;
  bool terminal_ = false;
  troupe::tools::TopView view_;
  std::vector<troupe::tools::TopRow> rows_;  // of the last look
};
