#include "communicators/work.hpp"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

namespace troupe::shards {

namespace {

using Steady = std::chrono::steady_clock;

// Whoever waits for a GPU asks again at once for so long, which is when being told would cost more than what
// is waited for; then every so often.
constexpr auto kAskAtOnce = std::chrono::milliseconds(10);
constexpr auto kAskEvery = std::chrono::microseconds(100);

}  // namespace

std::optional<Result<void>> Work::State::result() const {
  const std::lock_guard lock(mutex_);
  return result_;
}

bool Work::State::done() {
  return result().has_value() || seen();
}

void Work::State::look_until(std::optional<Steady::time_point> due) {
  const auto begin = Steady::now();
  for (auto now = begin; !result() && (!due || now < *due); now = Steady::now()) {
    look();
    if (now - begin < kAskAtOnce) {
      std::this_thread::yield();
      continue;
    }
    std::unique_lock lock(mutex_);
    ended_.wait_for(lock, kAskEvery, [&] { return result_.has_value(); });
  }
}

Result<void> Work::State::wait(std::optional<Duration> timeout) {
  std::optional<Steady::time_point> due;
  if (timeout) due = Steady::now() + std::min<Duration>(*timeout, std::chrono::hours(24 * 365));
  if (visible()) look_until(due);
  std::unique_lock lock(mutex_);
  const auto there = [&] { return result_.has_value(); };
  if (!due) {
    ended_.wait(lock, there);
  } else if (!ended_.wait_until(lock, *due, there)) {
    return Error{Code::kDeadlineExceeded, "the collective has not ended yet; it goes on"};
  }
  return *result_;
}

Result<void> Work::State::before(const Stream&) {
  return wait(std::nullopt);
}

void Work::State::then(UniqueFunction<void(const Result<void>&)> told) {
  {
    const std::lock_guard lock(mutex_);
    if (!told_all_) return told_.push_back(std::move(told));
  }
  told(*result_);  // never changes again
}

void Work::State::finish(Result<void> ended) {
  std::vector<UniqueFunction<void(const Result<void>&)>> told;
  std::unique_lock lock(mutex_);
  if (result_) return;
  result_ = std::move(ended);
  ended_.notify_all();
  while (!told_.empty()) {
    told.swap(told_);
    lock.unlock();
    for (auto& each : told) each(*result_);
    told.clear();
    lock.lock();
  }
  told_all_ = true;
}

bool Work::done() const {
  return state_->done();
}

Result<void> Work::wait() const {
  return state_->wait(std::nullopt);
}

Result<void> Work::wait(Duration timeout) const {
  return state_->wait(timeout);
}

Result<void> Work::before(const Stream& stream) const {
  return state_->before(stream);
}

void Work::then(UniqueFunction<void(const Result<void>&)> told) const {
  state_->then(std::move(told));
}

Work ended_work(Result<void> result) {
  auto state = std::make_shared<Work::State>();
  state->finish(std::move(result));
  return Work(std::move(state));
}

Work Communicator::send(Tensor tensor, int to, std::uint32_t tag) {
  return transfer({{Transfer::Kind::kSend, std::move(tensor), to, tag}});
}

Work Communicator::receive(Tensor tensor, int from, std::uint32_t tag) {
  return transfer({{Transfer::Kind::kReceive, std::move(tensor), from, tag}});
}

std::string_view to_string(ReduceOp op) {
  switch (op) {
    case ReduceOp::kSum:
      return "sum";
    case ReduceOp::kMean:
      return "mean";
    case ReduceOp::kProduct:
      return "product";
    case ReduceOp::kMin:
      return "min";
    case ReduceOp::kMax:
      return "max";
  }
  return "unknown";
}

}  // namespace troupe::shards
