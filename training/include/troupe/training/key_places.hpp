#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

namespace troupe::training {

/// Makes a list of distinct keys of those that the examples of a batch name, for Task::plan(), and says where
/// in it each is. Plain state.
class KeyPlaces {
 public:
  /// Fills `keys`, which is empty and must outlive this.
  explicit KeyPlaces(std::vector<std::uint64_t>& keys) : keys_(keys) {}

  /// The place of `key` in the list, at whose end it is put if it is new.
  std::size_t of(std::uint64_t key) {
    const auto [found, is_new] = places_.try_emplace(key, keys_.size());
    if (is_new) keys_.push_back(key);
    return found->second;
  }

 private:
  std::vector<std::uint64_t>& keys_;
  std::unordered_map<std::uint64_t, std::size_t> places_;
};

}  // namespace troupe::training
