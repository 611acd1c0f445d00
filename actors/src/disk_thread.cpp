#include "disk_thread.hpp"

#include <pthread.h>
#include <signal.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <new>
#include <thread>
#include <utility>

namespace troupe {

struct DiskThread::State {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<Task> tasks;
  bool ending = false;
  bool ended = false;
  std::thread thread;
};

DiskThread::DiskThread() : state_(std::make_shared<State>()) {}

DiskThread::~DiskThread() {
  State& state = *state_;
  if (process_.left()) {  // a fork's child: the thread is not here to be waited for
    if (state.thread.joinable()) state.thread.detach();
    new (&state.changed) std::condition_variable;
    return;
  }
  std::unique_lock lock(state.mutex);
  state.ending = true;
  const auto dropped = std::exchange(state.tasks, {});
  if (!state.thread.joinable()) return;
  state.changed.notify_all();
  const bool ended = state.changed.wait_for(lock, kPatience, [&] { return state.ended; });
  lock.unlock();
  if (ended) {
    state.thread.join();
  } else {
    state.thread.detach();
  }
}

void DiskThread::post(Task task) {
  State& state = *state_;
  std::unique_lock lock(state.mutex);
  if (!state.thread.joinable()) {
    // Signals are for the program's own threads.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    auto started = start_thread([own = state_] { run(*own); });
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (!started) {
      lock.unlock();
      return task();
    }
    state.thread = std::move(*started);
  }
  state.tasks.push_back(std::move(task));
  lock.unlock();
  state.changed.notify_all();
}

void DiskThread::run(State& state) {
  std::unique_lock lock(state.mutex);
  for (;;) {
    state.changed.wait(lock, [&] { return state.ending || !state.tasks.empty(); });
    if (state.ending) break;
    {
      Task task = std::move(state.tasks.front());
      state.tasks.pop_front();
      lock.unlock();
      task();
    }
    lock.lock();
  }
  state.ended = true;
  state.changed.notify_all();
}

}  // namespace troupe
