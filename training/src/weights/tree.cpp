#include "tree.hpp"

#include <deque>

namespace troupe::training {

void WeightTree::detach(std::uint64_t id) {
  const auto found = readers_.find(id);
  if (found == readers_.end()) return;
  const std::uint64_t parent = found->second.parent;
  if (parent == 0)
    children_of_root_.erase(id);
  else if (const auto above = readers_.find(parent); above != readers_.end())
    above->second.children.erase(id);
}

bool WeightTree::is_attached(std::uint64_t id, std::uint64_t without) const {
  while (id != 0) {
    const auto found = readers_.find(id);
    if (id == without || found == readers_.end()) return false;
    id = found->second.parent;
  }
  return true;
}

/// Readers of its own place do not count: sharing memory costs nothing.
bool WeightTree::has_room(std::uint64_t id) {
  const std::string& place = id == 0 ? place_ : readers_.at(id).place;
  std::size_t far = 0;
  for (const std::uint64_t child : children(id)) far += readers_.at(child).place != place ? 1 : 0;
  return far < fan_out_;
}

/// Goes through all that can send to other places: also who was once the head of its place.
std::uint64_t WeightTree::nearest_with_room(std::uint64_t without, const std::set<std::uint64_t>& avoid) {
  std::deque<std::uint64_t> next{0};
  while (!next.empty()) {
    const std::uint64_t id = next.front();
    next.pop_front();
    if (!avoid.contains(id) && has_room(id)) return id;
    const std::string& place = id == 0 ? place_ : readers_.at(id).place;
    for (const std::uint64_t child : children(id)) {
      const Reader& reader = readers_.at(child);
      if (child != without && reader.serves && reader.place != place) next.push_back(child);
    }
  }
  return 0;
}

WeightTree::Parent WeightTree::join(std::uint64_t id, const std::string& place, bool serves,
                                    const std::set<std::uint64_t>& avoid) {
  detach(id);
  if (const auto known = readers_.find(id);
      known != readers_.end() && (known->second.place != place || !serves))
    leave(id);
  Reader& reader = readers_[id];
  reader.place = place;
  reader.serves = serves;
  reader.parent = 0;
  Parent parent;
  if (place == place_) {
    parent = {0, true};
  } else {
    const auto head = heads_.find(place);
    const bool has_head = head != heads_.end() && head->second != id && !avoid.contains(head->second) &&
                          is_attached(head->second, id);
    if (has_head) {
      parent = {head->second, true};
    } else {
      parent = {nearest_with_room(id, avoid), false};
      if (serves) heads_[place] = id;
    }
  }
  reader.parent = parent.id;
  children(parent.id).insert(id);
  return parent;
}

void WeightTree::leave(std::uint64_t id) {
  const auto found = readers_.find(id);
  if (found == readers_.end()) return;
  detach(id);
  if (const auto head = heads_.find(found->second.place); head != heads_.end() && head->second == id)
    heads_.erase(head);
  readers_.erase(found);  // its children find out, and ask for another parent
}

}  // namespace troupe::training
