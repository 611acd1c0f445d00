#include "device/pinned_queue.hpp"

#include <algorithm>
#include <utility>
#include <vector>

namespace troupe::rpc {

namespace {
constexpr Duration kLookAgain = std::chrono::milliseconds(1);
}  // namespace

void PinnedQueue::add(Wait wait) {
  waits_.push_back(std::move(wait));
  if (!scheduled()) loop_.schedule(*this, loop_.now() + kLookAgain);
}

void PinnedQueue::go_on() {
  if (std::exchange(going_on_, true)) return;
  struct Done {
    bool& flag;
    ~Done() { flag = false; }
  } const done{going_on_};
  std::vector<std::pair<Wait, Error>> over;
  for (auto each = waits_.begin(); each != waits_.end();) {
    if (auto why = each->over()) {
      over.emplace_back(std::move(*each), *std::move(why));
      each = waits_.erase(each);
    } else {
      ++each;
    }
  }
  for (auto& [wait, why] : over) wait.told(std::move(why));
  while (!waits_.empty()) {
    const Result<bool> taken = waits_.front().take();
    if (taken && !*taken) break;
    Wait first = std::move(waits_.front());
    waits_.pop_front();
    first.told(taken ? Result<void>() : Result<void>(taken.error()));
  }
}

void PinnedQueue::on_timer() {
  go_on();
  if (!waits_.empty() && !scheduled()) loop_.schedule(*this, loop_.now() + kLookAgain);
}

}  // namespace troupe::rpc
