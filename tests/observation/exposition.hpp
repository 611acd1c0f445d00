#pragma once

#include <cstdlib>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>

namespace troupe::test {

/// Prometheus's text, read back.
class Exposition {
 public:
  using Labels = std::map<std::string, std::string>;

  explicit Exposition(const std::string& text) {
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
      if (line.rfind("# TYPE ", 0) == 0) {
        std::istringstream words(line.substr(7));
        std::string name, type;
        words >> name >> type;
        CHECK_MESSAGE(types_.emplace(name, type).second, name << " is declared twice");
      } else if (!line.empty() && line.front() != '#') {
        read_series(line);
      }
    }
  }

  bool empty() const { return series_.empty(); }
  /// Names of series, those of histograms with _bucket, _sum and _count.
  std::set<std::string> names() const {
    std::set<std::string> all;
    for (const auto& [name, series] : series_) all.insert(name);
    return all;
  }
  const std::map<std::string, std::string>& types() const { return types_; }

  /// The sum of the series of this name that have these labels, among others; -1: there are none.
  double sum(const std::string& name, const Labels& labels = {}) const {
    const auto found = series_.find(name);
    double sum = -1;
    if (found == series_.end()) return sum;
    for (const auto& [own, value] : found->second) {
      bool all = true;
      for (const auto& [key, wanted] : labels) {
        const auto label = own.find(key);
        all = all && label != own.end() && label->second == wanted;
      }
      if (all) sum = sum < 0 ? value : sum + value;
    }
    return sum;
  }

 private:
  void read_series(const std::string& line) {
    const auto space = line.rfind(' ');
    const auto brace = line.find('{');
    REQUIRE_MESSAGE(space != std::string::npos, line);
    const std::string name = line.substr(0, std::min(brace, space));
    Labels labels;
    for (auto at = brace; at != std::string::npos && at < space && line[at] != '}';) {
      const auto equals = line.find("=\"", at);
      const auto end = line.find('"', equals + 2);
      REQUIRE_MESSAGE(end != std::string::npos, line);
      labels[line.substr(at + 1, equals - at - 1)] = line.substr(equals + 2, end - equals - 2);
      at = end + 1;
    }
    char* rest = nullptr;
    const double value = std::strtod(line.c_str() + space + 1, &rest);
    CHECK_MESSAGE(*rest == '\0', line);
    series_[name].emplace_back(std::move(labels), value);
  }

  std::map<std::string, std::vector<std::pair<Labels, double>>> series_;
  std::map<std::string, std::string> types_;
};

}  // namespace troupe::test
