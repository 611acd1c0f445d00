#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// Charts as SVG text for an HTML page. Colours are the page's: strokes and fills take the CSS variables
/// --series-0 ... --series-5, --ink, --muted and --grid; text takes the page's font. Every mark has a hover
/// title. Pure functions.
namespace troupe::training {

/// How many series a chart can tell apart by colour; more repeat with a dashed line.
inline constexpr std::size_t kSeriesColours = 6;

struct ChartSeries {
  std::string name;
  std::vector<std::pair<double, double>> points;  ///< x ascending
  bool markers = false;                           ///< show the points too, for few of them
};

/// A vertical line across a chart of time, for something that happened.
struct ChartEvent {
  double x = 0;
  std::string label;
};

struct LineChart {
  std::string x_label;  ///< with unit: "training time (s)"
  std::string y_label;
  bool log_y = false;  ///< needs values > 0; others are left out
  bool zero_y = true;  ///< linear axis from 0
  std::vector<ChartSeries> series;
  std::vector<ChartEvent> events;
};
std::string render(const LineChart& chart);

struct BarChart {
  std::string x_label;
  std::string y_label;
  std::vector<std::string> categories;
  std::vector<ChartSeries> series;  ///< points: (index of category, value >= 0)
  std::string value_unit;           ///< for hover titles: "% of pushes"
};
std::string render(const BarChart& chart);

/// One line per row from the first to the last mark on a logarithmic axis, with a dot at each mark.
struct RangeRow {
  std::string label;
  std::vector<double> marks;  ///< ascending, > 0; as many as RangeChart::mark_names
};
struct RangeChart {
  std::string x_label;
  std::vector<std::string> mark_names;
  std::vector<RangeRow> rows;
  std::string unit;
};
std::string render(const RangeChart& chart);

/// Text made safe inside HTML and SVG, attributes included.
std::string escape_html(std::string_view text);

/// For people, with three significant digits: 0.517, 12.3, "4,560", "88.2 k", "1.20 M".
std::string human_number(double value);

/// The same for a tick: no zeros behind the point, "50 k", "0.2".
std::string tick_label(double value);

/// The CSS class of a series, "series-2"; dashed ones have "dashed" too.
std::string series_class(std::size_t index);

/// The end of the axis that covers [low, high] and the places of about `count` ticks on it at round
/// numbers (1, 2 or 5 times a power of ten), ascending.
std::vector<double> linear_ticks(double low, double high, std::size_t count);

/// Ticks at powers of ten, and at 2 and 5 times them where there are few, that enclose [low, high], > 0.
std::vector<double> log_ticks(double low, double high);

}  // namespace troupe::training
