// What settings there are, and what may stand in them.

#include <algorithm>
#include <array>
#include <cassert>
#include <charconv>
#include <cmath>
#include <utility>

#include <troupe/runtime/config.hpp>
#include <troupe/runtime/text.hpp>

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

ConfigSchema& ConfigSchema::renamed(std::string old_name, std::string name) {
  assert(find(name) && !find(old_name) && "a setting is renamed to one that there is");
  renamed_.insert_or_assign(std::move(old_name), std::move(name));
  return *this;
}

std::string_view ConfigSchema::new_name(std::string_view old_name) const {
  const auto found = renamed_.find(old_name);
  return found == renamed_.end() ? std::string_view{} : found->second;
}

const ConfigKey* ConfigSchema::find(std::string_view name) const {
  const auto found = keys_.find(name);
  return found == keys_.end() ? nullptr : &found->second;
}

std::optional<std::string> ConfigSchema::nearest(std::string_view name) const {
  NearestName nearest(name);
  for (const auto& [known, key] : keys_) {
    const auto dot = known.rfind('.');
    if (dot != std::string::npos && known.substr(dot + 1) == name)
      nearest.offer(known, 1);  // forgot the section
    else
      nearest.offer(known);
  }
  if (nearest.best().empty()) return std::nullopt;
  return std::string(nearest.best());
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
