#pragma once

#include <string>
#include <string_view>

#include "output.hpp"

namespace troupe::tools {

/// Everything the launcher prints: lines of processes behind their names, its own messages, and at the
/// bottom of a terminal one line that says what runs.
class Screen {
 public:
  enum class Stream { out, err };

  struct Style {
    bool color = false;
    bool status = false;
    size_t name_width = 0;
  };

  Screen(int out_fd, int err_fd, Style style) : out_(out_fd), err_(err_fd), style_(style) {}

  /// A line of process number `index`, which gives it its colour.
  void process_line(size_t index, std::string_view name, std::string_view line, Stream stream);
  /// A message of the launcher itself.
  void message(std::string_view text);
  /// Replaces the line at the bottom; no line if empty.
  void set_status(std::string text);

  Outlet& out() { return out_; }
  Outlet& err() { return err_; }
  bool has_status() const { return style_.status; }

 private:
  void put(Stream stream, std::string_view line);

  Outlet out_;
  Outlet err_;
  Style style_;
  std::string status_;
};

}  // namespace troupe::tools
