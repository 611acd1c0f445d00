#include "chief.hpp"

#include <algorithm>
#include <cstdio>
#include <ctime>

#include "launched.hpp"
#include "worker.hpp"

namespace troupe::training {

namespace {

constexpr Duration kServerPatience{std::chrono::seconds(30)};
constexpr Duration kWorkerPatience{std::chrono::seconds(60)};  // they load the data first
constexpr Duration kGlance{std::chrono::milliseconds(200)};    // how soon an interrupt is seen
constexpr double kWarmUpShare = 0.25;  // of the time for which a mode of consistency is timed
constexpr Duration kFarewellPatience{std::chrono::seconds(10)};
constexpr Duration kEndPatience{std::chrono::seconds(2)};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof(text), "%Y-%m-%d %H:%M UTC", &parts);
  return text;
}

}  // namespace

Chief::Chief(Place place, const Program& program, FlagWords flags, JobSettings settings,
             std::unique_ptr<Task> task, std::string command)
    : place_(std::move(place)),
      program_(program),
      flags_(std::move(flags)),
      command_(std::move(command)),
      settings_(std::move(settings)),
      servers_(server_names(settings_)),
      task_(std::move(task)) {}

Chief::~Chief() {
  // First of all, for what the node calls on its loop works on the other members.
  tables_.reset();
  node_.reset();
}

Result<void> Chief::run(const Resume& resume) {
  auto done = run_all(resume);
  if (!done) return cause_of(done.error());
  return done;
}

Result<void> Chief::prepare(const Resume& resume) {
  report_.started_at = utc_now();
  report_.words.title = program_.name;
  // Before hours of training, not after them.
  if (auto taken = take_place(); !taken) return taken;
  if (auto loaded = task_->load(); !loaded) return loaded;
  if (auto good = check_tables(); !good) return good;
  if (resume.wanted)
    if (auto found = find(resume, shards::Check::kSizes); !found) return found;
  if (auto begun = task_->begin_report(report_); !begun) return begun;
  if (!report_.data.empty()) progress_.message(report_.data);
  return {};
}

Result<void> Chief::check_tables() const {
  for (const shards::TableSpec& spec : tables_of(*task_, settings_, TableSet::kOwn))
    if (auto valid = spec.validate(); !valid) return valid;
  return {};
}

Result<void> Chief::run_all(const Resume& resume) {
  if (auto prepared = prepare(resume); !prepared) return prepared;
  if (auto gathered = gather_processes(); !gathered) return gathered;
  if (resume.wanted) {
    if (auto restored = restore(resume); !restored) return restored;
  }
  training_ = true;
  if (auto made = make_tables(); !made) return made;

  begun_at_ = SteadyClock::now();
  for (std::uint64_t epoch = first_epoch_; epoch <= settings_.epochs; ++epoch)
    if (auto trained = train_and_check(epoch); !trained) return trained;
  if (settings_.compare_seconds > 0)
    if (auto compared = compare_modes(); !compared) return compared;
  return finish();
}

Result<void> Chief::train_and_check(std::uint64_t epoch) {
  if (auto trained = train_epoch(epoch); !trained) return trained;
  if (task_->evaluation_size(Split::kValidation) > 0) {
    auto found = evaluate(epoch, Split::kValidation);
    if (!found) return found.error();
    if (!found->empty()) report_.epochs.back().valid = valid_ = found->front();
  }
  if (epoch == settings_.epochs || (settings_.checkpoint_every && epoch % settings_.checkpoint_every == 0))
    if (auto saved = save_checkpoint(epoch); !saved) return saved;
  seconds_per_epoch_ = seconds_since(begun_at_) / static_cast<double>(epoch - first_epoch_ + 1);
  const EpochReport& done = report_.epochs.back();
  std::string valid;
  if (done.valid)
    valid = ", valid " + done.valid->title + " " + std::to_string(done.valid->value).substr(0, 5);
  char line[160];
  std::snprintf(line, sizeof(line), "epoch %2llu: loss %.4f%s, training for %s%s",
                static_cast<unsigned long long>(epoch), done.loss, valid.c_str(),
                minutes(train_seconds_).c_str(), checkpoint_epoch_ == epoch ? ", checkpoint" : "");
  progress_.message(line);
  return {};
}

std::string Chief::hint() const {
  return resume_hint(settings_, checkpoint_epoch_, command_, place_.transport);
}

void Chief::tell_failure(const Error& error) {
  progress_.clear();
  std::fprintf(stderr, "%s: %s\n", program_.name.c_str(), error.message.c_str());
  // A damaged checkpoint is nothing to go on from.
  if (training_ && error.code != Code::kDataLoss) std::fprintf(stderr, "%s\n", hint().c_str());
}

// ---- Beginning ----------------------------------------------------------------------------------

Result<void> Chief::gather_processes() {
  NodeOptions options;
  options.name = place_.name;
  options.role = "chief";
  options.listen = place_.registry;
  options.transport.transports = place_.transport;
  options.metrics_address = place_.metrics_address;
  options.silence_limit = kJobSilenceLimit;
  auto node = Node::start(options);
  if (!node) return node.error();
  node_ = std::move(*node);
  node_->watch([this](const MembershipChange& change) { on_change(change); });
  coordinator_ = std::make_shared<Coordinator>(node_->loop(), to_json(flags_));
  rpc::Methods<Coordinator> methods;
  Coordinator::methods(methods);
  if (auto spawned = node_->spawn_state(Coordinator::kName, coordinator_, methods.table()); !spawned)
    return spawned;
  progress_.message("waiting for " + std::to_string(settings_.servers) + " shard servers and " +
                    std::to_string(settings_.workers) + " workers at " + node_->address());
  return wait_for_all();
}

Result<void> Chief::wait_for_servers() {
  const auto now = [&] { return node_->loop().clock().now(); };
  const TimePoint servers_due = now() + kServerPatience;
  for (std::uint32_t i = 0; i < servers_.size();) {
    auto there = node_->wait_for_actor(servers_[i], kGlance);
    const auto ended = there ? EndedProcesses() : ended_processes(settings_.job_record());
    Loop::Turn turn(node_->loop());
    take_failures({});
    if (auto ok = check(); !ok) return ok;
    if (there) {
      ++i;
      continue;
    }
    if (const auto gone = ended.find(servers_[i]); gone != ended.end())
      return Error{Code::kUnavailable,
                   "shard server '" + gone->first + "' " + gone->second + " before it had come"};
    if (now() >= servers_due)
      return Error{Code::kDeadlineExceeded, "shard server '" + servers_[i] + "' has not come within " +
                                                std::to_string(kServerPatience / std::chrono::seconds(1)) +
                                                " s"};
  }
  return {};
}

Result<void> Chief::wait_for_all() {
  const auto now = [&] { return node_->loop().clock().now(); };
  const TimePoint workers_due = now() + kWorkerPatience;
  if (auto come = wait_for_servers(); !come) return come;
  for (;;) {
    node_->loop().wait_until([&] { return coordinator_->workers().size() >= settings_.workers || fatal_; },
                             now() + kGlance);
    const auto ended = ended_processes(settings_.job_record());
    Loop::Turn turn(node_->loop());
    take_failures({});
    if (auto ok = check(); !ok) return ok;
    if (coordinator_->workers().size() >= settings_.workers) return {};
    const std::size_t never_come = std::count_if(ended.begin(), ended.end(), [&](const auto& each) {
      return each.first.starts_with("worker-") && !coordinator_->workers().contains(each.first);
    });
    const bool all_known = coordinator_->workers().size() + never_come >= settings_.workers;
    if (!all_known && now() < workers_due) continue;
    if (coordinator_->alive() == 0)
      return Error{Code::kUnavailable, all_known
                                           ? "every worker ended before it had come: worker-0 " +
                                                 (ended.contains("worker-0") ? ended.at("worker-0") : "left")
                                           : "no worker has come within a minute"};
    news_.push_back("only " + std::to_string(coordinator_->alive()) + " of " +
                    std::to_string(settings_.workers) + " workers have come" +
                    (all_known ? ", the others have ended" : " within a minute") + ": beginning");
    return {};
  }
}

Result<void> Chief::make_tables() {
  auto opened = TableGroup::open(*node_, tables_of(*task_, settings_, TableSet::kOwn), servers_);
  if (!opened) return opened.error();
  tables_ = std::move(*opened);
  tables_->leave();  // the chief only reads
  return {};
}

// ---- Phases -------------------------------------------------------------------------------------

Result<void> Chief::train_epoch(std::uint64_t epoch) {
  const JobMetrics before = job_metrics();
  {
    Loop::Turn turn(node_->loop());
    coordinator_->queue().begin_training(epoch, task_->batches_per_epoch());
    coordinator_->phase_began();
  }
  const auto start = SteadyClock::now();
  auto driven = drive("epoch " + std::to_string(epoch) + "/" + std::to_string(settings_.epochs));
  {
    Loop::Turn turn(node_->loop());
    train_seconds_ += seconds_since(start);
    phase_seconds_ = 0;
  }
  if (!driven) return driven;
  step_times_.add(before, job_metrics());
  Loop::Turn turn(node_->loop());
  epochs_done_ = epoch;
  report_.examples += coordinator_->examples();
  report_.epochs.push_back(
      {epoch,
       train_seconds_,
       coordinator_->loss_sum() / static_cast<double>(std::max<std::uint64_t>(1, coordinator_->examples())),
       {}});
  return {};
}

Result<std::vector<Metric>> Chief::evaluate(std::uint64_t epoch, Split split) {
  const std::uint64_t examples = task_->evaluation_size(split);
  {
    Loop::Turn turn(node_->loop());
    coordinator_->queue().begin_evaluation(epoch, split, examples,
                                           std::max<std::uint64_t>(1, task_->evaluation_chunk()));
    coordinator_->phase_began();
  }
  const auto start = SteadyClock::now();
  if (auto driven = drive(split == Split::kTest ? "test" : "validation"); !driven) return driven.error();
  Loop::Turn turn(node_->loop());
  if (examples > 0) seconds_per_example_ = seconds_since(start) / static_cast<double>(examples);
  return task_->metrics(coordinator_->sums());
}

// ---- The two modes of consistency ---------------------------------------------------------------

Result<void> Chief::time_mode(TableSet tables, const std::string& phase, double seconds,
                              std::uint64_t epoch) {
  {
    Loop::Turn turn(node_->loop());
    coordinator_->queue().begin_training(epoch, task_->batches_per_epoch(), tables);
    coordinator_->phase_began();
  }
  return drive(phase, std::chrono::duration<double>(seconds));
}

Result<ConsistencyReport> Chief::measure_mode(TableSet tables, const shards::Consistency& consistency,
                                              const char* suffix) {
  const std::string phase = "timing: " + describe(consistency);
  const std::string table = (*tables_)[0].spec().name + suffix;
  // Making the tables and their first rows is no part of what is compared. Epochs that differ, for a batch
  // of one epoch is applied once.
  const double warm_up = kWarmUpShare * settings_.compare_seconds;
  if (auto timed = time_mode(tables, phase, warm_up, epochs_done_ + 1); !timed) return timed.error();
  auto before = table_stats(table);
  if (!before) return before.error();
  const auto start = SteadyClock::now();
  if (auto timed = time_mode(tables, phase, settings_.compare_seconds - warm_up, epochs_done_ + 2); !timed)
    return timed.error();
  const double seconds = seconds_since(start);
  auto after = table_stats(table);
  if (!after) return after.error();
  ConsistencyReport report;
  report.mode = describe(consistency);
  {
    Loop::Turn turn(node_->loop());
    report.examples_per_second = static_cast<double>(coordinator_->examples()) / seconds;
    report.working_seconds = seconds * static_cast<double>(coordinator_->alive());
  }
  for (std::size_t server = 0; server < after->size(); ++server) {
    const auto& counts = (*after)[server].staleness_counts;
    const auto& old = (*before)[server].staleness_counts;
    report.staleness_counts.resize(std::max(report.staleness_counts.size(), counts.size()));
    for (std::size_t i = 0; i < counts.size(); ++i)
      report.staleness_counts[i] += counts[i] - (i < old.size() ? old[i] : 0);
    // A worker waits at all servers at once, and hears of its clock from all at about the same time: what
    // all workers lost together is what the server that kept them longest says.
    report.waiting_seconds =
        std::max(report.waiting_seconds,
                 static_cast<double>((*after)[server].deferred_ns - (*before)[server].deferred_ns) / 1e9);
  }
  return report;
}

Result<void> Chief::compare_modes() {
  progress_.message("timing both modes of consistency, on scratch copies of the tables");
  auto own = measure_mode(TableSet::kCompareOwn, own_consistency(settings_), ".compare-own");
  if (!own) return own.error();
  auto other = measure_mode(TableSet::kCompareOther, other_consistency(settings_), ".compare-other");
  if (!other) return other.error();
  report_.consistency = {std::move(*own), std::move(*other)};
  return {};
}

// ---- End ----------------------------------------------------------------------------------------

Result<void> Chief::finish() {
  const auto start = SteadyClock::now();
  report_.test_examples = task_->evaluation_size(Split::kTest);
  if (report_.test_examples > 0) {
    auto found = evaluate(epochs_done_, Split::kTest);
    if (!found) return found.error();
    report_.test = std::move(*found);
  }
  report_.evaluation_seconds = seconds_since(start);
  report_.train_seconds = train_seconds_;
  report_.servers = settings_.servers;
  if (!report_.consistency.empty() && !report_.test.empty())
    report_.consistency.front().score = report_.test.front().value;
  if (auto ended = task_->end_report(report_, *tables_); !ended) return ended;
  {
    Loop::Turn turn(node_->loop());
    finishing_ = true;
    coordinator_->finish();
  }
  node_->loop().wait_until([&] { return coordinator_->farewells() >= coordinator_->alive(); },
                           node_->loop().clock().now() + kFarewellPatience);
  if (auto added = add_staleness(); !added) return added;
  add_workers_and_latencies();
  add_settings();
  if (auto written = write_report(report_, settings_.out); !written) return written;
  end_others();
  print_summary();
  return {};
}

void Chief::end_others() {
  std::vector<rpc::Future<void>> ended;
  for (const std::string& server : servers_)
    ended.push_back(node_->rpc_async_with<void>({.timeout = kEndPatience}, process_actor(server), "end"));
  for (auto& each : ended) (void)each.get();  // who does not hear it ends with this process
  (void)node_->leave(kLastOnePatience);
}

}  // namespace troupe::training
