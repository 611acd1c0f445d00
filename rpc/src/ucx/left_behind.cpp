#include "ucx/left_behind.hpp"

#include <utility>

#include "ucx/worker.hpp"

namespace troupe::rpc {

LeftBehind& LeftBehind::all() {
  static auto* const instance = new LeftBehind;
  return *instance;
}

void LeftBehind::add(std::unique_ptr<UcxWorker> worker) {
  look_after();
  const std::lock_guard lock(mutex_);
  workers_.push_back(std::move(worker));
}

void LeftBehind::look_after() {
  std::vector<std::unique_ptr<UcxWorker>> workers;
  {
    const std::lock_guard lock(mutex_);
    workers.swap(workers_);
  }
  // Not under the lock: buffers are dropped here, which runs their owners' code.
  std::erase_if(workers, [](const auto& worker) {
    worker->look_after();
    return worker->can_end();
  });
  const std::lock_guard lock(mutex_);
  for (auto& worker : workers) workers_.push_back(std::move(worker));
}

std::size_t LeftBehind::count() const {
  const std::lock_guard lock(mutex_);
  return workers_.size();
}

}  // namespace troupe::rpc
