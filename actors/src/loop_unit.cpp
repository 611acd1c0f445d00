#include "loop_unit.hpp"

#include <utility>

namespace troupe {

namespace {
/// Messages an actor handles in one go before the loop does something else.
constexpr std::size_t kThroughput = 64;
}  // namespace

LoopUnit::~LoopUnit() {
  close();
  for (caf::resumable* job : std::exchange(ready_, {})) caf::intrusive_ptr_release(job);
}

void LoopUnit::exec_later(caf::resumable* job) {
  if (loop_.in_turn()) {
    ready_.push_back(job);
    wake();
    return;
  }
  {
    // Posted with the lock held: after close() nobody is on the way to the loop any more.
    std::lock_guard lock(foreign_mutex_);
    if (!closed_) {
      foreign_.push_back(job);
      if (!std::exchange(foreign_posted_, true)) post_foreign();
      return;
    }
  }
  caf::intrusive_ptr_release(job);
}

void LoopUnit::post_foreign() {
  loop_.post([this] {
    std::vector<caf::resumable*> jobs;
    {
      std::lock_guard lock(foreign_mutex_);
      jobs.swap(foreign_);
      foreign_posted_ = false;
    }
    ready_.insert(ready_.end(), jobs.begin(), jobs.end());
    run();
  });
}

void LoopUnit::close() {
  std::vector<caf::resumable*> jobs;
  {
    std::lock_guard lock(foreign_mutex_);
    closed_ = true;
    jobs.swap(foreign_);
  }
  for (caf::resumable* job : jobs) caf::intrusive_ptr_release(job);
}

void LoopUnit::wake() {
  // For jobs that nobody runs at once: a message sent from inside a handler or a timer.
  if (std::exchange(wake_scheduled_, true)) return;
  loop_.defer([this] {
    wake_scheduled_ = false;
    run();
  });
}

void LoopUnit::run() {
  for (std::size_t count = ready_.size(); count > 0 && !ready_.empty(); --count) {
    caf::resumable* job = ready_.front();
    ready_.pop_front();
    switch (job->resume(this, kThroughput)) {
      case caf::resumable::resume_later:
        ready_.push_back(job);
        wake();
        break;
      case caf::resumable::done:
      case caf::resumable::awaiting_message:
      case caf::resumable::shutdown_execution_unit:
        caf::intrusive_ptr_release(job);
    }
  }
}

}  // namespace troupe
