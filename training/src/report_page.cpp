#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <string_view>

#include <troupe/training/charts.hpp>
#include <troupe/training/report.hpp>
#include "report_style.hpp"

namespace troupe::training {
namespace {

std::string percent(double share) {
  return human_number(100 * share) + " %";
}

std::string decimals(double value, int digits) {
  std::string text(32, '\0');
  text.resize(static_cast<std::size_t>(std::snprintf(text.data(), text.size(), "%.*f", digits, value)));
  return text;
}

std::string duration(double seconds) {
  if (seconds < 120) return human_number(seconds) + " s";
  const long whole = std::lround(seconds);
  return std::to_string(whole / 60) + " min " + std::to_string(whole % 60) + " s";
}

std::string tile(std::string_view name, std::string_view value, std::string_view about,
                 std::string_view value_class = "") {
  return "<div class=\"tile\"><div class=\"name\">" + escape_html(name) + "</div><div class=\"value " +
         std::string(value_class) + "\">" + escape_html(value) + "</div><div class=\"about\">" +
         escape_html(about) + "</div></div>\n";
}

std::string card(std::string_view title, std::string_view note, std::string_view content,
                 std::string_view more_classes = "") {
  return "<section class=\"card " + std::string(more_classes) + "\"><h2>" + escape_html(title) +
         "</h2>\n<p class=\"note\">" + escape_html(note) + "</p>\n" + std::string(content) + "</section>\n";
}

std::string legend(const std::vector<std::string>& names) {
  std::string out = "<ul class=\"legend\">";
  for (std::size_t i = 0; i < names.size(); ++i) {
    out += "<li class=\"" + series_class(i) + "\"><i></i>" + escape_html(names[i]) + "</li>";
  }
  return out + "</ul>\n";
}

std::string legend(const std::vector<ChartSeries>& series) {
  std::vector<std::string> names;
  names.reserve(series.size());
  for (const ChartSeries& one : series) names.push_back(one.name);
  return legend(names);
}

/// A chart, which is scrolled by itself where it does not fit.
template <class Chart>
std::string drawn(const Chart& chart) {
  return "<div class=\"chart\">" + render(chart) + "</div>\n";
}

struct Column {
  std::string name;
  bool number = false;
};

std::string table(const std::vector<Column>& columns, const std::vector<std::vector<std::string>>& rows) {
  std::string out = "<table><thead><tr>";
  for (const Column& column : columns) {
    out += (column.number ? "<th class=\"n\">" : "<th>") + escape_html(column.name) + "</th>";
  }
  out += "</tr></thead><tbody>\n";
  for (const std::vector<std::string>& row : rows) {
    out += "<tr>";
    for (std::size_t i = 0; i < row.size(); ++i) {
      out += "<td" + std::string(columns[i].number ? " class=\"n\"" : "") + " data-label=\"" +
             escape_html(columns[i].name) + "\">" + escape_html(row[i]) + "</td>";
    }
    out += "</tr>\n";
  }
  return out + "</tbody></table>\n";
}

std::vector<ChartEvent> events(const RunReport& report) {
  std::vector<ChartEvent> out;
  for (const FailureReport& failure : report.failures) {
    out.push_back({failure.seconds, failure.who + ": " + failure.what});
  }
  return out;
}

std::string capitalized(std::string text) {
  if (!text.empty() && text[0] >= 'a' && text[0] <= 'z') text[0] = static_cast<char>(text[0] - 'a' + 'A');
  return text;
}

/// The score, and the last of the other metrics with the rest below it.
std::string score_tiles(const RunReport& report) {
  const Metric& score = report.test.front();
  std::string beside =
      "over " + human_number(static_cast<double>(report.test_examples)) + " " + report.words.examples;
  if (!report.words.test_note.empty()) beside = report.words.test_note + ", " + beside;
  if (report.reference) {
    beside = percent(score.value / report.reference->score) + " of the reference's " +
             decimals(report.reference->score, 3);
  }
  std::string out = tile("Test " + score.title, decimals(score.value, 3), beside);
  if (report.test.size() < 2) return out;
  std::string others;
  for (std::size_t i = 1; i + 1 < report.test.size(); ++i)
    others += (i > 1 ? ", " : "") + report.test[i].title + " " + decimals(report.test[i].value, 3);
  return out + tile(report.test.back().title, decimals(report.test.back().value, 3), others);
}

std::string tiles(const RunReport& report) {
  std::string out = "<div class=\"tiles\">\n";
  if (!report.test.empty()) out += score_tiles(report);
  const std::size_t epochs = report.epochs.size();
  // A run without workers is none of epochs, either: these are its evaluations.
  const std::string rounds =
      report.workers.empty() ? "" : std::to_string(epochs) + (epochs == 1 ? " epoch, " : " epochs, ");
  out += tile("Training", duration(report.train_seconds),
              rounds + "evaluation " + duration(report.evaluation_seconds));
  std::string rate = report.words.rate_note;
  if (report.reference && report.reference->examples_per_second > 0) {
    rate = percent(report.examples_per_second() / report.reference->examples_per_second) +
           " of the reference's " + human_number(report.reference->examples_per_second);
  }
  out += tile(capitalized(report.words.examples) + " per second", human_number(report.examples_per_second()),
              rate);
  if (report.workers.empty()) return out + "</div>\n";
  const auto alive = std::count_if(report.workers.begin(), report.workers.end(),
                                   [](const WorkerReport& worker) { return worker.alive; });
  const bool all_alive = static_cast<std::size_t>(alive) == report.workers.size();
  out += tile("Workers at the end", std::to_string(alive) + " of " + std::to_string(report.workers.size()),
              std::to_string(report.servers) + (report.servers == 1 ? " shard server" : " shard servers"),
              all_alive ? "" : "bad");
  return out + "</div>\n";
}

std::string failures(const RunReport& report) {
  if (report.failures.empty()) return "";
  std::string list = "<ul>";
  for (const FailureReport& failure : report.failures) {
    list += "<li>after " + escape_html(duration(failure.seconds)) + ": <b>" + escape_html(failure.who) +
            "</b>, " + escape_html(failure.what) + "</li>";
  }
  return card("Failures", "What went wrong while it ran; dashed lines in the charts over time.",
              list + "</ul>", "failures");
}

std::string loss_card(const RunReport& report) {
  ChartSeries series{"training loss", {}, false};
  for (const TimedValue& point : report.loss) series.points.emplace_back(point.seconds, point.value);
  if (series.points.empty()) {
    series.markers = true;
    for (const EpochReport& epoch : report.epochs) series.points.emplace_back(epoch.end_seconds, epoch.loss);
  }
  const LineChart chart{"training time (s)", report.words.loss_axis, true, false, {series}, events(report)};
  return card("Loss", report.words.loss_note, drawn(chart));
}

std::string score_card(const RunReport& report) {
  std::vector<ChartSeries> series{{"validation", {}, true}};
  for (const EpochReport& epoch : report.epochs) {
    if (epoch.valid) series[0].points.emplace_back(epoch.end_seconds, epoch.valid->value);
  }
  if (series[0].points.empty() && report.test.empty()) return "";
  if (!report.test.empty())
    series.push_back({"test, at the end", {{report.train_seconds, report.test.front().value}}, true});
  if (report.reference) {
    series.push_back({"reference's test",
                      {{0, report.reference->score}, {report.train_seconds, report.reference->score}},
                      false});
  }
  const LineChart chart{"training time (s)", report.words.score_axis, false, false, series, events(report)};
  const std::string about = report.reference ? " Reference: " + report.reference->description + "." : "";
  return card("Quality", report.words.score_note + about, legend(series) + drawn(chart));
}

std::string worker_table(const RunReport& report) {
  const bool drops = std::any_of(report.workers.begin(), report.workers.end(),
                                 [](const WorkerReport& worker) { return worker.dropped > 0; });
  std::vector<std::vector<std::string>> rows;
  for (const WorkerReport& worker : report.workers) {
    const double share = report.examples == 0
                             ? 0
                             : static_cast<double>(worker.examples) / static_cast<double>(report.examples);
    rows.push_back({worker.name, worker.speed < 1 ? "held at " + percent(worker.speed) : "full",
                    human_number(static_cast<double>(worker.batches)),
                    human_number(static_cast<double>(worker.examples)), percent(share),
                    report.train_seconds > 0
                        ? human_number(static_cast<double>(worker.examples) / report.train_seconds)
                        : "",
                    worker.alive ? "finished" : "died"});
    if (drops) rows.back().push_back(human_number(static_cast<double>(worker.dropped)));
  }
  std::vector<Column> columns{{"worker"},
                              {"speed"},
                              {"batches", true},
                              {report.words.examples, true},
                              {"share", true},
                              {report.words.examples + "/s", true},
                              {"end"}};
  if (drops) columns.push_back({"dropped", true});  // gradients that came too late for their round
  return table(columns, rows);
}

std::string throughput_card(const RunReport& report) {
  if (report.workers.empty()) return "";
  std::vector<ChartSeries> series;
  for (const WorkerReport& worker : report.workers) {
    ChartSeries one{worker.name, {}, false};
    if (worker.speed < 1) one.name += " (held at " + percent(worker.speed) + ")";
    if (!worker.alive) one.name += " (died)";
    for (const TimedValue& point : worker.throughput) one.points.emplace_back(point.seconds, point.value);
    series.push_back(std::move(one));
  }
  const LineChart chart{"training time (s)", report.words.examples + " per second", false, true, series,
                        events(report)};
  std::uint64_t dropped = 0;
  for (const WorkerReport& worker : report.workers) dropped += worker.dropped;
  const std::string late = dropped == 0 ? ""
                                        : " Gradients of " + human_number(static_cast<double>(dropped)) +
                                              " batches came too late for their round, and were dropped.";
  return card("Workers", "Batches are handed out on demand: a slow worker does fewer." + late,
              legend(series) + drawn(chart) + worker_table(report));
}

constexpr std::pair<const char*, double TimeShares::*> kShares[] = {{"compute", &TimeShares::compute},
                                                                    {"shard", &TimeShares::shard},
                                                                    {"network", &TimeShares::network},
                                                                    {"bound", &TimeShares::bound},
                                                                    {"idle", &TimeShares::idle}};

std::string times_card(const RunReport& report) {
  const auto measured = [](const WorkerReport& worker) { return worker.times.sum() > 0; };
  if (std::none_of(report.workers.begin(), report.workers.end(), measured)) return "";
  std::vector<std::string> names;
  std::vector<Column> columns{{"worker"}};
  for (const auto& [name, share] : kShares) {
    names.emplace_back(name);
    columns.push_back({name, true});
  }
  std::string bars;
  std::vector<std::vector<std::string>> rows;
  for (const WorkerReport& worker : report.workers) {
    if (!measured(worker)) continue;
    bars += "<div class=\"stack\"><b>" + escape_html(worker.name) + "</b><div>";
    std::vector<std::string> row{worker.name};
    for (std::size_t i = 0; i < std::size(kShares); ++i) {
      const double share = worker.times.*kShares[i].second / worker.times.sum();
      bars += "<i class=\"" + series_class(i) + "\" style=\"width:" + decimals(100 * share, 2) +
              "%\" title=\"" + kShares[i].first + ": " + percent(share) + "\"></i>";
      row.push_back(percent(share));
    }
    bars += "</div></div>\n";
    rows.push_back(std::move(row));
  }
  return card(
      "Where the time went",
      "From the nodes' metrics. Of each worker alone: compute; waiting for pulls and pushes, divided as what "
      "these took into shard, network and the staleness bound; idle, with none open. The shard's part is the "
      "servers' time for all workers, divided among these as the work on their rows is.",
      legend(names) + bars + table(columns, rows));
}

// Staleness by value; ranges of values where there are too many for one bar each.
std::string staleness_chart(const RunReport& report) {
  std::size_t values = 0;
  for (const ConsistencyReport& mode : report.consistency) {
    values = std::max<std::size_t>(values, summarize(mode.staleness_counts).max + 1);
  }
  constexpr std::size_t kMostBars = 32;
  const std::size_t per_bar = 1 + (values - 1) / kMostBars;
  BarChart chart{"updates of others between pull and push", "share of pushes (%)", {}, {}, "% of pushes"};
  for (std::size_t first = 0; first < values; first += per_bar) {
    chart.categories.push_back(per_bar == 1
                                   ? std::to_string(first)
                                   : std::to_string(first) + "-" + std::to_string(first + per_bar - 1));
  }
  for (const ConsistencyReport& mode : report.consistency) {
    const double pushes = static_cast<double>(summarize(mode.staleness_counts).pushes);
    ChartSeries series{mode.mode, {}, false};
    for (std::size_t bar = 0; bar < chart.categories.size(); ++bar) {
      double sum = 0;
      for (std::size_t value = bar * per_bar; value < (bar + 1) * per_bar; ++value) {
        if (value < mode.staleness_counts.size()) sum += static_cast<double>(mode.staleness_counts[value]);
      }
      series.points.emplace_back(bar, pushes > 0 ? 100 * sum / pushes : 0);
    }
    chart.series.push_back(std::move(series));
  }
  return legend(chart.series) + drawn(chart);
}

std::string staleness_card(const RunReport& report) {
  if (report.consistency.empty()) return "";
  std::vector<std::vector<std::string>> rows;
  for (const ConsistencyReport& mode : report.consistency) {
    const StalenessSummary summary = summarize(mode.staleness_counts);
    rows.push_back({mode.mode, human_number(summary.mean), std::to_string(summary.p50),
                    std::to_string(summary.p99), std::to_string(summary.max),
                    human_number(mode.examples_per_second),
                    mode.working_seconds > 0 ? percent(mode.waiting_seconds / mode.working_seconds) : "",
                    mode.score ? decimals(*mode.score, 3) : ""});
  }
  return card(
      "Staleness",
      "How old the rows were on which a gradient was computed, and what it costs to bound how many batches a "
      "worker may be ahead of the slowest (waiting: share of all workers' time).",
      staleness_chart(report) + table({{"mode"},
                                       {"mean", true},
                                       {"median", true},
                                       {"p99", true},
                                       {"max", true},
                                       {report.words.examples + "/s", true},
                                       {"waiting", true},
                                       {report.test.empty() ? "score" : report.test.front().title, true}},
                                      rows));
}

std::string latency_card(const RunReport& report) {
  RangeChart chart{"latency (µs, logarithmic)", {"median", "p90", "p99", "p99.9"}, {}, "µs"};
  std::vector<std::vector<std::string>> rows;
  for (const MethodLatency& method : report.latencies) {
    chart.rows.push_back({method.method, {method.p50_us, method.p90_us, method.p99_us, method.p999_us}});
    rows.push_back({method.method, human_number(static_cast<double>(method.calls)),
                    human_number(method.p50_us), human_number(method.p90_us), human_number(method.p99_us),
                    human_number(method.p999_us), human_number(method.max_us)});
  }
  return card("Latency of remote calls", "As the workers saw them, from call to answer, in microseconds.",
              legend(chart.mark_names) + drawn(chart) +
                  table({{"method"},
                         {"calls", true},
                         {"median", true},
                         {"p90", true},
                         {"p99", true},
                         {"p99.9", true},
                         {"max", true}},
                        rows));
}

std::string settings_card(const RunReport& report) {
  std::vector<std::vector<std::string>> rows;
  for (const auto& [flag, value] : report.settings) rows.push_back({flag, value});
  if (!report.checkpoint.empty()) rows.push_back({"checkpoint", report.checkpoint});
  return card("Settings", "What the run was asked to do.", table({{"setting"}, {"value"}}, rows));
}

}  // namespace

std::string report_page(const RunReport& report) {
  std::string page =
      "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>" +
      escape_html(report.words.title) + "</title>\n<style>" + std::string(kReportStyle) +
      "</style></head>\n<body><main>\n<header><h1>" + escape_html(report.words.title) + "</h1>\n<p>" +
      escape_html(report.data);
  if (!report.started_at.empty()) page += " · started " + escape_html(report.started_at);
  page += "</p></header>\n" + tiles(report) + failures(report) + "<div class=\"cards\">\n";
  page += loss_card(report) + score_card(report) + throughput_card(report) + staleness_card(report);
  page += times_card(report);
  if (!report.latencies.empty()) page += latency_card(report);
  page += settings_card(report);
  for (const ReportSection& section : report.sections)
    page += card(section.title, section.note, section.html, section.wide ? "wide" : "");
  return page + "</div>\n</main></body></html>\n";
}

}  // namespace troupe::training
