#include "ucx/parked_workers.hpp"

#include <algorithm>
#include <utility>

#include "ucx/worker.hpp"

namespace troupe::rpc {

ParkedWorkers& ParkedWorkers::all() {
  static auto* const instance = new ParkedWorkers;
  return *instance;
}

void ParkedWorkers::park(std::unique_ptr<UcxWorker> worker) {
  const std::lock_guard lock(mutex_);
  workers_.push_back(std::move(worker));
}

std::unique_ptr<UcxWorker> ParkedWorkers::take(const TransportOptions& options) {
  const std::lock_guard lock(mutex_);
  const auto fits = [&](const auto& worker) { return worker->options() == options; };
  if (std::count_if(workers_.begin(), workers_.end(), fits) < kMostKept) return nullptr;
  const auto found = std::find_if(workers_.begin(), workers_.end(), fits);  // the one kept longest
  auto worker = std::move(*found);
  workers_.erase(found);
  return worker;
}

std::size_t ParkedWorkers::count() const {
  const std::lock_guard lock(mutex_);
  return workers_.size();
}

}  // namespace troupe::rpc
