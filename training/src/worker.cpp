#include "worker.hpp"

#include <algorithm>
#include <utility>

#include <troupe/shards/sequence_window.hpp>

#include "step_flags.hpp"

namespace troupe::training {

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

/// Whether each table has as many gradients as rows; a task may have done as it liked.
Result<void> check_gradients(const Step& step) {
  for (std::size_t t = 0; t < step.rows.size(); ++t)
    if (step.gradients.size() != step.rows.size() || step.gradients[t].size() != step.rows[t].size())
      return Error{Code::kInternal, "the task's gradients have not the size of its rows"};
  return {};
}

}  // namespace

std::vector<shards::TableSpec> tables_of(const Task& task, const JobSettings& settings, TableSet set) {
  auto specs = task.tables();
  for (shards::TableSpec& spec : specs) {
    spec.consistency =
        set == TableSet::kCompareOther ? other_consistency(settings) : own_consistency(settings);
    set_steps(settings, spec);
    if (set == TableSet::kCompareOwn) spec.name += ".compare-own";
    if (set == TableSet::kCompareOther) spec.name += ".compare-other";
  }
  return specs;
}

std::vector<std::string> server_names(const JobSettings& settings) {
  std::vector<std::string> names;
  for (std::uint32_t i = 0; i < settings.servers; ++i) names.push_back("ps-" + std::to_string(i));
  return names;
}

Worker::Worker(Node& node, JobSettings settings, Task& task, double speed)
    : node_(node), settings_(std::move(settings)), task_(task), speed_(speed) {}

Result<TableGroup*> Worker::open(TableSet set) {
  if (const auto known = tables_.find(set); known != tables_.end()) return known->second.get();
  auto opened = TableGroup::open(node_, tables_of(task_, settings_, set), server_names(settings_));
  if (!opened) return opened.error();
  return (tables_[set] = std::move(*opened)).get();
}

void Worker::rest() {
  for (auto& [set, tables] : tables_) tables->leave();
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
  TableGroup& tables = **opened;
  if (auto joined = tables.join(); !joined) return joined.error();

  const BatchId batch{work.epoch, work.index};
  step_.keys.resize(tables.size());
  for (auto& keys : step_.keys) keys.clear();
  step_.loss_sum = 0;
  step_.examples = 0;
  task_.plan(batch, step_);
  if (step_.keys.size() != tables.size())
    return Error{Code::kInternal, "the task's plan has not a list of keys for each table"};

  const auto pull_start = SteadyClock::now();
  if (auto pulled = tables.pull(step_.keys, step_.rows); !pulled) return pulled.error();
  const std::uint64_t pulled_in = nanoseconds_since(pull_start);
  latencies_["pull (all tables)"].record(pulled_in);
  const shards::Consistency& mode = tables[0].spec().consistency;
  waited_ = std::chrono::nanoseconds(std::holds_alternative<shards::Asynchronous>(mode) ? 0 : pulled_in);

  step_.gradients.resize(step_.rows.size());
  for (std::size_t t = 0; t < step_.rows.size(); ++t) step_.gradients[t].resize(step_.rows[t].size());
  if (auto computed = task_.compute(batch, step_); !computed) return computed.error();
  if (auto good = check_gradients(step_); !good) return good.error();

  const auto push_start = SteadyClock::now();
  const std::uint64_t samples = std::max<std::uint64_t>(1, step_.examples);
  const auto pushed = tables.push(step_.keys, step_.gradients, identity_of(work), samples);
  if (!pushed) return pushed.error();
  const std::uint64_t pushed_in = nanoseconds_since(push_start);
  latencies_["push (all tables)"].record(pushed_in);
  if (shards::in_rounds(mode)) waited_ += std::chrono::nanoseconds(pushed_in);
  tables.advance();
  WorkDone done;
  done.work = work;
  done.loss_sum = step_.loss_sum;
  done.examples = step_.examples;
  done.dropped = pushed->dropped ? 1 : 0;
  return done;
}

Result<WorkDone> Worker::evaluate(const Work& work) {
  rest();
  auto tables = open(TableSet::kOwn);
  if (!tables) return tables.error();
  (*tables)->leave();  // it may have joined just now
  if (work.end > task_.evaluation_size(work.split) || work.index > work.end)
    return Error{Code::kOutOfRange,
                 "told to evaluate examples that are not there; give all processes the same data"};
  auto sums = task_.evaluate({work.split, work.index, work.end, work.epoch}, **tables);
  if (!sums) return sums.error();
  WorkDone done;
  done.work = work;
  done.sums = std::move(*sums);
  return done;
}

}  // namespace troupe::training
