#include "table_work.hpp"

#include <cassert>
#include <deque>
#include <utility>

namespace troupe {

struct TableWork::State {
  explicit State(Loop& own_loop) : loop(own_loop) {}
  Loop& loop;
  std::deque<Job> jobs;  // the first has begun, if one has
  bool begun = false;
  bool held = false;
  bool running = false;    // a piece, which may add to this
  bool scheduled = false;  // go_on() will run
  bool dropped = false;
  UniqueFunction<void()> settled;
};

TableWork::TableWork(Loop& loop) : state_(std::make_shared<State>(loop)) {}

TableWork::~TableWork() {
  state_->dropped = true;
  // Who waits for them may do anything when they go: nothing of this is used then.
  const auto jobs = std::move(state_->jobs);
  state_->jobs.clear();
}

bool TableWork::free() const {
  return state_->jobs.empty() && !state_->held && !state_->running;
}

void TableWork::add(Job job) {
  const bool now = free();
  state_->jobs.push_back(std::move(job));
  if (now) {
    go_on(state_);
  } else if (!state_->running && !state_->held) {
    schedule(state_);
  }
}

void TableWork::next(Job job) {
  if (!state_->running) return add(std::move(job));
  state_->jobs.insert(state_->jobs.begin() + 1, std::move(job));
}

void TableWork::hold(UniqueFunction<void()> settled) {
  assert(!state_->held);
  state_->held = true;
  if (!state_->begun && !state_->running) return settled();
  state_->settled = std::move(settled);
}

void TableWork::let_go() {
  state_->held = false;
  state_->settled = nullptr;
  schedule(state_);
}

void TableWork::schedule(const std::shared_ptr<State>& state) {
  if (state->jobs.empty() || std::exchange(state->scheduled, true)) return;
  state->loop.post([of = std::weak_ptr(state)] {
    const auto alive = of.lock();
    if (!alive) return;
    alive->scheduled = false;
    if (!alive->dropped) go_on(alive);
  });
}

/// One that throws is over; whoever waits for it hears that it was dropped.
bool TableWork::run(Loop& loop, Job& job) {
  try {
    return job();
  } catch (...) {
    loop.report_exception("work on a table");
    return true;
  }
}

/// One piece of the first job. Holds the state: the job may end this.
// NOLINTNEXTLINE(performance-unnecessary-value-param): the caller's may go
void TableWork::go_on(std::shared_ptr<State> state) {
  if (state->running || state->jobs.empty() || (state->held && !state->begun)) return;
  Job job = std::move(state->jobs.front());
  state->begun = true;
  state->running = true;
  const bool over = run(state->loop, job);
  state->running = false;
  if (state->dropped) return;
  if (over) {
    state->jobs.pop_front();
    state->begun = false;
    if (auto settled = std::exchange(state->settled, nullptr)) settled();
    if (state->dropped) return;
  } else {
    state->jobs.front() = std::move(job);
  }
  schedule(state);
}

}  // namespace troupe
