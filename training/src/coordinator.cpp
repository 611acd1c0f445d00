#include "coordinator.hpp"

#include <algorithm>
#include <utility>

namespace troupe::training {

void Coordinator::methods(rpc::Methods<Coordinator>& methods) {
  methods.add("settings", &Coordinator::settings)
      .add("hello", &Coordinator::hello)
      .add("next", &Coordinator::next)
      .add("failed", &Coordinator::failed)
      .add("farewell", &Coordinator::farewell);
}

Result<void> Coordinator::hello(const std::string& worker, double speed) {
  WorkerRecord& record = workers_[worker];
  record.speed = speed;
  record.alive = true;
  return {};
}

rpc::Future<Work> Coordinator::next(const std::string& worker, const WorkDone& done) {
  record(worker, done);
  rpc::Promise<Work> promise(loop_);
  auto future = promise.future();
  Work work;
  if (finishing_) {
    work.kind = WorkKind::kFinish;
    promise.set(work);
  } else if (auto piece = queue_.take(worker)) {
    promise.set(*piece);
  } else if (done.work.kind != WorkKind::kWait) {
    promise.set(work);  // kWait: the worker lets go of what it holds before it waits
  } else {
    waiters_.push_back({worker, loop_.clock().now(), std::move(promise)});
  }
  return future;
}

void Coordinator::record(const std::string& worker, const WorkDone& done) {
  if (done.work.kind == WorkKind::kWait || !queue_.done(worker, done.work)) return;
  loss_sum_ += done.loss_sum;
  examples_ += done.examples;
  if (sums_.size() < done.sums.size()) sums_.resize(done.sums.size());
  for (std::size_t i = 0; i < done.sums.size(); ++i) sums_[i] += done.sums[i];
  WorkerRecord& record = workers_[worker];
  record.phase_examples += done.examples;
  if (done.work.kind != WorkKind::kTrain || done.work.tables != TableSet::kOwn) return;
  ++record.batches;
  record.examples += done.examples;
  record.dropped += done.dropped;
}

Result<void> Coordinator::failed(const std::string& worker, const WorkerFailure& failure) {
  failures_.push_back({worker, failure, loop_.clock().now()});
  workers_.try_emplace(worker);
  worker_gone(worker);
  return {};
}

std::vector<std::pair<std::string, WorkerFailure>> Coordinator::take_failures(Duration age) {
  const TimePoint now = loop_.clock().now();
  std::vector<std::pair<std::string, WorkerFailure>> taken;
  while (!failures_.empty() && now - failures_.front().at >= age) {
    taken.emplace_back(std::move(failures_.front().worker), std::move(failures_.front().failure));
    failures_.erase(failures_.begin());
  }
  return taken;
}

Result<void> Coordinator::farewell(const std::string&,
                                   const std::map<std::string, std::vector<std::uint64_t>>& latencies) {
  for (const auto& [method, words] : latencies) {
    auto histogram = Histogram::deserialise(words);
    if (!histogram) return histogram.error();
    latencies_[method].merge(*histogram);
  }
  ++farewells_;
  return {};
}

void Coordinator::phase_began() {
  loss_sum_ = 0;
  examples_ = 0;
  sums_.clear();
  for (auto& [name, record] : workers_) record.phase_examples = 0;
  serve_waiters();
}

void Coordinator::serve_waiters() {
  std::vector<Waiter> still;
  for (Waiter& waiter : std::exchange(waiters_, {})) {
    Work finish;
    finish.kind = WorkKind::kFinish;
    if (finishing_)
      waiter.promise.set(finish);
    else if (auto piece = queue_.take(waiter.worker))
      waiter.promise.set(*piece);
    else
      still.push_back(std::move(waiter));
  }
  waiters_ = std::move(still);
}

void Coordinator::finish() {
  finishing_ = true;
  serve_waiters();
}

void Coordinator::worker_gone(const std::string& worker) {
  const auto found = workers_.find(worker);
  if (found != workers_.end()) found->second.alive = false;
  std::vector<Waiter> still;
  for (Waiter& waiter : std::exchange(waiters_, {}))
    if (waiter.worker != worker) still.push_back(std::move(waiter));
  waiters_ = std::move(still);
  if (queue_.lost(worker) > 0) serve_waiters();
}

void Coordinator::tick() {
  const TimePoint now = loop_.clock().now();
  std::vector<Waiter> still;
  for (Waiter& waiter : std::exchange(waiters_, {})) {
    if (now - waiter.since > kPatience)
      waiter.promise.set(Work{});
    else
      still.push_back(std::move(waiter));
  }
  waiters_ = std::move(still);
}

std::size_t Coordinator::alive() const {
  return static_cast<std::size_t>(
      std::count_if(workers_.begin(), workers_.end(), [](const auto& entry) { return entry.second.alive; }));
}

}  // namespace troupe::training
