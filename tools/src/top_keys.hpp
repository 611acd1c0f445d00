#pragma once

#include <termios.h>

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "top_table.hpp"

namespace troupe::tools {

/// By what `troupe top` sorts its lines; ties by name.
enum class TopOrder { kName, kRole, kOut, kIn, kBytes, kOpen, kErrors, kBusy };

/// What a person has made of the view with keys. A plain value.
struct TopView {
  TopOrder order = TopOrder::kName;
  bool reversed = false;
  std::size_t first = 0;  ///< nodes scrolled past
  bool help = false;
  bool quit = false;

  /// What was typed, escape sequences of arrow and page keys among it. `page`: nodes that fit on the screen.
  void type(std::string_view keys, std::size_t page);
};

/// In the view's order: the busiest first, names from a to z.
void sort(std::vector<TopRow>& rows, const TopView& view);

/// The lines of a screen of `rows` lines: title, header, the nodes from view.first on, and a last one that
/// says which are shown and what the keys are. Sets view.first back to what there is.
std::vector<std::string> screen_lines(std::string title, std::vector<TopRow> nodes, TopView& view,
                                      std::size_t rows);

/// The terminal at standard input gives single keys, not whole lines, while it lives. Does nothing if it is
/// none.
class Keys {
 public:
  explicit Keys(bool wanted);
  ~Keys();
  Keys(const Keys&) = delete;
  Keys& operator=(const Keys&) = delete;

  /// To be watched for keys; -1: there are none.
  int descriptor() const { return before_ ? 0 : -1; }
  /// What was typed since; does not wait.
  std::string typed();

 private:
  std::optional<termios> before_;
};

}  // namespace troupe::tools
