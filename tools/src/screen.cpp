#include "screen.hpp"

#include <array>

namespace troupe::tools {
namespace {

// Cyan, yellow, green, magenta, blue and their bright kin; red is for what went wrong.
constexpr std::array<std::string_view, 10> kColors = {"36", "33", "32", "35", "34",
                                                      "96", "93", "92", "95", "94"};
constexpr std::string_view kEraseLine = "\r\033[K";

std::string colored(std::string_view text, std::string_view color) {
  return "\033[" + std::string(color) + "m" + std::string(text) + "\033[0m";
}

}  // namespace

void Screen::process_line(size_t index, std::string_view name, std::string_view line, Stream stream) {
  std::string prefix(name);
  if (prefix.size() < style_.name_width) prefix.append(style_.name_width - prefix.size(), ' ');
  prefix += " |";
  if (style_.color) prefix = colored(prefix, kColors[index % kColors.size()]);
  prefix += ' ';
  put(stream, prefix.append(line));
}

void Screen::message(std::string_view text) {
  std::string prefix = style_.color ? colored("troupe:", "1") : "troupe:";
  put(Stream::err, prefix + " " + std::string(text));
}

void Screen::put(Stream stream, std::string_view line) {
  // With a status line both streams are the terminal: one queue keeps the order, and the line below.
  Outlet& outlet = stream == Stream::out && !style_.status ? out_ : err_;
  if (!status_.empty()) outlet.add(kEraseLine);
  outlet.add(line);
  outlet.add("\n");
  if (!status_.empty()) outlet.add(status_);
}

void Screen::set_status(std::string text) {
  if (!style_.status || text == status_) return;
  err_.add(kEraseLine);
  err_.add(text);
  status_ = std::move(text);
}

}  // namespace troupe::tools
