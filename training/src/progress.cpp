#include "progress.hpp"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>

#include <troupe/runtime/process.hpp>

namespace troupe::training {

namespace {

constexpr std::chrono::seconds kPlainInterval{2};

template <class... Args>
std::string format(const char* pattern, Args... args) {
  const int length = std::snprintf(nullptr, 0, pattern, args...);
  std::string text(static_cast<std::size_t>(length), '\0');
  std::snprintf(text.data(), text.size() + 1, pattern, args...);
  return text;
}

std::string bar(double fraction, int width) {
  static constexpr const char* kEighths[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  const auto eighths = static_cast<int>(std::clamp(fraction, 0.0, 1.0) * width * 8);
  std::string text;
  for (int i = 0; i < eighths / 8; ++i) text += "█";
  text += kEighths[eighths % 8];
  const int used = eighths / 8 + (eighths % 8 ? 1 : 0);
  return text + std::string(static_cast<std::size_t>(width - used), ' ');
}

/// The columns that a UTF-8 text takes, all its characters being one column wide.
std::size_t columns(const std::string& text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

/// The text cut to `width` columns, for a line that wraps cannot be drawn over.
std::string cut(const std::string& text, std::size_t width) {
  if (columns(text) <= width) return text;
  std::size_t seen = 0, at = 0;
  while (at < text.size()) {
    if ((text[at] & 0xC0) != 0x80 && ++seen > width) break;
    ++at;
  }
  return text.substr(0, at);
}

std::size_t terminal_width() {
  winsize size{};
  return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

std::string minutes(double seconds) {
  const auto whole = static_cast<long>(std::lround(std::max(0.0, seconds)));
  return format("%ld:%02ld", whole / 60, whole % 60);
}

std::string rate_text(double per_second) {
  return per_second >= 1000 ? format("%.1f k", per_second / 1000) : format("%.0f", per_second);
}

Progress::Progress() : terminal_(terminal_draws(STDOUT_FILENO)) {}

Progress::~Progress() {
  clear();
}

namespace {

std::string label(const ProgressView::WorkerRate& worker) {
  return worker.name + (worker.speed < 1 ? format(" (%.0f %% speed)", 100 * worker.speed) : "");
}

std::string facts(const ProgressView& view) {
  std::string text;
  const auto add = [&](const std::string& fact) { text += (text.empty() ? "" : "   ") + fact; };
  if (view.loss > 0) add(format("loss %.3f", view.loss));
  if (view.valid) add(format("valid %s %.3f", view.valid->title.c_str(), view.valid->value));
  if (view.staleness_mean >= 0) add(format("staleness %.2f", view.staleness_mean));
  return text;
}

double in_all(const ProgressView& view) {
  return std::accumulate(view.workers.begin(), view.workers.end(), 0.0,
                         [](double sum, const auto& worker) { return sum + worker.examples_per_second; });
}

}  // namespace

std::vector<std::string> progress_lines(const ProgressView& view) {
  constexpr int kBar = 24;
  constexpr std::size_t kMostWorkers = 12;
  std::vector<std::string> lines;
  std::string first = format("  %-22s %s %3.0f %%", view.phase.c_str(), bar(view.fraction, kBar).c_str(),
                             100 * view.fraction);
  if (view.seconds_left >= 0) first += "   about " + minutes(view.seconds_left) + " left";
  lines.push_back(first);
  if (view.workers.empty()) return lines;
  const std::string more = facts(view);
  lines.push_back("  " + rate_text(in_all(view)) + " " + view.examples + "/s" +
                  (more.empty() ? "" : "   " + more));
  double fastest = 1;
  for (const auto& worker : view.workers) fastest = std::max(fastest, worker.examples_per_second);
  for (std::size_t i = 0; i < std::min(kMostWorkers, view.workers.size()); ++i) {
    const auto& worker = view.workers[i];
    std::string line = format("  %-22s ", label(worker).c_str());
    line += worker.alive ? bar(worker.examples_per_second / fastest, kBar) + " " +
                               rate_text(worker.examples_per_second)
                         : "dead";
    lines.push_back(line);
  }
  if (view.workers.size() > kMostWorkers)
    lines.push_back(format("  and %zu more", view.workers.size() - kMostWorkers));
  return lines;
}

std::string progress_line(const ProgressView& view) {
  std::string text = format("%s %.0f %%", view.phase.c_str(), 100 * view.fraction);
  if (view.seconds_left >= 0) text += ", about " + minutes(view.seconds_left) + " left";
  if (view.workers.empty()) return text;
  text += "; " + rate_text(in_all(view)) + " " + view.examples + "/s (";
  for (const auto& worker : view.workers)
    text += (&worker == &view.workers.front() ? "" : ", ") + label(worker) + " " +
            (worker.alive ? rate_text(worker.examples_per_second) : "dead");
  const std::string more = facts(view);
  return text + ")" + (more.empty() ? "" : "; " + more);
}

void Progress::show(const ProgressView& view) {
  if (terminal_) {
    // Drawn over, not erased first, so that nothing flickers.
    const std::size_t width = terminal_width();
    std::string text = drawn_ > 0 ? format("\033[%zuA\r", drawn_) : "";
    const auto lines = progress_lines(view);
    for (const std::string& line : lines) text += cut(line, width - 1) + "\033[K\n";
    text += "\033[J";
    std::fputs(text.c_str(), stdout);
    std::fflush(stdout);
    drawn_ = lines.size();
    return;
  }
  const auto now = std::chrono::steady_clock::now();
  if (now - last_line_ < kPlainInterval) return;
  last_line_ = now;
  std::printf("%s\n", progress_line(view).c_str());
  std::fflush(stdout);
}

void Progress::clear() {
  if (drawn_ == 0) return;
  std::printf("\033[%zuA\r\033[J", drawn_);  // up, and erase to the end of the screen
  std::fflush(stdout);
  drawn_ = 0;
}

void Progress::message(const std::string& text) {
  clear();
  std::printf("%s\n", text.c_str());
  std::fflush(stdout);
}

}  // namespace troupe::training
