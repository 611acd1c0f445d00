#include "row_history.hpp"

#include <algorithm>

namespace troupe::shards {
namespace {

template <class T>
void make_room(std::vector<T>& values, std::size_t more) {
  const std::size_t needed = values.size() + more;
  if (needed > values.capacity()) values.reserve(std::max(needed, 2 * values.capacity()));
}

}  // namespace

void RowHistory::note(std::uint64_t version, const RowKeys& keys, const float* weights) {
  if (kept_.empty() || kept_.back().version != version) {
    // The last one is that of a push that is to come; before it, `pushes_` that have been.
    while (kept_.size() > pushes_) drop_oldest();
    kept_.push_back({.version = version, .runs = {}, .keys = {}, .older = {}, .weights = {}});
  }
  Push& push = kept_.back();
  make_room(push.weights, keys.size() * dim_);
  const std::uint64_t before = bytes_of(push);
  if (keys.in_ranges()) {
    note_ranges(push, keys, weights);
  } else {
    const std::uint64_t number = first_ + kept_.size() - 1;
    make_room(push.keys, keys.size());
    make_room(push.older, keys.size());
    for (const std::uint64_t key : keys.list()) {
      Place& newest = newest_[key];
      push.older.push_back(newest);
      newest = {number, push.keys.size()};
      push.keys.push_back(key);
      push.weights.insert(push.weights.end(), weights, weights + dim_);
      weights += dim_;
    }
  }
  bytes_ += bytes_of(push) - before;
}

/// What a push that failed has left of this version is forgotten where it is in the way: nothing has changed
/// those rows.
void RowHistory::note_ranges(Push& push, const RowKeys& keys, const float* weights) {
  std::uint64_t at = push.weights.size() / dim_;
  push.weights.insert(push.weights.end(), weights, weights + keys.size() * dim_);  // there is room
  keys.for_each_range([&](const RowRange& range) {
    std::vector<Run>& runs = push.runs;
    if (!runs.empty() && runs.back().rows.end == range.begin &&
        runs.back().at + runs.back().rows.size() == at) {
      runs.back().rows.end = range.end;
    } else {
      const bool first = runs.empty();
      if (!first && range.begin < runs.back().rows.end) runs.clear();
      runs.push_back({range, at});
      if (first) ++in_runs_;
    }
    at += range.size();
  });
}

const float* RowHistory::at(std::uint64_t key, std::uint64_t version) const {
  const Found by_key = newest_.empty() ? Found() : find_by_key(key, version);
  const Found in_runs = in_runs_ == 0 ? Found() : find_in_runs(key, version);
  return (by_key.version < in_runs.version ? by_key : in_runs).row;
}

RowHistory::Found RowHistory::find_by_key(std::uint64_t key, std::uint64_t version) const {
  const auto newest = newest_.find(key);
  if (newest == newest_.end()) return {};
  Found found;
  Place place = newest->second;
  for (const Push* push = find(place.push); push != nullptr && push->version > version;
       push = find(place.push)) {
    found = {push->weights.data() + place.row * dim_, push->version};
    place = push->older[place.row];
  }
  return found;
}

/// A look at each push since: there are few of them.
RowHistory::Found RowHistory::find_in_runs(std::uint64_t row, std::uint64_t version) const {
  auto push = std::partition_point(kept_.begin(), kept_.end(),
                                   [version](const Push& each) { return each.version <= version; });
  for (; push != kept_.end(); ++push) {
    const auto run = std::partition_point(push->runs.begin(), push->runs.end(),
                                          [row](const Run& each) { return each.rows.end <= row; });
    if (run == push->runs.end() || row < run->rows.begin) continue;
    return {push->weights.data() + (run->at + row - run->rows.begin) * dim_, push->version};
  }
  return {};
}

void RowHistory::drop_oldest() {
  const Push& oldest = kept_.front();
  for (const std::uint64_t key : oldest.keys) {
    const auto newest = newest_.find(key);
    if (newest != newest_.end() && newest->second.push == first_) newest_.erase(newest);
  }
  if (!oldest.runs.empty()) --in_runs_;
  bytes_ -= bytes_of(oldest);
  kept_.pop_front();
  ++first_;
}

}  // namespace troupe::shards
