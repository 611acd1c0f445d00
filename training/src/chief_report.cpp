// What remains of a run: the report's parts, and the summary on the screen.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>

#include "chief.hpp"

namespace troupe::training {

Result<void> Chief::add_staleness() {
  if (report_.consistency.empty()) {
    ConsistencyReport own;
    own.mode = describe(own_consistency(settings_));
    if (!report_.test.empty()) own.score = report_.test.front().value;
    report_.consistency.push_back(std::move(own));
  }
  // Of the run's own mode the training itself says more than the few seconds that were timed.
  auto stats = table_stats((*tables_)[0].spec().name);
  if (!stats) return stats.error();
  std::vector<std::uint64_t>& counts = report_.consistency.front().staleness_counts;
  counts.clear();
  for (const TableStats& server : *stats) {
    counts.resize(std::max(counts.size(), server.staleness_counts.size()));
    for (std::size_t i = 0; i < server.staleness_counts.size(); ++i) counts[i] += server.staleness_counts[i];
  }
  return {};
}

void Chief::add_workers_and_latencies() {
  Loop::Turn turn(node_->loop());
  for (const auto& [name, worker] : coordinator_->workers())
    report_.workers.push_back({name, worker.speed, worker.batches, worker.examples, worker.alive,
                               throughput_[name], step_times_.of(name), worker.dropped});
  for (const auto& entry : coordinator_->latencies()) {
    const Histogram& histogram = entry.second;
    const auto us = [&](double percent) { return static_cast<double>(histogram.percentile(percent)) / 1000; };
    report_.latencies.push_back({entry.first, histogram.count(), us(50), us(90), us(99), us(99.9),
                                 static_cast<double>(histogram.max()) / 1000});
  }
  report_.failures = failures_;
}

void Chief::add_settings() {
  CLI::App app;
  program_.make_task()->add_flags(app);
  const auto is_of_task = [&](const std::string& flag) { return app.get_option_no_throw(flag) != nullptr; };
  for (const auto& [flag, words] : flags_) {
    if (flag != "--epochs" && !is_of_task(flag)) continue;
    std::string text;
    for (const std::string& word : words) text += (text.empty() ? "" : " ") + word;
    report_.settings.emplace_back(flag, text);
  }
  report_.settings.emplace_back("consistency", report_.consistency.front().mode);
}

void Chief::print_summary() const {
  if (!report_.test.empty()) {
    std::printf("\n%-22s", report_.words.test.c_str());
    for (const Metric& metric : report_.test) std::printf(" %8s", metric.title.c_str());
    std::printf("\n%-22s", "this run");
    for (const Metric& metric : report_.test) std::printf(" %8.4f", metric.value);
    std::printf("\n");
    if (report_.reference) std::printf("%-22s %8.4f\n", "reference", report_.reference->score);
  }
  std::printf("\n%s of training at %s %s/s in all\n", minutes(report_.train_seconds).c_str(),
              rate_text(report_.examples_per_second()).c_str(), report_.words.examples.c_str());
  for (const WorkerReport& worker : report_.workers) {
    char speed[32] = "";
    if (worker.speed < 1) std::snprintf(speed, sizeof(speed), ", at %.0f %% speed", 100 * worker.speed);
    std::string dropped;
    if (worker.dropped > 0) dropped = ", " + std::to_string(worker.dropped) + " dropped";
    std::printf("  %-12s %6llu batches%s%s%s\n", worker.name.c_str(),
                static_cast<unsigned long long>(worker.batches), dropped.c_str(), speed,
                worker.alive ? "" : ", died");
  }
  for (const ConsistencyReport& mode : report_.consistency) {
    const StalenessSummary summary = summarize(mode.staleness_counts);
    std::printf("  %-14s staleness mean %.2f, p99 %llu, max %llu", mode.mode.c_str(), summary.mean,
                static_cast<unsigned long long>(summary.p99), static_cast<unsigned long long>(summary.max));
    if (mode.examples_per_second > 0)
      std::printf(";  %s %s/s, %.0f %% of the workers' time at the bound",
                  rate_text(mode.examples_per_second).c_str(), report_.words.examples.c_str(),
                  mode.working_seconds > 0 ? 100 * mode.waiting_seconds / mode.working_seconds : 0);
    std::printf("\n");
  }
  for (const FailureReport& failure : report_.failures)
    std::printf("  failure after %s: %s %s\n", minutes(failure.seconds).c_str(), failure.who.c_str(),
                failure.what.c_str());
  std::printf("\n");
  for (const ReportSection& section : report_.sections) std::printf("%s", section.text.c_str());
  std::printf("\nreport: %s\n", (settings_.out / "report.html").string().c_str());
  std::printf("result: %s\ncheckpoint: %s\n", (settings_.out / "result.json").string().c_str(),
              report_.checkpoint.empty() ? "none" : report_.checkpoint.c_str());
}

}  // namespace troupe::training
