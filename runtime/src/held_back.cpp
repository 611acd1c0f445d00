#include "held_back.hpp"

#include <algorithm>
#include <chrono>

#include <troupe/runtime/loop.hpp>

namespace troupe {
namespace {
constexpr Duration kLook = std::chrono::microseconds(100);
}  // namespace

bool HoldsBack::hold_back(bool first) {
  return held_back_ && held_back_->hold_back(first);
}

void HeldBack::add(Source& source) {
  auto* const holder = dynamic_cast<HoldsBack*>(&source);
  if (!holder) return;
  holder->held_back_ = this;
  holders_.push_back(holder);
}

void HeldBack::remove(Source& source) {
  auto* const holder = dynamic_cast<HoldsBack*>(&source);
  if (!holder) return;
  holder->held_back_ = nullptr;
  std::erase(holders_, holder);
}

void HeldBack::flush_all() {
  changes_.fetch_add(1);
  for (std::size_t i = 0; i < holders_.size(); ++i)
    holders_[i]->flush();  // a buffer that goes may run anything
}

bool HeldBack::stand_aside(std::unique_lock<std::mutex>& lock, std::condition_variable& wake, Duration step,
                           const std::atomic<std::thread::id>& owner, std::uint64_t& seen) {
  while (step > Duration::zero()) {
    const std::uint64_t changes = changes_.load();
    const bool is_new = changes != std::exchange(seen, changes);
    const bool any = changes % 2 == 1;
    if (any && !is_new && owner.load() == std::thread::id{}) return true;
    watched_.store(any || is_new);
    const Duration look = any || is_new ? std::min(kLook, step) : step;
    if (wake.wait_for(lock, look) == std::cv_status::no_timeout) return false;
    step -= look;
  }
  return false;
}

}  // namespace troupe
