#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace troupe {

/// Whether the bytes are UTF-8, as Unicode has it: no overlong forms, no surrogates.
bool is_utf8(std::string_view bytes);
/// The same text with each byte that does not belong to UTF-8 replaced by U+FFFD: for formats that allow
/// nothing else.
std::string to_utf8(std::string_view bytes);

/// Two lower-case digits for each byte.
std::string to_hex(std::span<const std::byte> bytes);
/// All 16 lower-case digits of a 64-bit number.
std::string to_hex(std::uint64_t number);

/// Edits (insert, delete, replace) that make `b` of `a` (Levenshtein).
std::size_t edit_distance(std::string_view a, std::string_view b);

/// Without the spaces and line ends around it.
std::string_view trimmed(std::string_view text);

/// Finds what somebody may have meant who wrote `name`: offer() the names that there are, then best().
class NearestName {
 public:
  explicit NearestName(std::string_view name)
      : name_(name), distance_(std::max<std::size_t>(2, name.size() / 3) + 1) {}
  /// `known` must outlive this.
  void offer(std::string_view known) { offer(known, edit_distance(name_, known)); }
  void offer(std::string_view known, std::size_t distance) {
    if (distance >= distance_) return;
    distance_ = distance;
    best_ = known;
  }
  /// Empty: none is near.
  std::string_view best() const { return best_; }

 private:
  std::string_view name_;
  std::size_t distance_;  // what is not nearer than this is not meant
  std::string_view best_;
};

}  // namespace troupe
