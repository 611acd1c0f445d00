#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <troupe/runtime/result.hpp>

namespace troupe::training {

/// One figure of a model's quality.
struct Metric {
  std::string key;    ///< in result.json: "mrr"
  std::string title;  ///< for people: "MRR"
  double value = 0;
};

/// The words in which a program's display and report speak of its work.
struct ReportWords {
  std::string title = "Training";     ///< of the page; before begin_report() the program's name
  std::string examples = "examples";  ///< what is counted; names fields of result.json, too
  std::string rate_note = {};         ///< below their rate: "both directions of a triple counted"
  std::string loss_axis = "loss";     ///< with its unit
  std::string loss_note = "Mean over the examples.";
  std::string score_axis = "score";  ///< of the first metric
  std::string score_note = {};
  std::string test = "test";   ///< heads the metrics on the screen: "test (filtered)"
  std::string test_note = {};  ///< how they were found: "filtered"
};

/// A point in a run: seconds since training began, and a value.
struct TimedValue {
  double seconds = 0;
  double value = 0;
};

struct EpochReport {
  std::uint64_t epoch = 0;      ///< counted from 1
  double end_seconds = 0;       ///< since training began
  double loss = 0;              ///< mean of an example
  std::optional<Metric> valid;  ///< the first metric on the validation split, if that was asked
};

/// Where a worker's time in training went, in seconds: see StepTimes.
struct TimeShares {
  double compute = 0;  ///< its own arithmetic
  double bound = 0;    ///< at the staleness bound, waiting for slower workers
  double shard = 0;    ///< the shard servers had its pulls and pushes
  double network = 0;  ///< these were on the way, or in queues
  double idle = 0;     ///< waiting for its next batch, or held back to be slower
  double sum() const { return compute + bound + shard + network + idle; }
};

struct WorkerReport {
  std::string name;
  double speed = 1;  ///< 1 is unthrottled, 0.4 a worker held at 40 % of its speed
  std::uint64_t batches = 0;
  std::uint64_t examples = 0;
  bool alive = true;                   ///< at the end of the run
  std::vector<TimedValue> throughput;  ///< examples per second, over time
  TimeShares times;
  std::uint64_t dropped = 0;  ///< batches whose gradients came too late for their round, in k-of-n
};

/// What one mode of consistency showed. A run has one; with a second, the page sets them side by side.
struct ConsistencyReport {
  std::string mode;  ///< "asynchronous", "bounded, 4"
  /// counts[s]: pushes whose shard had applied s updates of others since the worker's pull.
  std::vector<std::uint64_t> staleness_counts;
  double examples_per_second = 0;
  double waiting_seconds = 0;   ///< of all workers together, for slower ones
  double working_seconds = 0;   ///< of all workers together, waiting included
  std::optional<double> score;  ///< the run's first metric, if it trained in this mode
};

/// Latency of one remote method as its callers saw it, in microseconds.
struct MethodLatency {
  std::string method;
  std::uint64_t calls = 0;
  double p50_us = 0;
  double p90_us = 0;
  double p99_us = 0;
  double p999_us = 0;
  double max_us = 0;
};

struct FailureReport {
  double seconds = 0;  ///< since training began
  std::string who;     ///< the process's name
  std::string what;    ///< one line
};

/// A card of the page that only this program has.
struct ReportSection {
  std::string title;
  std::string note;
  std::string text;  ///< lines for the screen, at the end of the run
  std::string html;  ///< shown as it is: what it is made from goes through escape_html()
  bool wide = false;
};

/// Another run that this one is held against.
struct ReferenceReport {
  double score = 0;                ///< its first metric
  double examples_per_second = 0;  ///< 0: not known
  std::string description;         ///< "one process, two threads, 20 epochs"
};

/// All that result.json and report.html tell of a run.
struct RunReport {
  ReportWords words;
  std::string started_at;  ///< for people: "2026-01-31 12:00 UTC"
  std::string data;        ///< "WordNet: 116,650 entities, 18 relations, 229,402 training triples"
  std::vector<std::pair<std::string, std::string>> settings;  ///< flag and value
  std::size_t servers = 0;

  std::vector<Metric> test;         ///< the first is the run's score; empty: nothing was tested
  std::uint64_t test_examples = 0;  ///< on which that was found
  double train_seconds = 0;
  double evaluation_seconds = 0;
  std::uint64_t examples = 0;  ///< trained on in all
  std::optional<ReferenceReport> reference;
  std::string checkpoint;  ///< path, empty if none was written

  std::vector<TimedValue> loss;  ///< finer than epochs; may be empty
  std::vector<EpochReport> epochs;
  std::vector<WorkerReport> workers;
  std::vector<ConsistencyReport> consistency;  ///< this run's first
  std::vector<MethodLatency> latencies;
  std::vector<FailureReport> failures;
  std::vector<ReportSection> sections;

  double examples_per_second() const {
    return train_seconds > 0 ? static_cast<double>(examples) / train_seconds : 0;
  }
};

struct StalenessSummary {
  std::uint64_t pushes = 0;
  double mean = 0;
  std::uint64_t p50 = 0;
  std::uint64_t p90 = 0;
  std::uint64_t p99 = 0;
  std::uint64_t max = 0;
};

/// Percentiles (the least value that at least so many hundredths do not exceed) of a histogram by value.
StalenessSummary summarize(const std::vector<std::uint64_t>& counts);

/// result.json's text. The first metric stands in "test_<key>", "valid_<key>" of an epoch and
/// "reference_<key>" (if known), others in their keys; with "examples" as ReportWords names them:
/// train_seconds, <examples>_per_second, workers, staleness, failures, epochs, rpc_latency_us and more.
std::string result_json(const RunReport& report);

/// report.html's text: one page that needs nothing else, with charts in SVG, for light and dark screens.
std::string report_page(const RunReport& report);

/// Writes both into `folder`, made if missing, each by rename so that no reader sees a half.
/// Error: kPermissionDenied and such, naming the file.
Result<void> write_report(const RunReport& report, const std::filesystem::path& folder);

}  // namespace troupe::training
