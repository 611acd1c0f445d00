#include "top_keys.hpp"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <utility>

namespace troupe::tools {

namespace {

/// Within 80 columns. What each letter sorts by is told by --help.
constexpr std::string_view kHelp = "q quit  n r o i m p e b sort, again: turned  arrows, page keys scroll";

constexpr std::array<std::pair<char, TopOrder>, 8> kOrders{{{'n', TopOrder::kName},
                                                            {'r', TopOrder::kRole},
                                                            {'o', TopOrder::kOut},
                                                            {'i', TopOrder::kIn},
                                                            {'m', TopOrder::kBytes},
                                                            {'p', TopOrder::kOpen},
                                                            {'e', TopOrder::kErrors},
                                                            {'b', TopOrder::kBusy}}};

/// What terminals send, beginning with ESC. Longer ones first where one begins another.
constexpr std::array<std::pair<std::string_view, char>, 12> kSequences{{{"\033[A", 'k'},
                                                                        {"\033OA", 'k'},
                                                                        {"\033[B", 'j'},
                                                                        {"\033OB", 'j'},
                                                                        {"\033[5~", 'u'},
                                                                        {"\033[6~", 'd'},
                                                                        {"\033[H", 'g'},
                                                                        {"\033OH", 'g'},
                                                                        {"\033[1~", 'g'},
                                                                        {"\033[F", 'G'},
                                                                        {"\033OF", 'G'},
                                                                        {"\033[4~", 'G'}}};

double weight(const TopRow& row, TopOrder order) {
  switch (order) {
    case TopOrder::kOut:
      return row.calls_out;
    case TopOrder::kIn:
      return row.calls_in;
    case TopOrder::kBytes:
      return row.bytes;
    case TopOrder::kOpen:
      return static_cast<double>(row.in_flight);
    case TopOrder::kErrors:
      return row.errors;
    case TopOrder::kBusy:
      return row.busy;
    case TopOrder::kName:
    case TopOrder::kRole:
      break;
  }
  return 0;
}

void press(TopView& view, char key, std::size_t page) {
  for (const auto& [letter, order] : kOrders) {
    if (key != letter) continue;
    view.reversed = view.order == order && !view.reversed;
    view.order = order;
    view.first = 0;
    return;
  }
  const auto back = [&](std::size_t lines) { view.first -= std::min(view.first, lines); };
  switch (key) {
    case 'q':
    case 'Q':
      view.quit = true;
      return;
    case 'h':
    case '?':
      view.help = !view.help;
      return;
    case 'k':
      return back(1);
    case 'j':
      ++view.first;
      return;
    case 'u':
      return back(page);
    case 'd':
    case ' ':
      view.first += page;
      return;
    case 'g':
      view.first = 0;
      return;
    case 'G':
      view.first = SIZE_MAX / 2;  // screen_lines() knows where the end is
      return;
    default:
      return;
  }
}

}  // namespace

void TopView::type(std::string_view keys, std::size_t page) {
  while (!keys.empty()) {
    const auto known = std::find_if(kSequences.begin(), kSequences.end(),
                                    [&](const auto& each) { return keys.starts_with(each.first); });
    if (known != kSequences.end()) {
      press(*this, known->second, page);
      keys.remove_prefix(known->first.size());
      continue;
    }
    if (keys.front() == '\033') {
      // Of a key that means nothing here: up to its last character, so that none of it is taken for a key.
      const bool sequence = keys.size() > 1 && (keys[1] == '[' || keys[1] == 'O');
      std::size_t end = sequence ? 2 : 1;
      while (sequence && end < keys.size() && !(keys[end] >= 0x40 && keys[end] <= 0x7e)) ++end;
      keys.remove_prefix(std::min(keys.size(), sequence ? end + 1 : end));
      continue;
    }
    press(*this, keys.front(), page);
    keys.remove_prefix(1);
  }
}

void sort(std::vector<TopRow>& rows, const TopView& view) {
  std::stable_sort(rows.begin(), rows.end(), [&](const TopRow& a, const TopRow& b) {
    if (view.order == TopOrder::kRole && a.role != b.role) return a.role < b.role;
    const double left = weight(a, view.order), right = weight(b, view.order);
    return left != right ? left > right : a.node < b.node;
  });
  if (view.reversed) std::reverse(rows.begin(), rows.end());
}

std::vector<std::string> screen_lines(std::string title, std::vector<TopRow> nodes, TopView& view,
                                      std::size_t rows) {
  constexpr std::size_t kOthers = 3;  // title, header, keys
  const std::size_t room = rows > kOthers ? rows - kOthers : 1;
  const std::size_t all = nodes.size();
  view.first = std::min(view.first, all > room ? all - room : 0);
  sort(nodes, view);
  // Widths are those of all, so that columns stay where they are while one scrolls.
  std::vector<std::string> table = top_lines(nodes);
  std::vector<std::string> lines{std::move(title), std::move(table.front())};
  const std::size_t end = std::min(all, view.first + room);
  for (std::size_t i = view.first; i < end; ++i) lines.push_back(std::move(table[i + 1]));
  std::string last = view.help ? std::string(kHelp) : "h: keys  q: quit";
  if (all > room)
    last = "nodes " + std::to_string(view.first + 1) + " to " + std::to_string(end) + " of " +
           std::to_string(all) + "   " + last;
  lines.push_back(std::move(last));
  return lines;
}

Keys::Keys(bool wanted) {
  termios now{};
  if (!wanted || isatty(0) != 1 || tcgetpgrp(0) != getpgrp() || tcgetattr(0, &now) != 0) return;
  before_ = now;
  now.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);  // ISIG stays: Ctrl-C is as ever
  now.c_cc[VMIN] = 1;
  now.c_cc[VTIME] = 0;
  tcsetattr(0, TCSANOW, &now);
}

Keys::~Keys() {
  if (before_) tcsetattr(0, TCSANOW, &*before_);
}

std::string Keys::typed() {
  std::string keys;
  pollfd waited{0, POLLIN, 0};
  while (before_ && poll(&waited, 1, 0) == 1) {
    std::array<char, 256> some;
    const ssize_t got = read(0, some.data(), some.size());
    if (got <= 0) {  // the terminal is gone
      if (got == 0 || (waited.revents & POLLHUP) != 0) before_.reset();
      break;
    }
    keys.append(some.data(), static_cast<std::size_t>(got));
  }
  return keys;
}

}  // namespace troupe::tools
