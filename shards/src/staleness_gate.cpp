#include <troupe/shards/staleness_gate.hpp>

#include <string>
#include <utility>
#include <vector>

#include <troupe/runtime/raised.hpp>

namespace troupe::shards {
namespace {

Error not_taking_part(std::uint64_t worker) {
  return {Code::kNotFound,
          "worker " + std::to_string(worker) + " takes no part in this staleness gate: join first"};
}

}  // namespace

Result<void> StalenessGate::join(std::uint64_t worker, std::uint64_t clock) {
  if (!clocks_.emplace(worker, clock).second) {
    return Error{Code::kAlreadyExists,
                 "worker " + std::to_string(worker) + " takes part in this staleness gate already"};
  }
  ordered_.insert(clock);
  return {};
}

Result<void> StalenessGate::advance(std::uint64_t worker, std::uint64_t clock) {
  if (!clocks_.contains(worker)) return not_taking_part(worker);
  set_clock(worker, clock);
  release();
  return {};
}

bool StalenessGate::leave(std::uint64_t worker) {
  const auto found = clocks_.find(worker);
  if (found == clocks_.end()) return false;
  ordered_.erase(ordered_.find(found->second));
  clocks_.erase(found);
  // What a waiter owns may call back into the gate as it goes, so it goes last.
  std::vector<Waiter> dropped;
  for (auto waiter = waiters_.begin(); waiter != waiters_.end();) {
    if (waiter->second.worker == worker) {
      dropped.push_back(std::move(waiter->second));
      waiter = waiters_.erase(waiter);
    } else {
      ++waiter;
    }
  }
  release();
  return true;
}

void StalenessGate::close() {
  clocks_.clear();
  ordered_.clear();
  const auto dropped = std::exchange(waiters_, {});  // last, as in leave()
}

bool StalenessGate::may_proceed(std::uint64_t clock) const {
  if (ordered_.empty()) return true;
  const std::uint64_t minimum = *ordered_.begin();
  return clock <= minimum || clock - minimum <= bound_;
}

Result<void> StalenessGate::wait(std::uint64_t worker, std::uint64_t clock, UniqueFunction<void()> resume) {
  if (!clocks_.contains(worker)) return not_taking_part(worker);
  set_clock(worker, clock);
  if (!may_proceed(clock)) ++deferred_;
  waiters_.emplace(WaiterKey{clock, arrivals_++}, Waiter{worker, std::move(resume)});
  release();
  return {};
}

void StalenessGate::set_clock(std::uint64_t worker, std::uint64_t clock) {
  std::uint64_t& present = clocks_.at(worker);
  if (clock <= present) return;
  ordered_.erase(ordered_.find(present));
  ordered_.insert(clock);
  present = clock;
}

// A resumed function may call the gate again; the outermost release() then finds what it freed. One that
// throws leaves the others waiting for the next release().
void StalenessGate::release() {
  if (releasing_) return;
  const Raised releasing(releasing_);
  while (!waiters_.empty() && may_proceed(waiters_.begin()->first.clock)) {
    auto node = waiters_.extract(waiters_.begin());
    node.mapped().resume();
  }
}

}  // namespace troupe::shards
