#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <string_view>

#include "wordnet/report.hpp"
#include "wordnet/report_style.hpp"
#include "wordnet/svg_chart.hpp"

namespace troupe::wordnet {
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
      out += (columns[i].number ? "<td class=\"n\">" : "<td>") + escape_html(row[i]) + "</td>";
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

std::string tiles(const RunReport& report) {
  std::string out = "<div class=\"tiles\">\n";
  std::string beside =
      "filtered, over " + human_number(static_cast<double>(report.test_triples)) + " triples";
  if (report.reference) {
    beside = percent(report.test.mrr / report.reference->test_mrr) + " of the reference's " +
             decimals(report.reference->test_mrr, 3);
  }
  out += tile("Test MRR", decimals(report.test.mrr, 3), beside);
  out +=
      tile("Hits@10", decimals(report.test.hits_at_10, 3),
           "Hits@1 " + decimals(report.test.hits_at_1, 3) + ", Hits@3 " + decimals(report.test.hits_at_3, 3));
  const std::size_t epochs = report.epochs.size();
  out += tile("Training", duration(report.train_seconds),
              std::to_string(epochs) + (epochs == 1 ? " epoch" : " epochs") + ", evaluation " +
                  duration(report.evaluation_seconds));
  std::string rate = "both directions of a triple counted";
  if (report.reference && report.reference->triples_per_second > 0) {
    rate = percent(report.triples_per_second() / report.reference->triples_per_second) +
           " of the reference's " + human_number(report.reference->triples_per_second);
  }
  out += tile("Triples per second", human_number(report.triples_per_second()), rate);
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
  const LineChart chart{"training time (s)", "cross-entropy (nats per example)", true, false, {series},
                        events(report)};
  return card("Loss", "Mean softmax cross-entropy of the right answer among a batch's candidates.",
              render(chart));
}

std::string mrr_card(const RunReport& report) {
  std::vector<ChartSeries> series{{"validation", {}, true}};
  for (const EpochReport& epoch : report.epochs) {
    if (epoch.valid_mrr) series[0].points.emplace_back(epoch.end_seconds, *epoch.valid_mrr);
  }
  series.push_back({"test, at the end", {{report.train_seconds, report.test.mrr}}, true});
  if (report.reference) {
    series.push_back({"reference's test",
                      {{0, report.reference->test_mrr}, {report.train_seconds, report.reference->test_mrr}},
                      false});
  }
  const LineChart chart{"training time (s)", "mean reciprocal rank", false, false, series, events(report)};
  const std::string about = report.reference ? " Reference: " + report.reference->description + "." : "";
  return card("Quality", "Filtered MRR over all entities, heads and tails asked." + about,
              legend(series) + render(chart));
}

std::string worker_table(const RunReport& report) {
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
  }
  return table({{"worker"},
                {"speed"},
                {"batches", true},
                {"triples", true},
                {"share", true},
                {"triples/s", true},
                {"end"}},
               rows);
}

std::string throughput_card(const RunReport& report) {
  std::vector<ChartSeries> series;
  for (const WorkerReport& worker : report.workers) {
    ChartSeries one{worker.name, {}, false};
    if (worker.speed < 1) one.name += " (held at " + percent(worker.speed) + ")";
    if (!worker.alive) one.name += " (died)";
    for (const TimedValue& point : worker.throughput) one.points.emplace_back(point.seconds, point.value);
    series.push_back(std::move(one));
  }
  const LineChart chart{"training time (s)", "triples per second", false, true, series, events(report)};
  return card("Workers", "Batches are handed out on demand: a slow worker does fewer.",
              legend(series) + render(chart) + worker_table(report));
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
  return legend(chart.series) + render(chart);
}

std::string staleness_card(const RunReport& report) {
  if (report.consistency.empty()) return "";
  std::vector<std::vector<std::string>> rows;
  for (const ConsistencyReport& mode : report.consistency) {
    const StalenessSummary summary = summarize(mode.staleness_counts);
    rows.push_back({mode.mode, human_number(summary.mean), std::to_string(summary.p50),
                    std::to_string(summary.p99), std::to_string(summary.max),
                    human_number(mode.triples_per_second),
                    mode.working_seconds > 0 ? percent(mode.waiting_seconds / mode.working_seconds) : "",
                    mode.test_mrr ? decimals(*mode.test_mrr, 3) : ""});
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
                                       {"triples/s", true},
                                       {"waiting", true},
                                       {"MRR", true}},
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
              legend(chart.mark_names) + render(chart) +
                  table({{"method"},
                         {"calls", true},
                         {"median", true},
                         {"p90", true},
                         {"p99", true},
                         {"p99.9", true},
                         {"max", true}},
                        rows));
}

std::string neighbour_card(const RunReport& report) {
  if (report.neighbours.empty()) return "";
  std::string out = "<div class=\"words\">\n";
  for (const NeighbourReport& word : report.neighbours) {
    out += "<div><h3>" + escape_html(word.word) + "</h3><ol>";
    for (const auto& [name, similarity] : word.neighbours) {
      const double width = std::clamp(similarity, 0.0, 1.0) * 100;
      out += "<li><i style=\"width:" + decimals(width, 1) + "%\"></i><b>" + escape_html(name) + "</b><span>" +
             decimals(similarity, 2) + "</span></li>";
    }
    out += "</ol></div>\n";
  }
  return card("Nearest neighbours", "By the cosine of their rows.", out + "</div>\n", "wide");
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
      escape_html(report.title) + "</title>\n<style>" + std::string(kReportStyle) +
      "</style></head>\n<body><main>\n<header><h1>" + escape_html(report.title) + "</h1>\n<p>" +
      escape_html(report.data);
  if (!report.started_at.empty()) page += " · started " + escape_html(report.started_at);
  page += "</p></header>\n" + tiles(report) + failures(report) + "<div class=\"cards\">\n";
  page += loss_card(report) + mrr_card(report) + throughput_card(report) + staleness_card(report);
  page += times_card(report);
  if (!report.latencies.empty()) page += latency_card(report);
  page += settings_card(report) + neighbour_card(report);
  return page + "</div>\n</main></body></html>\n";
}

}  // namespace troupe::wordnet
