#include "disk_thread.hpp"

#include <pthread.h>
#include <signal.h>

#include <new>
#include <utility>

namespace troupe {

DiskThread::~DiskThread() {
  if (process_.left()) {  // a fork's child: the thread is not here to be waited for
    if (thread_.joinable()) thread_.detach();
    new (&changed_) std::condition_variable;
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
    tasks_.clear();
  }
  changed_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void DiskThread::post(Task task) {
  std::unique_lock lock(mutex_);
  if (!thread_.joinable()) {
    // Signals are for the program's own threads.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    auto started = start_thread([this] { run(); });
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (!started) {
      lock.unlock();
      return task();
    }
    thread_ = std::move(*started);
  }
  tasks_.push_back(std::move(task));
  lock.unlock();
  changed_.notify_one();
}

void DiskThread::run() {
  for (;;) {
    Task task;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return ending_ || !tasks_.empty(); });
      if (ending_) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    task();
  }
}

}  // namespace troupe
