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

void RowHistory::note(std::uint64_t version, std::span<const std::uint64_t> keys, const float* weights) {
  if (kept_.empty() || kept_.back().version != version) {
    // The last one is that of a push that is to come; before it, `pushes_` that have been.
    while (kept_.size() > pushes_) drop_oldest();
    kept_.push_back({.version = version, .keys = {}, .older = {}, .weights = {}});
  }
  Push& push = kept_.back();
  const std::uint64_t number = first_ + kept_.size() - 1;
  make_room(push.keys, keys.size());
  make_room(push.older, keys.size());
  make_room(push.weights, keys.size() * dim_);
  const std::uint64_t before = bytes_of(push);
  for (std::size_t i = 0; i < keys.size(); ++i) {
    Place& newest = newest_[keys[i]];
    push.older.push_back(newest);
    newest = {number, push.keys.size()};
    push.keys.push_back(keys[i]);
    push.weights.insert(push.weights.end(), weights + i * dim_, weights + (i + 1) * dim_);
  }
  bytes_ += bytes_of(push) - before;
}

const float* RowHistory::at(std::uint64_t key, std::uint64_t version) const {
  const auto newest = newest_.find(key);
  if (newest == newest_.end()) return nullptr;
  const float* row = nullptr;
  Place place = newest->second;
  for (const Push* push = find(place.push); push != nullptr && push->version > version;
       push = find(place.push)) {
    row = push->weights.data() + place.row * dim_;
    place = push->older[place.row];
  }
  return row;
}

void RowHistory::drop_oldest() {
  const Push& oldest = kept_.front();
  for (const std::uint64_t key : oldest.keys) {
    const auto newest = newest_.find(key);
    if (newest != newest_.end() && newest->second.push == first_) newest_.erase(newest);
  }
  bytes_ -= bytes_of(oldest);
  kept_.pop_front();
  ++first_;
}

}  // namespace troupe::shards
