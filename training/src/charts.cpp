#include <troupe/training/charts.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <limits>
#include <utility>

namespace troupe::training {
namespace {

// User units of the view box; the page shows a chart about this many pixels wide.
constexpr double kWidth = 640;
constexpr double kHeight = 330;
constexpr double kLeft = 68;
constexpr double kRight = 18;
constexpr double kTop = 36;
constexpr double kBottom = 52;

std::string fixed(double value) {
  std::array<char, 48> text{};
  std::snprintf(text.data(), text.size(), "%.1f", value);
  return text.data();
}

// One direction of a chart: values to places between `begin` and `end`, which may run downwards.
struct Axis {
  std::vector<double> ticks;
  double low = 0;  // the values at both ends
  double high = 1;
  bool logarithmic = false;
  double begin = 0;
  double end = 0;

  // Reaches from the first tick to the last.
  Axis(std::vector<double> at, bool is_logarithmic, double first, double last)
      : ticks(std::move(at)),
        low(ticks.front()),
        high(ticks.back()),
        logarithmic(is_logarithmic),
        begin(first),
        end(last) {}

  // Ends at `value`, which the last tick would pass.
  void end_at(double value) {
    if (value <= low || value >= high) return;
    high = value;
    while (ticks.size() > 1 && ticks.back() > value) ticks.pop_back();
  }

  double position(double value) const {
    return begin + (end - begin) * (scale(value) - scale(low)) / (scale(high) - scale(low));
  }
  double scale(double value) const { return logarithmic ? std::log10(value) : value; }
};

struct Extent {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();

  void add(double value) {
    if (!std::isfinite(value)) return;
    low = std::min(low, value);
    high = std::max(high, value);
  }
  bool empty() const { return low > high; }
};

std::string element(std::string_view tag, std::string_view attributes, std::string_view content) {
  return '<' + std::string(tag) + ' ' + std::string(attributes) + '>' + std::string(content) + "</" +
         std::string(tag) + '>';
}

std::string text_at(double x, double y, std::string_view css, std::string_view content) {
  return element("text", "x=\"" + fixed(x) + "\" y=\"" + fixed(y) + "\" class=\"" + std::string(css) + '"',
                 escape_html(content));
}

std::string line(double x1, double y1, double x2, double y2, std::string_view css) {
  return "<line x1=\"" + fixed(x1) + "\" y1=\"" + fixed(y1) + "\" x2=\"" + fixed(x2) + "\" y2=\"" +
         fixed(y2) + "\" class=\"" + std::string(css) + "\"/>";
}

std::string circle(double x, double y, double radius, const std::string& css, std::string_view title) {
  return element(
      "circle",
      "cx=\"" + fixed(x) + "\" cy=\"" + fixed(y) + "\" r=\"" + fixed(radius) + "\" class=\"" + css + '"',
      "<title>" + escape_html(title) + "</title>");
}

std::string svg(double height, std::string_view label, std::string_view content) {
  return "<svg viewBox=\"0 0 " + fixed(kWidth) + ' ' + fixed(height) + "\" role=\"img\" aria-label=\"" +
         escape_html(label) + "\">" + std::string(content) + "</svg>\n";
}

std::string nothing_to_show(std::string_view label) {
  return svg(80, label, text_at(kWidth / 2, 44, "tick middle", "nothing was recorded"));
}

// Grid lines and tick labels of the vertical axis, and its name above it.
std::string vertical_axis(const Axis& axis, std::string_view label) {
  std::string out;
  for (const double tick : axis.ticks) {
    const double y = axis.position(tick);
    out += line(kLeft, y, kWidth - kRight, y, "grid");
    out += text_at(kLeft - 8, y + 4, "tick end", tick_label(tick));
  }
  return out + text_at(4, 14, "axis", label);
}

std::string horizontal_axis(const Axis& axis, double bottom, std::string_view label) {
  std::string out = line(kLeft, bottom, kWidth - kRight, bottom, "base");
  for (const double tick : axis.ticks) {
    const double x = axis.position(tick);
    out += line(x, bottom, x, bottom + 5, "base");
    out += text_at(x, bottom + 19, "tick middle", tick_label(tick));
  }
  return out + text_at((kLeft + kWidth - kRight) / 2, bottom + 41, "axis middle", label);
}

bool shown(const LineChart& chart, const std::pair<double, double>& point) {
  return std::isfinite(point.first) && std::isfinite(point.second) && (!chart.log_y || point.second > 0);
}

std::string draw_series(const LineChart& chart, std::size_t index, const Axis& x, const Axis& y) {
  const ChartSeries& series = chart.series[index];
  std::string path;
  std::string marks;
  for (const auto& point : series.points) {
    if (!shown(chart, point)) continue;
    const double px = x.position(point.first);
    const double py = y.position(point.second);
    path += (path.empty() ? "M" : " L") + fixed(px) + ' ' + fixed(py);
    const std::string title = series.name + "\n" + chart.x_label + ": " + human_number(point.first) + "\n" +
                              chart.y_label + ": " + human_number(point.second);
    if (series.markers) marks += circle(px, py, 3.5, "mark", title);
    marks += circle(px, py, 9, "hit", title);
  }
  return "<g class=\"" + series_class(index) + "\"><path class=\"line\" d=\"" + path + "\"/>" + marks +
         "</g>";
}

std::string draw_event(const ChartEvent& event, const Axis& x) {
  const double px = std::clamp(x.position(event.x), kLeft, kWidth - kRight);
  const std::string title = event.label + " at " + human_number(event.x) + " s";
  return "<g class=\"event\">" + line(px, kTop, px, kHeight - kBottom, "event-line") +
         circle(px, kTop, 5, "event-dot", title) + "</g>";
}

}  // namespace

std::string escape_html(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char letter : text) {
    switch (letter) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += letter;
    }
  }
  return out;
}

std::string series_class(std::size_t index) {
  return "series-" + std::to_string(index % kSeriesColours) + (index >= kSeriesColours ? " dashed" : "");
}

std::string render(const LineChart& chart) {
  Extent across;
  Extent up;
  for (const ChartSeries& series : chart.series) {
    for (const auto& point : series.points) {
      if (!shown(chart, point)) continue;
      across.add(point.first);
      up.add(point.second);
    }
  }
  if (across.empty()) return nothing_to_show(chart.y_label);
  if (chart.zero_y && !chart.log_y) up.add(0);
  const double bottom = kHeight - kBottom;
  Axis x{linear_ticks(std::min(0.0, across.low), across.high, 8), false, kLeft, kWidth - kRight};
  x.end_at(across.high);
  const Axis y{chart.log_y ? log_ticks(up.low, up.high) : linear_ticks(up.low, up.high, 5), chart.log_y,
               bottom, kTop};
  std::string out = vertical_axis(y, chart.y_label) + horizontal_axis(x, bottom, chart.x_label);
  for (std::size_t i = 0; i < chart.series.size(); ++i) out += draw_series(chart, i, x, y);
  for (const ChartEvent& event : chart.events) out += draw_event(event, x);
  return svg(kHeight, chart.y_label + " against " + chart.x_label, out);
}

std::string render(const BarChart& chart) {
  Extent up;
  up.add(0);
  for (const ChartSeries& series : chart.series) {
    for (const auto& point : series.points) up.add(point.second);
  }
  if (chart.categories.empty() || up.high <= 0) return nothing_to_show(chart.y_label);
  const double bottom = kHeight - kBottom;
  const Axis y{linear_ticks(0, up.high, 5), false, bottom, kTop};
  const double group = (kWidth - kRight - kLeft) / static_cast<double>(chart.categories.size());
  const double bar = std::min(48.0, group * 0.8 / static_cast<double>(chart.series.size()));
  const double margin = (group - bar * static_cast<double>(chart.series.size())) / 2;
  std::string out = vertical_axis(y, chart.y_label) + line(kLeft, bottom, kWidth - kRight, bottom, "base");
  for (std::size_t s = 0; s < chart.series.size(); ++s) {
    out += "<g class=\"" + series_class(s) + "\">";
    for (const auto& [category, value] : chart.series[s].points) {
      const double left = kLeft + category * group + margin + static_cast<double>(s) * bar;
      const double top = y.position(value);
      out += element("rect",
                     "x=\"" + fixed(left + 0.5) + "\" y=\"" + fixed(top) + "\" width=\"" + fixed(bar - 1) +
                         "\" height=\"" + fixed(bottom - top) + "\" rx=\"2\" class=\"bar\"",
                     "<title>" +
                         escape_html(chart.series[s].name + "\n" + chart.x_label + ": " +
                                     chart.categories[static_cast<std::size_t>(category)] + "\n" +
                                     human_number(value) + ' ' + chart.value_unit) +
                         "</title>");
    }
    out += "</g>";
  }
  const std::size_t every = 1 + (chart.categories.size() - 1) / 16;  // labels that do not touch
  for (std::size_t i = 0; i < chart.categories.size(); i += every) {
    out += text_at(kLeft + (static_cast<double>(i) + 0.5) * group, bottom + 19, "tick middle",
                   chart.categories[i]);
  }
  out += text_at((kLeft + kWidth - kRight) / 2, bottom + 41, "axis middle", chart.x_label);
  return svg(kHeight, chart.y_label + " by " + chart.x_label, out);
}

std::string render(const RangeChart& chart) {
  Extent across;
  for (const RangeRow& row : chart.rows) {
    for (const double mark : row.marks) {
      if (mark > 0) across.add(mark);
    }
  }
  if (across.empty()) return nothing_to_show(chart.x_label);
  constexpr double kRowHeight = 34;
  constexpr double kLabels = 190;
  const double bottom = kTop + kRowHeight * static_cast<double>(chart.rows.size());
  const Axis x{log_ticks(across.low, across.high), true, kLabels, kWidth - kRight - 10};
  std::string out = line(kLabels, bottom, kWidth - kRight, bottom, "base");
  for (const double tick : x.ticks) {
    out += line(x.position(tick), kTop - 8, x.position(tick), bottom, "grid");
    out += text_at(x.position(tick), bottom + 19, "tick middle", tick_label(tick));
  }
  out += text_at((kLabels + kWidth - kRight) / 2, bottom + 41, "axis middle", chart.x_label);
  for (std::size_t r = 0; r < chart.rows.size(); ++r) {
    const RangeRow& row = chart.rows[r];
    const double y = kTop + kRowHeight * (static_cast<double>(r) + 0.5);
    out += text_at(kLabels - 12, y + 4, "label end", row.label);
    if (row.marks.empty() || row.marks.front() <= 0) continue;
    out += line(x.position(row.marks.front()), y, x.position(row.marks.back()), y, "range");
    for (std::size_t m = 0; m < row.marks.size(); ++m) {
      out += "<g class=\"" + series_class(m) + "\">" +
             circle(x.position(row.marks[m]), y, 6, "dot",
                    row.label + "\n" + chart.mark_names[m] + ": " + human_number(row.marks[m]) + ' ' +
                        chart.unit) +
             "</g>";
    }
  }
  return svg(bottom + kBottom, chart.x_label, out);
}

}  // namespace troupe::training
