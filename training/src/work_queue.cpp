#include "work_queue.hpp"

#include <algorithm>
#include <cassert>

namespace troupe::training {

void WorkQueue::begin_training(std::uint64_t epoch, std::uint64_t batches, TableSet tables) {
  assert(finished());
  first_ = Work{};
  first_.kind = WorkKind::kTrain;
  first_.tables = tables;
  first_.epoch = epoch;
  count_ = batches;
  next_ = done_ = 0;
}

void WorkQueue::begin_evaluation(std::uint64_t epoch, Split split, std::uint64_t examples,
                                 std::uint64_t chunk) {
  assert(finished() && chunk > 0);
  first_ = Work{};
  first_.kind = WorkKind::kEvaluate;
  first_.epoch = epoch;
  first_.split = split;
  total_ = examples;
  chunk_ = chunk;
  count_ = (examples + chunk - 1) / chunk;
  next_ = done_ = 0;
}

void WorkQueue::cut_short() {
  next_ = count_;
  returned_.clear();
}

Work WorkQueue::piece(std::uint64_t number) const {
  Work work = first_;
  work.index = number;
  if (work.kind == WorkKind::kEvaluate) {
    work.index = number * chunk_;
    work.end = std::min(total_, work.index + chunk_);
  }
  return work;
}

std::optional<Work> WorkQueue::take(const std::string& worker) {
  Work work;
  if (!returned_.empty()) {
    work = returned_.front();
    returned_.pop_front();
  } else if (next_ < count_) {
    work = piece(next_++);
  } else {
    return std::nullopt;
  }
  under_way_.emplace(worker, work);
  return work;
}

bool WorkQueue::done(const std::string& worker, const Work& work) {
  const auto [begin, end] = under_way_.equal_range(worker);
  const auto found = std::find_if(begin, end, [&](const auto& entry) { return entry.second == work; });
  if (found == end) return false;
  under_way_.erase(found);
  ++done_;
  return true;
}

std::size_t WorkQueue::lost(const std::string& worker) {
  const auto [begin, end] = under_way_.equal_range(worker);
  std::size_t count = 0;
  for (auto entry = begin; entry != end; ++entry, ++count) returned_.push_back(entry->second);
  under_way_.erase(begin, end);
  return count;
}

}  // namespace troupe::training
