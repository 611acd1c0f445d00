#include "wordnet/worker.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <future>
#include <numeric>

#include <troupe/actors/stop_signals.hpp>
#include <troupe/kernels/blas.hpp>
#include <troupe/shards/sequence_window.hpp>

#include "wordnet/coordinator.hpp"
#include "wordnet/roles.hpp"

namespace troupe::wordnet {

namespace {

using SteadyClock = std::chrono::steady_clock;

std::uint64_t nanoseconds_since(SteadyClock::time_point start) {
  return static_cast<std::uint64_t>(std::chrono::nanoseconds(SteadyClock::now() - start).count());
}

/// A batch has one name, whoever does it: if its first worker died after it had pushed to some or all
/// shards, each shard applies the second worker's push only if it has not applied the first's. A window of
/// sequences counts as one "worker" of the shards, so that no batch, however late, is too old to be known.
PushIdentity identity_of(const Work& work) {
  constexpr std::uint64_t kWindow = shards::SequenceWindow::kSize;
  return {work.epoch << 32 | (work.index / kWindow + 1), work.index % kWindow};
}

}  // namespace

Worker::Worker(Node& node, const JobSettings& settings, const KnowledgeGraph& graph, double speed)
    : node_(node),
      settings_(settings),
      graph_(graph),
      speed_(speed),
      sampler_(graph.train, graph.entity_count(), graph.relation_count(), settings.parameters.batch_size,
               settings.parameters.negatives, settings.parameters.seed),
      planner_(graph.entity_count(), 2 * graph.relation_count()),
      model_(settings.parameters.dimension, settings.parameters.n3) {}

Result<Worker::Tables*> Worker::open(TableSet set) {
  if (const auto known = tables_.find(set); known != tables_.end()) return &known->second;
  const auto consistency =
      set == TableSet::kCompareOther ? other_consistency(settings_) : own_consistency(settings_);
  const std::string suffix = set == TableSet::kOwn          ? ""
                             : set == TableSet::kCompareOwn ? ".compare-own"
                                                            : ".compare-other";
  std::vector<std::string> servers;
  for (std::uint32_t i = 0; i < settings_.servers; ++i) servers.push_back("ps-" + std::to_string(i));
  auto entities = TableClient::open(node_, entity_table(settings_, consistency, suffix), servers);
  if (!entities) return entities.error();
  auto relations = TableClient::open(node_, relation_table(settings_, consistency, suffix), servers);
  if (!relations) return relations.error();
  if (auto joined = TableClient::join_together({entities->get(), relations->get()}); !joined)
    return joined.error();
  return &(tables_[set] = Tables{std::move(*entities), std::move(*relations)});
}

void Worker::rest() {
  if (std::exchange(resting_, true)) return;
  for (auto& [set, tables] : tables_) tables.entities->leave(), tables.relations->leave();
}

Result<WorkDone> Worker::run(const Work& work) {
  if (work.kind == WorkKind::kEvaluate) return evaluate(work);
  const auto start = SteadyClock::now();
  auto done = train(work);
  if (speed_ >= 1) return done;
  // A throttled worker takes its time after each batch, as a slower machine would; waiting for others at the
  // bound is no work. It goes on driving its loop, to be heard of.
  const auto rest = std::chrono::duration_cast<std::chrono::nanoseconds>(
      (SteadyClock::now() - start - waited_) * (1 / speed_ - 1));
  Loop& loop = node_.loop();
  loop.wait_until([] { return false; }, loop.clock().now() + std::chrono::duration_cast<Duration>(rest));
  return done;
}

Result<WorkDone> Worker::train(const Work& work) {
  auto opened = open(work.tables);
  if (!opened) return opened.error();
  Tables& tables = **opened;
  if (std::exchange(resting_, false))
    if (auto joined = TableClient::join_together({tables.entities.get(), tables.relations.get()}); !joined)
      return joined.error();

  sampler_.sample(work.epoch, work.index, batch_);
  planner_.make(batch_, plan_);
  auto step = pull_and_compute(tables);
  if (!step) return step.error();

  const PushIdentity identity = identity_of(work);
  const auto push_start = SteadyClock::now();
  auto entity_push =
      tables.entities->push(plan_.entity_keys, entity_grads_.data(), entity_versions_, identity);
  auto relation_push =
      tables.relations->push(plan_.relation_keys, relation_grads_.data(), relation_versions_, identity);
  auto entity_pushed = entity_push.get();
  auto relation_pushed = relation_push.get();
  if (!entity_pushed) return entity_pushed.error();
  if (!relation_pushed) return relation_pushed.error();
  latencies_["push (both tables)"].record(nanoseconds_since(push_start));

  for (auto* table : {tables.entities.get(), tables.relations.get()}) table->set_clock(table->clock() + 1);
  WorkDone done;
  done.work = work;
  done.loss_sum = step->loss_sum;
  done.examples = step->examples;
  return done;
}

Result<StepResult> Worker::pull_and_compute(Tables& tables) {
  const std::size_t width = model_.row_width();
  entity_rows_.resize(plan_.entity_keys.size() * width);
  entity_grads_.resize(entity_rows_.size());
  relation_rows_.resize(plan_.relation_keys.size() * width);
  relation_grads_.resize(relation_rows_.size());

  const auto pull_start = SteadyClock::now();
  auto entity_pull = tables.entities->pull(plan_.entity_keys, entity_rows_.data());
  auto relation_pull = tables.relations->pull(plan_.relation_keys, relation_rows_.data());
  auto entity_versions = entity_pull.get();
  auto relation_versions = relation_pull.get();
  if (!entity_versions) return entity_versions.error();
  if (!relation_versions) return relation_versions.error();
  entity_versions_ = std::move(*entity_versions);
  relation_versions_ = std::move(*relation_versions);
  const std::uint64_t pulled_in = nanoseconds_since(pull_start);
  latencies_["pull (both tables)"].record(pulled_in);
  const bool bounded = std::holds_alternative<shards::BoundedStaleness>(tables.entities->spec().consistency);
  waited_ = std::chrono::nanoseconds(bounded ? pulled_in : 0);
  return model_.step(plan_, entity_rows_.data(), relation_rows_.data(), entity_grads_.data(),
                     relation_grads_.data());
}

Result<void> read_rows(TableClient& table, std::uint64_t count, float* out) {
  constexpr std::uint64_t kPiece = 16384;
  std::vector<std::uint64_t> keys;
  for (std::uint64_t begin = 0; begin < count; begin += kPiece) {
    keys.resize(std::min(kPiece, count - begin));
    std::iota(keys.begin(), keys.end(), begin);
    auto read = table.peek(keys, out + begin * table.spec().dim).get();
    if (!read) return read.error();
  }
  return {};
}

Result<void> Worker::fetch_model(std::uint64_t epoch) {
  if (rows_epoch_ == epoch) return {};
  auto tables = open(TableSet::kOwn);
  if (!tables) return tables.error();
  const std::size_t width = model_.row_width();
  rows_.dimension = model_.dimension();
  rows_.entities.resize(graph_.entity_count() * width);
  rows_.relations.resize(2 * graph_.relation_count() * width);
  if (auto read = read_rows(*(*tables)->entities, graph_.entity_count(), rows_.entities.data()); !read)
    return read;
  if (auto read = read_rows(*(*tables)->relations, 2 * graph_.relation_count(), rows_.relations.data());
      !read)
    return read;
  rows_epoch_ = epoch;
  return {};
}

Result<WorkDone> Worker::evaluate(const Work& work) {
  rest();
  if (auto fetched = fetch_model(work.epoch); !fetched) return fetched.error();
  if (!known_) known_ = std::make_unique<KnownAnswers>(graph_);
  const auto& triples = work.test ? graph_.test : graph_.valid;
  if (work.end > triples.size() || work.index > work.end)
    return Error{Code::kOutOfRange,
                 "told to evaluate triples that are not there; give all processes the same data"};
  WorkDone done;
  done.work = work;
  done.ranks =
      wordnet::evaluate(rows_.view(), *known_, std::span(triples).subspan(work.index, work.end - work.index));
  return done;
}

// ---- The process --------------------------------------------------------------------------------

namespace {

/// The chief has gone, or is going: the job is over, in whatever way; the chief and the launcher tell how.
bool is_over(const Error& error) {
  return error.code == Code::kUnavailable || error.code == Code::kCancelled || error.code == Code::kNotFound;
}

/// What a worker process does, from its first call to its last.
class WorkerProcess {
 public:
  WorkerProcess(Node& node, std::string name, double speed)
      : node_(node), name_(std::move(name)), speed_(speed) {}

  int run() {
    if (auto there = node_.wait_for_actor(Coordinator::kName, std::chrono::seconds(30)); !there) {
      std::fprintf(stderr, "wordnet: %s: there is no job at this address: %s\n", name_.c_str(),
                   there.error().message.c_str());
      return 1;
    }
    auto text = node_.rpc_sync<std::string>(Coordinator::kName, "settings");
    if (!text) return chief_failed(text.error());
    auto settings = settings_from_json(*text);
    if (!settings) return fail(settings.error());
    auto graph = load(settings->dataset);
    if (!graph) return fail(graph.error());
    Worker worker(node_, *settings, *graph, speed_);
    if (auto known = node_.rpc_sync<void>(Coordinator::kName, "hello", name_, speed_); !known)
      return chief_failed(known.error());
    return work(worker);
  }

 private:
  int work(Worker& worker) {
    WorkDone done;
    for (;;) {
      const bool waiting = done.work.kind == WorkKind::kWait;
      const auto start = SteadyClock::now();
      auto next = node_.rpc_sync<Work>(Coordinator::kName, "next", name_, done);
      if (!next) return chief_failed(next.error());
      if (!waiting) next_latency_.record(nanoseconds_since(start));
      if (next->kind == WorkKind::kFinish) return say_farewell(worker);
      done = WorkDone{};
      if (next->kind == WorkKind::kWait) {
        worker.rest();
        continue;
      }
      auto outcome = worker.run(*next);
      if (!outcome) {
        worker.rest();  // at the bound others wait for those who take part, also for who has failed
        return fail(outcome.error());
      }
      done = *outcome;
    }
  }

  /// Reads the data while the node goes on giving signs of life.
  Result<KnowledgeGraph> load(const DatasetOptions& options) {
    Loop& loop = node_.loop();
    bool done = false;  // with the loop's turn
    auto graph = std::async(std::launch::async, [&] {
      auto loaded = load_graph(options);
      loop.post([&] { done = true; });
      return loaded;
    });
    while (!loop.wait_until([&] { return done; }, loop.clock().now() + std::chrono::seconds(60))) {
    }
    return graph.get();
  }

  int say_farewell(Worker& worker) {
    worker.rest();
    std::map<std::string, std::vector<std::uint64_t>> latencies;
    for (const auto& [method, histogram] : worker.latencies()) latencies[method] = histogram.serialise();
    latencies["next (of the coordinator)"] = next_latency_.serialise();
    auto said = node_.rpc_sync<void>(Coordinator::kName, "farewell", name_, latencies);
    return said ? 0 : chief_failed(said.error());
  }

  /// Tells the chief, which tells people, and waits for the end of the job: a server that died is the end of
  /// it, and one line about that is enough.
  int fail(const Error& error) {
    const WorkerFailure failure{error.code, error.message};
    if (!node_.rpc_sync<void>(Coordinator::kName, "failed", name_, failure)) return 0;
    (void)node_.run();
    return error.code == Code::kUnavailable ? 0 : 1;
  }

  int chief_failed(const Error& error) const {
    if (is_over(error)) return 0;
    std::fprintf(stderr, "wordnet: %s: the chief does not answer: %s\n", name_.c_str(),
                 error.message.c_str());
    return 1;
  }

  Node& node_;
  std::string name_;
  double speed_;
  Histogram next_latency_;
};

}  // namespace

int run_worker(const Place& place, double speed) {
  StopSignals signals;
  // Ctrl-C goes to all processes of the job: the chief ends it, and with the chief this one ends.
  std::atomic<bool> joined{false};
  signals.start([&](int signal) {
    if (!signals.ends_within(joined ? kChiefEndsFirst : kStartsUp)) std::_Exit(128 + signal);
  });
  kernels::set_blas_threads(1);
  NodeOptions options;
  options.name = place.name;
  options.role = "worker";
  options.registry = place.registry;
  options.transport.transports = place.transport;
  options.metrics_address = place.metrics_address;
  options.silence_limit = kJobSilenceLimit;
  options.own_thread = false;  // nobody calls a worker, and its own calls drive the loop: no thread switches
  auto node = Node::start(options);
  if (!node) {
    std::fprintf(stderr, "wordnet: %s\n", node.error().message.c_str());
    return node.error().code == Code::kUnavailable ? 1 : 2;
  }
  joined = true;
  return WorkerProcess(**node, place.name, speed).run();
}

}  // namespace troupe::wordnet
