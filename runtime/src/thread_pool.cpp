#include <troupe/runtime/thread_pool.hpp>

#include <cassert>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include <troupe/runtime/process.hpp>

namespace troupe {

struct ThreadPool::Shared {
  explicit Shared(Limits wanted) : limits(wanted) {}

  /// What each thread does.
  void serve(std::size_t index) {
    std::unique_lock lock(mutex);
    for (;;) {
      ++idle;
      wake.wait(lock, [&] { return closed || !tasks.empty(); });
      --idle;
      if (tasks.empty()) break;
      {
        Task task = std::move(tasks.front());
        tasks.pop_front();
        lock.unlock();
        task();
      }  // what it owns goes before anybody hears that it is done
      lock.lock();
    }
    at_work[index] = false;
    ended.notify_all();
  }

  const Limits limits;
  mutable std::mutex mutex;
  std::condition_variable wake;   // there is a task, or it is closed
  std::condition_variable ended;  // a thread has
  std::deque<Task> tasks;
  std::vector<std::thread> threads;
  std::vector<bool> at_work;  // of each thread that was ever started: it has not ended
  std::size_t idle = 0;
  bool closed = false;
};

ThreadPool::ThreadPool(Limits limits) : shared_(std::make_shared<Shared>(limits)) {
  assert(limits.threads > 0);
}

ThreadPool::~ThreadPool() {
  close(Duration::max());
}

Result<void> ThreadPool::run(Task& task) {
  Shared& pool = *shared_;
  std::unique_lock lock(pool.mutex);
  if (pool.closed) return Error{Code::kCancelled, "the pool is closed"};
  const bool all_there = pool.threads.size() == pool.limits.threads;
  if (all_there && pool.tasks.size() >= pool.limits.waiting + pool.idle)
    return Error{Code::kResourceExhausted, "all " + std::to_string(pool.limits.threads) +
                                               " threads of the pool work, and " +
                                               std::to_string(pool.tasks.size()) + " tasks wait already"};
  if (pool.tasks.size() >= pool.idle && !all_there) {
    pool.at_work.push_back(true);
    auto thread = start_thread([shared = shared_, index = pool.threads.size()] { shared->serve(index); });
    if (thread) {
      pool.threads.push_back(std::move(*thread));
    } else {
      pool.at_work.pop_back();
      if (pool.threads.empty()) return thread.error();
    }
  }
  pool.tasks.push_back(std::move(task));
  // Without the lock: whoever wakes on this core would at once wait for it, and this thread be woken in turn.
  lock.unlock();
  pool.wake.notify_one();
  return {};
}

std::size_t ThreadPool::waiting() const {
  const std::lock_guard lock(shared_->mutex);
  return shared_->tasks.size();
}

ThreadPool::Left ThreadPool::close(Duration patience) {
  Left left;
  std::vector<std::thread> over;
  {
    Shared& pool = *shared_;
    std::unique_lock lock(pool.mutex);
    pool.closed = true;
    for (Task& task : pool.tasks) left.tasks.push_back(std::move(task));
    pool.tasks.clear();
    pool.wake.notify_all();
    const auto all_ended = [&] {
      for (std::size_t i = 0; i < pool.threads.size(); ++i)
        if (pool.at_work[i]) return false;
      return true;
    };
    if (patience == Duration::max())
      pool.ended.wait(lock, all_ended);
    else
      pool.ended.wait_for(lock, patience, all_ended);
    for (std::size_t i = 0; i < pool.threads.size(); ++i) {
      if (pool.at_work[i]) {
        ++left.threads;
        pool.threads[i].detach();
      } else {
        over.push_back(std::move(pool.threads[i]));
      }
    }
    pool.threads.clear();
  }
  for (std::thread& thread : over) thread.join();
  return left;
}

}  // namespace troupe
