// What only this program's report has: neighbours, and the reference beside it.
#include <algorithm>
#include <array>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include <troupe/training/charts.hpp>

#include "wordnet/wordnet_task.hpp"

namespace troupe::wordnet {

namespace {
std::string decimals(double value, int digits) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.*f", digits, value);
  return text.data();
}
}  // namespace

training::ReportSection neighbour_section(const std::vector<NeighboursOfWord>& words) {
  training::ReportSection section{"Nearest neighbours", "By the cosine of their rows.", "", "", true};
  section.html = "<div class=\"words\">\n";
  for (const auto& [word, neighbours] : words) {
    section.text += word + ":" + std::string(word.size() < 15 ? 15 - word.size() : 0, ' ');
    section.html += "<div><h3>" + training::escape_html(word) + "</h3><ol>";
    for (const auto& [name, similarity] : neighbours) {
      section.text += " " + name;
      section.html += "<li><i style=\"width:" + decimals(std::clamp(similarity, 0.0, 1.0) * 100, 1) +
                      "%\"></i><b>" + training::escape_html(name) + "</b><span>" + decimals(similarity, 2) +
                      "</span></li>";
    }
    section.text += "\n";
    section.html += "</ol></div>\n";
  }
  section.html += "</div>\n";
  return section;
}

Result<training::ReferenceReport> read_reference(const std::string& file) {
  std::ifstream in(file);
  if (!in)
    return Error{Code::kNotFound, file + ": cannot be read; it is to hold what wordnet_reference printed"};
  std::string line, last;
  while (std::getline(in, line))
    if (!line.empty()) last = line;
  try {
    const auto json = nlohmann::json::parse(last);
    return training::ReferenceReport{json.at("test_mrr"), json.at("triples_per_second"),
                                     "one process, " + std::to_string(json.at("threads").get<int>()) +
                                         " threads, " + std::to_string(json.at("epochs").get<int>()) +
                                         " epochs"};
  } catch (const nlohmann::json::exception& exception) {
    return Error{Code::kInvalidArgument,
                 file + ": its last line is not what wordnet_reference prints: " + exception.what()};
  }
}

}  // namespace troupe::wordnet
