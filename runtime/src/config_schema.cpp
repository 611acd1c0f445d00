// What settings there are, and what may stand in them.

#include <algorithm>
#include <array>
#include <cassert>
#include <charconv>
#include <cmath>
#include <numeric>

#include <troupe/runtime/config.hpp>

namespace troupe {
namespace {

struct Unit {
  std::string_view name;
  std::int64_t ns;
};
constexpr std::array<Unit, 6> kUnits{{{"h", 3'600'000'000'000},
                                      {"m", 60'000'000'000},
                                      {"s", 1'000'000'000},
                                      {"ms", 1'000'000},
                                      {"us", 1'000},
                                      {"ns", 1}}};

/// Edits (insert, delete, replace) that make `b` of `a` (Levenshtein).
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

std::optional<double> number_of(const ConfigValue& value) {
  if (const auto* integer = std::get_if<std::int64_t>(&value)) return static_cast<double>(*integer);
  if (const auto* real = std::get_if<double>(&value)) return *real;
  if (const auto* time = std::get_if<Duration>(&value)) return static_cast<double>(time->count()) * 1e-9;
  return std::nullopt;
}

std::string short_number(double value) {
  std::array<char, 32> text{};
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value).ptr;
  return {text.data(), end};
}

}  // namespace

std::optional<std::string> ConfigKey::fault_of(const ConfigValue& value) const {
  const std::optional<double> number = number_of(value);
  if (bounds_ && number && !(*number >= bounds_->least && *number <= bounds_->most)) {
    const char* const unit = std::holds_alternative<Duration>(value) ? " seconds" : "";
    return "must be between " + short_number(bounds_->least) + " and " + short_number(bounds_->most) + unit;
  }
  const auto* text = std::get_if<std::string>(&value);
  if (choices_.empty() || !text || std::ranges::find(choices_, *text) != choices_.end()) return std::nullopt;
  std::string all;
  for (const std::string& choice : choices_) all += (all.empty() ? "" : ", ") + choice;
  return "must be one of: " + all;
}

ConfigKey& ConfigSchema::add(std::string name, ConfigValue default_value, std::string help) {
  const auto [place, is_new] =
      keys_.try_emplace(std::move(name), ConfigKey(std::move(default_value), std::move(help)));
  assert(is_new && "a setting is declared twice");
  (void)is_new;
  return place->second;
}

ConfigSchema& ConfigSchema::reserve_environment(std::string prefix) {
  reserved_.push_back(std::move(prefix));
  return *this;
}

const ConfigKey* ConfigSchema::find(std::string_view name) const {
  const auto found = keys_.find(name);
  return found == keys_.end() ? nullptr : &found->second;
}

std::optional<std::string> ConfigSchema::nearest(std::string_view name) const {
  std::optional<std::string> best;
  std::size_t best_distance = std::max<std::size_t>(2, name.size() / 3) + 1;
  for (const auto& [known, key] : keys_) {
    const auto dot = known.rfind('.');
    const bool same_last = dot != std::string::npos && known.substr(dot + 1) == name;  // forgot the section
    const std::size_t distance = same_last ? 1 : edit_distance(name, known);
    if (distance >= best_distance) continue;
    best = known;
    best_distance = distance;
  }
  return best;
}

Result<Duration> parse_duration(std::string_view text) {
  double count = 0.0;
  const auto [end, fault] = std::from_chars(text.data(), text.data() + text.size(), count);
  const std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  for (const Unit& known : kUnits) {
    if (fault != std::errc() || unit != known.name) continue;
    const double ns = count * static_cast<double>(known.ns);
    if (std::abs(ns) < 9.2e18) return Duration(static_cast<std::int64_t>(std::llround(ns)));
  }
  return Error{Code::kInvalidArgument,
               "'" + std::string(text) + "' is not a duration; give a number and h, m, s, ms, us or ns"};
}

std::string to_string(Duration duration) {
  if (duration.count() == 0) return "0s";
  for (const Unit& unit : kUnits) {
    if (duration.count() % unit.ns == 0)
      return std::to_string(duration.count() / unit.ns) + std::string(unit.name);
  }
  return {};
}

}  // namespace troupe
