#include <troupe/runtime/timer.hpp>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

namespace troupe {
namespace {

constexpr int kTickShift = 10;  // 1,024 ns
constexpr int kLevelBits = 6;
constexpr std::uint64_t kSlotMask = 63;
constexpr std::uint64_t kLastTick = static_cast<std::uint64_t>(TimePoint::never().ns) >> kTickShift;

std::uint64_t tick_of(TimePoint t) {
  return t.ns <= 0 ? 0 : static_cast<std::uint64_t>(t.ns) >> kTickShift;
}
TimePoint begin_of(std::uint64_t tick) {
  return TimePoint{static_cast<std::int64_t>(tick << kTickShift)};
}
/// Timers that one advance() fires: however many are due together, a loop looks at everything else in
/// between.
constexpr int kMostAtOnce = 512;
/// Before every time that a clock shows.
constexpr TimePoint kAlways{INT64_MIN};

}  // namespace

TimerNode::~TimerNode() {
  if (wheel_) wheel_->cancel(*this);
}

TimerWheel::TimerWheel(TimePoint now) : tick_(tick_of(now)) {}

TimerWheel::~TimerWheel() {
  for (TimerNode*& head : slots_) {
    while (head) {
      TimerNode& node = *head;
      detach(node);
      node.wheel_ = nullptr;
    }
  }
}

void TimerWheel::schedule(TimerNode& node, TimePoint due) {
  if (node.wheel_) node.wheel_->cancel(node);
  node.due_ = due;
  node.wheel_ = this;
  ++count_;
  link(node);
}

void TimerWheel::cancel(TimerNode& node) {
  if (node.wheel_ != this) return;
  detach(node);
  node.wheel_ = nullptr;
  --count_;
}

// The level is the highest 6-bit digit in which the due tick differs from the present one, the slot
// that digit of the due tick. So everything in a lower level is due before anything in a higher one,
// and within a level the order of the slots is the order of time.
void TimerWheel::link(TimerNode& node) {
  const std::uint64_t due_tick = std::max(tick_of(node.due_), tick_);
  const std::uint64_t difference = due_tick ^ tick_;
  const int level = difference == 0 ? 0 : (std::bit_width(difference) - 1) / kLevelBits;
  if (level >= kLevels) {
    constexpr int kReachShift = kLevels * kLevelBits;
    quiet_until_ = std::min(quiet_until_, begin_of(due_tick >> kReachShift << kReachShift));
    append(node, kFarSlot);
    return;
  }
  const int shift = level * kLevelBits;
  quiet_until_ = std::min(quiet_until_, difference == 0 ? kAlways : begin_of(due_tick >> shift << shift));
  const auto digit = static_cast<std::size_t>((due_tick >> shift) & kSlotMask);
  append(node, static_cast<std::size_t>(level) * kSlots + digit);
}

void TimerWheel::append(TimerNode& node, std::size_t slot) {
  node.slot_ = static_cast<std::uint16_t>(slot);
  TimerNode*& head = slots_[slot];
  if (!head) {
    head = node.next_ = node.previous_ = &node;
    if (slot < kFarSlot) occupied_[slot / kSlots] |= std::uint64_t{1} << (slot % kSlots);
    return;
  }
  node.next_ = head;
  node.previous_ = head->previous_;
  node.previous_->next_ = &node;
  head->previous_ = &node;
}

void TimerWheel::detach(TimerNode& node) {
  const std::size_t slot = node.slot_;
  TimerNode*& head = slots_[slot];
  if (node.next_ == &node) {
    head = nullptr;
    if (slot < kFarSlot) occupied_[slot / kSlots] &= ~(std::uint64_t{1} << (slot % kSlots));
    return;
  }
  node.previous_->next_ = node.next_;
  node.next_->previous_ = node.previous_;
  if (head == &node) head = node.next_;
}

void TimerWheel::relink_all(std::size_t slot) {
  // As many as there are now: in the far slot some come back to the same list.
  std::size_t count = 0;
  if (TimerNode* const head = slots_[slot]) {
    TimerNode* node = head;
    do {
      ++count;
      node = node->next_;
    } while (node != head);
  }
  for (; count > 0; --count) {
    TimerNode& node = *slots_[slot];
    detach(node);
    link(node);
  }
}

// Moves what is due at `now` out of the slot of the present tick, in the order of the due times and,
// among equal ones, of scheduling.
void TimerWheel::collect_due(TimePoint now) {
  const std::size_t slot = tick_ & kSlotMask;
  TimerNode* const head = slots_[slot];
  if (!head) return;
  due_.clear();
  TimerNode* node = head;
  do {
    if (node->due_ <= now) due_.push_back(node);
    node = node->next_;
  } while (node != head);
  const auto by_due = [](const TimerNode* a, const TimerNode* b) { return a->due_ < b->due_; };
  if (!std::is_sorted(due_.begin(), due_.end(), by_due)) std::stable_sort(due_.begin(), due_.end(), by_due);
  for (TimerNode* each : due_) {
    detach(*each);
    append(*each, kFiringSlot);
  }
}

// Goes to the next tick, at most `last`, at which a slot begins that holds something; spreads that slot
// over the lower levels. False if there is none: the present tick is `last` then, and quiet_until_ the time
// when the next one begins.
bool TimerWheel::step_to_next_slot(std::uint64_t last) {
  for (int level = 0; level < kLevels; ++level) {
    const int shift = level * kLevelBits;
    const std::uint64_t digit = (tick_ >> shift) & kSlotMask;
    const std::uint64_t later =
        digit == kSlotMask ? 0 : occupied_[level] & (~std::uint64_t{0} << (digit + 1));
    if (later == 0) continue;
    const auto next_digit = static_cast<std::uint64_t>(std::countr_zero(later));
    const std::uint64_t above = tick_ >> shift >> kLevelBits << kLevelBits;
    const std::uint64_t begin = (above | next_digit) << shift;
    if (begin > last) {
      quiet_until_ = begin_of(begin);
      tick_ = last;
      return false;
    }
    tick_ = begin;
    if (level > 0) relink_all(static_cast<std::size_t>(level) * kSlots + next_digit);
    return true;
  }
  constexpr int kReachShift = kLevels * kLevelBits;
  const std::uint64_t block_end = ((tick_ >> kReachShift) + 1) << kReachShift;
  if (slots_[kFarSlot] && block_end <= last && wheel_is_empty()) {
    tick_ = block_end;
    relink_all(kFarSlot);
    return true;
  }
  quiet_until_ = slots_[kFarSlot] ? begin_of(std::min(block_end, kLastTick)) : TimePoint::never();
  tick_ = last;
  return false;
}

bool TimerWheel::wheel_is_empty() const {
  return std::all_of(occupied_.begin(), occupied_.end(), [](std::uint64_t bits) { return bits == 0; });
}

int TimerWheel::advance_to(TimePoint now) {
  const std::uint64_t last = std::max(tick_of(now), tick_);
  if (count_ == 0) {
    tick_ = last;
    quiet_until_ = TimePoint::never();
    return 0;
  }
  do {
    collect_due(now);
  } while (step_to_next_slot(last));
  // Some are due later in this very tick, or about to be called, by whoever calls this from inside of one,
  // too.
  if (slots_[tick_ & kSlotMask] || slots_[kFiringSlot]) quiet_until_ = kAlways;

  // Handlers see the list of the rest, and may cancel, destroy or reschedule any of it; what they
  // schedule goes to the slots, so not into this list.
  int fired = 0;
  while (TimerNode* const node = fired < kMostAtOnce ? slots_[kFiringSlot] : nullptr) {
    cancel(*node);
    node->on_timer();
    ++fired;
  }
  return fired;
}

TimePoint TimerWheel::next_due() const {
  if (count_ == 0) return TimePoint::never();
  if (const TimerNode* node = slots_[kFiringSlot]) return node->due_;
  const TimerNode* head = slots_[kFarSlot];
  for (int level = kLevels - 1; level >= 0; --level) {
    if (occupied_[level] == 0) continue;
    const auto digit = static_cast<std::size_t>(std::countr_zero(occupied_[level]));
    head = slots_[static_cast<std::size_t>(level) * kSlots + digit];
  }
  TimePoint earliest = head->due_;
  for (const TimerNode* node = head->next_; node != head; node = node->next_) {
    earliest = std::min(earliest, node->due_);
  }
  return earliest;
}

}  // namespace troupe
