#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include <troupe/runtime/result.hpp>

/// `troupe checkpoint`: the flags, and what they mean.
class CheckpointCommand {
 public:
  void declare(CLI::App& app);
  /// Returns the process's exit code: 2 for bad input, 1 for faults.
  int run() const;

 private:
  troupe::Result<void> show() const;
  troupe::Result<void> verify() const;
  troupe::Result<void> write_file() const;
  troupe::Result<void> read_file() const;

  CLI::App* show_ = nullptr;
  CLI::App* verify_ = nullptr;
  CLI::App* export_ = nullptr;
  CLI::App* import_ = nullptr;
  std::string folder_;
  std::string file_;
  std::vector<std::string> tables_;
  std::vector<std::string> specs_;
  bool state_ = false;
};
