// What the chief sees of the others while a phase goes on: deaths, rates, staleness.
#include <algorithm>

#include "chief.hpp"

namespace troupe::training {

namespace {
constexpr Duration kFrame{std::chrono::milliseconds(500)};
/// A failed call may be told before the death that explains it.
constexpr Duration kNewsDelay{std::chrono::seconds(1)};
/// Between two phases nobody has much to do; a process that is stopped shall not hold up the job for long.
constexpr Duration kMetricsPatience{std::chrono::seconds(2)};
constexpr double kSampleSeconds = 1;  // between points of the report's charts
constexpr std::chrono::duration<double> kLong = std::chrono::hours(100);
}  // namespace

void Chief::on_change(const MembershipChange& change) {
  if (change.event != MembershipEvent::kDied && change.event != MembershipEvent::kLeft) return;
  const std::string& name = change.member.name;
  const auto worker = coordinator_->workers().find(name);
  const bool was_alive = worker != coordinator_->workers().end() && worker->second.alive;
  if (finishing_ && change.event == MembershipEvent::kLeft) return;  // it has said farewell
  if (was_alive) coordinator_->worker_gone(name);
  if (finishing_) return;
  std::string how = "left";
  if (change.event == MembershipEvent::kDied) {
    const bool named = change.reason.starts_with(name + ": ");
    how = "died (" + (named ? change.reason.substr(name.size() + 2) : change.reason) + ")";
  }
  if (change.member.role == "server") {
    failures_.push_back({training_time(), name, how});
    if (!fatal_) fatal_ = Error{Code::kUnavailable, "shard server '" + name + "' " + how};
  } else if (was_alive) {
    worker_lost(name, how, Code::kUnavailable);
  }
}

void Chief::worker_lost(const std::string& name, const std::string& how, Code code) {
  failures_.push_back({training_time(), name, how});
  if (coordinator_->alive() > 0 && training_) {
    news_.push_back("worker '" + name + "' " + how + "; the others go on with its batches");
  } else if (!fatal_) {
    fatal_ = Error{code, "worker '" + name + "' " + how + (training_ ? "; no worker is left" : "")};
  }
}

void Chief::take_failures(Duration age) {
  for (const auto& [name, failure] : coordinator_->take_failures(age))
    worker_lost(name, "failed: " + failure.message, failure.code);
}

Result<void> Chief::check() const {
  if (interrupted_) return Error{Code::kCancelled, "interrupted"};
  if (fatal_) return *fatal_;
  return {};
}

Error Chief::cause_of(const Error& error) {
  if (interrupted_) return Error{Code::kCancelled, "interrupted"};
  if (!node_) return error;
  // What is not possible without a server fails a moment before or after its death becomes known.
  if (error.code == Code::kUnavailable || error.code == Code::kNotFound || error.code == Code::kCancelled)
    node_->loop().wait_until([&] { return fatal_.has_value(); }, node_->loop().clock().now() + kNewsDelay);
  Loop::Turn turn(node_->loop());
  if (auto ok = check(); !ok) return ok.error();
  return error;
}

Result<void> Chief::drive(const std::string& phase, std::chrono::duration<double> at_most) {
  Loop& loop = node_->loop();
  const auto start = SteadyClock::now();
  {
    Loop::Turn turn(loop);
    phase_seconds_ = 0;
    time_limit_seconds_ = at_most < kLong ? at_most.count() : 0;
    if (coordinator_->queue_is_training())
      for (const auto& [name, worker] : coordinator_->workers())
        rates_[name].add(training_time(), worker.examples);
  }
  for (bool finished = false; !finished;) {
    loop.wait_until([&] { return coordinator_->queue().finished() || fatal_ || interrupted_; },
                    loop.clock().now() + kFrame);
    std::vector<std::string> news;
    ProgressView frame;
    {
      Loop::Turn turn(loop);
      take_failures(kNewsDelay);
      if (auto ok = check(); !ok) return ok;
      const auto now = SteadyClock::now();
      if (now - start > at_most) coordinator_->queue().cut_short();
      finished = coordinator_->queue().finished();
      coordinator_->tick();
      ask_servers();
      phase_seconds_ = std::chrono::duration<double>(now - start).count();
      if (coordinator_->queue_is_training()) sample();
      news = std::exchange(news_, {});
      frame = view(phase);
    }
    for (const std::string& line : news) progress_.message(line);
    progress_.show(frame);
  }
  return {};
}

void Chief::sample() {
  const double at = train_seconds_ + phase_seconds_;
  const bool keep = at - sampled_at_ >= kSampleSeconds;
  for (const auto& [name, worker] : coordinator_->workers()) {
    RateWindow& rate = rates_[name];
    rate.add(at, worker.examples);
    if (keep) throughput_[name].push_back({at, worker.alive ? rate.per_second() : 0});
  }
  if (keep) sampled_at_ = at;
  if (keep) add_loss(at);
  double sum = 0, pushes = 0;
  for (const auto& [server, stats] : table_stats_) {
    sum += static_cast<double>(stats.staleness_sum);
    pushes += static_cast<double>(stats.pushes);
  }
  if (pushes > staleness_before_.second) {
    staleness_mean_ = (sum - staleness_before_.first) / (pushes - staleness_before_.second);
    staleness_before_ = {sum, pushes};
  }
}

void Chief::add_loss(double at) {
  const std::uint64_t examples = coordinator_->examples();
  if (examples < loss_before_.second) loss_before_ = {0, 0};  // another epoch
  if (examples == loss_before_.second) return;
  report_.loss.push_back({at, (coordinator_->loss_sum() - loss_before_.first) /
                                  static_cast<double>(examples - loss_before_.second)});
  loss_before_ = {coordinator_->loss_sum(), examples};
}

void Chief::ask_servers() {
  const std::string first = (*tables_)[0].spec().name;
  for (const std::string& name : servers_) {
    if (std::exchange(asked_[name], true)) continue;
    node_->rpc_async<std::vector<TableStats>>(name, "stats")
        .then([this, name, first](Result<std::vector<TableStats>> stats) {
          asked_[name] = false;
          if (!stats) return;  // its death is told elsewhere
          for (TableStats& table : *stats)
            if (table.table == first) table_stats_[name] = std::move(table);
        });
  }
}

Result<std::vector<TableStats>> Chief::table_stats(const std::string& table) {
  std::vector<TableStats> found;
  for (const std::string& server : servers_) {
    auto stats = node_->rpc_sync<std::vector<TableStats>>(server, "stats");
    if (!stats) return stats.error();
    for (TableStats& each : *stats)
      if (each.table == table) found.push_back(std::move(each));
  }
  return found;
}

JobMetrics Chief::job_metrics() const {
  JobMetrics all;
  for (const Member& member : node_->membership().members) {
    if (member.role != "worker" && member.role != "server") continue;
    if (auto metrics = node_->metrics().of(member.name, kMetricsPatience))
      all.emplace(member.name, std::move(*metrics));
  }
  return all;
}

ProgressView Chief::view(const std::string& phase) const {
  ProgressView frame;
  frame.phase = phase;
  frame.examples = report_.words.examples;
  const WorkQueue& queue = coordinator_->queue();
  if (queue.pieces() > 0)
    frame.fraction = static_cast<double>(queue.pieces_done()) / static_cast<double>(queue.pieces());
  const bool training = coordinator_->queue_is_training();
  const double seconds = phase_seconds_;
  if (time_limit_seconds_ > 0)
    frame.fraction = std::min(1.0, std::max(frame.fraction, seconds / time_limit_seconds_));
  frame.seconds_left = seconds_left(frame.fraction);
  frame.valid = valid_;
  if (!training) return frame;
  if (coordinator_->examples() > 0)
    frame.loss = coordinator_->loss_sum() / static_cast<double>(coordinator_->examples());
  for (const auto& [name, worker] : coordinator_->workers()) {
    const auto rate = rates_.find(name);
    frame.workers.push_back({name, worker.speed, worker.alive,
                             rate == rates_.end() || !worker.alive ? 0 : rate->second.per_second()});
  }
  frame.staleness_mean = staleness_mean_;
  return frame;
}

double Chief::seconds_left(double fraction) const {
  const WorkQueue& queue = coordinator_->queue();
  const bool test = queue.kind() == WorkKind::kEvaluate && epochs_done_ >= settings_.epochs;
  if (queue.tables() != TableSet::kOwn) return -1;  // a few seconds
  if (test) return fraction > 0.1 ? phase_seconds_ * (1 / fraction - 1) : -1;
  const double testing = seconds_per_example_ * static_cast<double>(task_->evaluation_size(Split::kTest));
  const double after = 2 * settings_.compare_seconds + testing;
  const double to_do = static_cast<double>(settings_.epochs - (first_epoch_ - 1));
  const double here =
      std::chrono::duration<double>(SteadyClock::now() - begun_at_).count();  // all epochs of this process
  if (seconds_per_epoch_ > 0) return std::max(0.0, seconds_per_epoch_ * to_do - here) + after;
  if (fraction < 0.05 || queue.kind() != WorkKind::kTrain) return -1;
  return std::max(0.0, phase_seconds_ / fraction * to_do - here) + after;
}

}  // namespace troupe::training
