#pragma once

#include <cstddef>
#include <utility>
#include <vector>

namespace troupe::rpc {

/// A first-in first-out queue in one block of memory, which doubles when it is full: no allocation in
/// steady state.
template <class T>
class Ring {
 public:
  /// Precondition: `capacity` is a power of two.
  explicit Ring(std::size_t capacity) : slots_(capacity) {}

  bool empty() const { return first_ == end_; }
  std::size_t size() const { return end_ - first_; }
  void push(T value) {
    if (size() == slots_.size()) grow();
    slots_[end_++ & (slots_.size() - 1)] = std::move(value);
  }
  /// Precondition: not empty.
  T pop() { return std::move(slots_[first_++ & (slots_.size() - 1)]); }

 private:
  void grow() {
    std::vector<T> larger(slots_.size() * 2);
    const std::size_t count = size();
    for (std::size_t i = 0; i < count; ++i) larger[i] = pop();
    slots_ = std::move(larger);
    first_ = 0;
    end_ = count;
  }

  std::vector<T> slots_;
  std::size_t first_ = 0;
  std::size_t end_ = 0;
};

}  // namespace troupe::rpc
