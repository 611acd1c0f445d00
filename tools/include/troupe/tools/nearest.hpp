#pragma once

#include <span>
#include <string>
#include <string_view>

namespace troupe::tools {

/// The known word with the fewest typing errors away from `word`; empty if none is near.
std::string nearest(std::string_view word, std::span<const std::string> known);

/// ` (did you mean "x"?)`, or nothing.
std::string suggestion(std::string_view word, std::span<const std::string> known);

}  // namespace troupe::tools
