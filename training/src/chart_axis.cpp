// The arithmetic of axes, and numbers for people.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include <troupe/training/charts.hpp>

namespace troupe::training {
namespace {

std::string printed(const char* format, int precision, double value) {
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), format, precision, value);
  return text.data();
}

}  // namespace

std::string human_number(double value) {
  const double size = std::abs(value);
  if (!std::isfinite(value)) return "unknown";
  if (size == 0) return "0";
  if (size >= 999.5e6) return printed("%.*f G", size < 9.995e9 ? 2 : 1, value / 1e9);
  if (size >= 999.5e3) return printed("%.*f M", size < 9.995e6 ? 2 : size < 99.95e6 ? 1 : 0, value / 1e6);
  if (size >= 9999.5) return printed("%.*f k", size < 99.95e3 ? 1 : 0, value / 1e3);
  if (size >= 999.5) {
    const long whole = std::lround(value);
    std::array<char, 32> text{};
    std::snprintf(text.data(), text.size(), "%ld,%03ld", whole / 1000, std::abs(whole % 1000));
    return text.data();
  }
  if (value == std::floor(value)) return printed("%.*f", 0, value);
  if (size < 0.001) return printed("%.*g", 2, value);
  return printed("%.*f", size < 1 ? 3 : size < 9.995 ? 2 : size < 99.95 ? 1 : 0, value);
}

std::string tick_label(double value) {
  std::string text = human_number(value);
  const std::size_t digits = std::min(text.find(' '), text.size());
  const std::size_t point = text.find('.');
  if (point > digits || text.find('e') != std::string::npos) return text;
  std::size_t kept = text.find_last_not_of('0', digits - 1) + 1;
  if (kept == point + 1) kept = point;
  return text.erase(kept, digits - kept);
}

std::vector<double> linear_ticks(double low, double high, std::size_t count) {
  if (!(high > low)) high = low + (low == 0 ? 1 : std::abs(low));
  const double rough = (high - low) / static_cast<double>(std::max<std::size_t>(count, 1));
  const double power = std::pow(10, std::floor(std::log10(rough)));
  double step = 10 * power;
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= rough * 0.999) {
      step = factor * power;
      break;
    }
  }
  // In whole steps, so that no rounding error grows and zero is zero.
  const double first = std::floor(low / step + 1e-9);
  const double last = std::ceil(high / step - 1e-9);
  std::vector<double> ticks;
  for (double i = first; i <= last; ++i) ticks.push_back(i * step);
  return ticks;
}

std::vector<double> log_ticks(double low, double high) {
  const double first = std::floor(std::log10(low) + 1e-9);
  const double last = std::ceil(std::log10(std::max(high, low * 1.01)) - 1e-9);
  const bool fine = last - first <= 2;
  std::vector<double> ticks;
  for (double exponent = first; exponent <= last; ++exponent) {
    for (const double factor : {1.0, 2.0, 5.0}) {
      if (factor > 1 && (!fine || exponent == last)) continue;
      ticks.push_back(factor * std::pow(10, exponent));
    }
  }
  // What lies wholly outside goes, one tick on either side stays.
  while (ticks.size() > 2 && ticks[1] <= low * 1.0001) ticks.erase(ticks.begin());
  while (ticks.size() > 2 && ticks[ticks.size() - 2] >= high * 0.9999) ticks.pop_back();
  return ticks;
}

}  // namespace troupe::training
