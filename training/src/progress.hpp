#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <troupe/training/report.hpp>

namespace troupe::training {

/// What there is to show of a run at one moment.
struct ProgressView {
  std::string examples = "examples";  ///< what rates count
  std::string phase;                  ///< "epoch 3/10", "validation", "test"
  double fraction = 0;                ///< of the phase, 0 to 1
  double seconds_left = -1;           ///< of training; negative: not known
  double loss = 0;                    ///< mean of the phase so far; 0: none
  std::optional<Metric> valid;        ///< as last found
  struct WorkerRate {
    std::string name;
    double speed = 1;
    bool alive = true;
    double examples_per_second = 0;
  };
  std::vector<WorkerRate> workers;
  double staleness_mean = -1;  ///< of the last moments; negative: not known
};

/// As a terminal shows it, several lines; and as one line.
std::vector<std::string> progress_lines(const ProgressView& view);
std::string progress_line(const ProgressView& view);

/// The display of a run: on a terminal a few lines that are drawn again and again below the messages, on a
/// pipe one plain line every few seconds. One thread.
class Progress {
 public:
  /// Writes to standard output.
  Progress();
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void show(const ProgressView& view);
  /// Takes the display away, prints a line that stays.
  void message(const std::string& text);
  void clear();

 private:
  bool terminal_;
  std::size_t drawn_ = 0;  // lines of the display on the screen
  std::chrono::steady_clock::time_point last_line_{};
};

/// "1:05".
std::string minutes(double seconds);
/// "61.2 k".
std::string rate_text(double per_second);

}  // namespace troupe::training
