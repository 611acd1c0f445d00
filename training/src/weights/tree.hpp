#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <string>

namespace troupe::training {

/// Who sends to whom: the publisher (0) to all readers of its own place, and to `fan_out` other places; in
/// each of these one reader, its head, sends to the others there and to `fan_out` further places. Readers are
/// node ids. No chain of parents ever comes back to where it began.
class WeightTree {
 public:
  WeightTree(std::string place, std::size_t fan_out) : place_(std::move(place)), fan_out_(fan_out) {}

  struct Parent {
    std::uint64_t id = 0;
    bool same_place = false;
  };
  /// Gives a reader a parent, none of `avoid` but the publisher, if that can be. `serves`: others may get it
  /// as theirs.
  Parent join(std::uint64_t id, const std::string& place, bool serves,
              const std::set<std::uint64_t>& avoid = {});
  void leave(std::uint64_t id);

  std::size_t size() const { return readers_.size(); }
  std::size_t direct() const { return children_of_root_.size(); }

 private:
  struct Reader {
    std::string place;
    std::uint64_t parent = 0;
    bool serves = false;
    std::set<std::uint64_t> children;
  };
  std::set<std::uint64_t>& children(std::uint64_t id) {
    return id == 0 ? children_of_root_ : readers_.at(id).children;
  }
  void detach(std::uint64_t id);
  /// Whether the publisher is reached from `id`, and not by way of `without`.
  bool is_attached(std::uint64_t id, std::uint64_t without) const;
  bool has_room(std::uint64_t id);
  std::uint64_t nearest_with_room(std::uint64_t without, const std::set<std::uint64_t>& avoid);

  std::string place_;
  std::size_t fan_out_;
  std::map<std::uint64_t, Reader> readers_;
  std::map<std::string, std::uint64_t> heads_;  // of places
  std::set<std::uint64_t> children_of_root_;
};

}  // namespace troupe::training
