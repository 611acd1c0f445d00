#include <nlohmann/json.hpp>
#include <string>

#include <troupe/training/report.hpp>

namespace troupe::training {
namespace {

using nlohmann::ordered_json;

std::string per_second(const RunReport& report) {
  return report.words.examples + "_per_second";
}

ordered_json workers(const RunReport& report) {
  ordered_json list = ordered_json::array();
  for (const WorkerReport& worker : report.workers) {
    list.push_back(
        {{"name", worker.name},
         {"speed", worker.speed},
         {"batches", worker.batches},
         {report.words.examples, worker.examples},
         {per_second(report),
          report.train_seconds > 0 ? static_cast<double>(worker.examples) / report.train_seconds : 0},
         {"dropped_batches", worker.dropped},
         {"alive", worker.alive},
         {"seconds",
          {{"compute", worker.times.compute},
           {"bound", worker.times.bound},
           {"shard", worker.times.shard},
           {"network", worker.times.network},
           {"idle", worker.times.idle}}}});
  }
  return list;
}

ordered_json staleness(const RunReport& report) {
  ordered_json modes = ordered_json::array();
  for (const ConsistencyReport& mode : report.consistency) {
    const StalenessSummary summary = summarize(mode.staleness_counts);
    ordered_json entry{{"mode", mode.mode},
                       {"pushes", summary.pushes},
                       {"mean", summary.mean},
                       {"p50", summary.p50},
                       {"p90", summary.p90},
                       {"p99", summary.p99},
                       {"max", summary.max},
                       {per_second(report), mode.examples_per_second},
                       {"waiting_seconds", mode.waiting_seconds}};
    if (mode.score && !report.test.empty()) entry["test_" + report.test.front().key] = *mode.score;
    modes.push_back(std::move(entry));
  }
  return modes;
}

ordered_json epochs(const RunReport& report) {
  ordered_json list = ordered_json::array();
  for (const EpochReport& epoch : report.epochs) {
    ordered_json entry{{"epoch", epoch.epoch}, {"end_seconds", epoch.end_seconds}, {"loss", epoch.loss}};
    if (epoch.valid) entry["valid_" + epoch.valid->key] = epoch.valid->value;
    list.push_back(std::move(entry));
  }
  return list;
}

ordered_json latencies(const RunReport& report) {
  ordered_json methods = ordered_json::object();
  for (const MethodLatency& method : report.latencies) {
    methods[method.method] = {{"calls", method.calls}, {"p50", method.p50_us},   {"p90", method.p90_us},
                              {"p99", method.p99_us},  {"p999", method.p999_us}, {"max", method.max_us}};
  }
  return methods;
}

ordered_json failures(const RunReport& report) {
  ordered_json list = ordered_json::array();
  for (const FailureReport& failure : report.failures) {
    list.push_back({{"seconds", failure.seconds}, {"who", failure.who}, {"what", failure.what}});
  }
  return list;
}

}  // namespace

std::string result_json(const RunReport& report) {
  ordered_json result = ordered_json::object();
  for (std::size_t i = 0; i < report.test.size(); ++i)
    result[(i == 0 ? "test_" : "") + report.test[i].key] = report.test[i].value;
  if (report.reference) {
    if (!report.test.empty()) result["reference_" + report.test.front().key] = report.reference->score;
    if (report.reference->examples_per_second > 0)
      result["reference_" + per_second(report)] = report.reference->examples_per_second;
  }
  result["train_seconds"] = report.train_seconds;
  result["evaluation_seconds"] = report.evaluation_seconds;
  result[per_second(report)] = report.examples_per_second();
  result["data"] = report.data;
  result["started_at"] = report.started_at;
  result["servers"] = report.servers;
  result["workers"] = workers(report);
  result["staleness"] = staleness(report);
  result["failures"] = failures(report);
  result["epochs"] = epochs(report);
  result["rpc_latency_us"] = latencies(report);
  result["checkpoint"] = report.checkpoint;
  result["settings"] = ordered_json::object();
  for (const auto& [flag, value] : report.settings) result["settings"][flag] = value;
  // A name in a foreign encoding must not cost the whole report.
  return result.dump(2, ' ', false, ordered_json::error_handler_t::replace) + '\n';
}

}  // namespace troupe::training
