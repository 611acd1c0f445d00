#include <troupe/shards/sequence_window.hpp>

#include <cassert>

namespace troupe::shards {

SequenceWindow::Seen SequenceWindow::look(std::uint64_t sequence) const {
  if (empty_ || sequence > highest_) return Seen::kNew;
  if (highest_ - sequence >= kSize) return Seen::kTooOld;
  return get(sequence) ? Seen::kApplied : Seen::kNew;
}

void SequenceWindow::mark(std::uint64_t sequence) {
  assert(look(sequence) == Seen::kNew);
  if (empty_) {
    empty_ = false;
    highest_ = sequence;
  } else if (sequence > highest_) {
    // The numbers jumped over are not applied, and their bits still speak of numbers kSize before.
    if (sequence - highest_ >= kSize) {
      words_.fill(0);
    } else {
      for (std::uint64_t s = highest_ + 1; s < sequence; ++s) set(s, false);
    }
    highest_ = sequence;
  }
  set(sequence, true);
}

void SequenceWindow::merge(const SequenceWindow& other) {
  if (other.empty_) return;
  const std::uint64_t oldest = other.highest_ >= kSize ? other.highest_ - kSize + 1 : 0;
  for (std::uint64_t s = other.highest_;; --s) {
    if (other.get(s) && look(s) == Seen::kNew) mark(s);
    if (s == oldest) break;
  }
}

SequenceWindow SequenceWindow::restore(std::uint64_t highest,
                                       const std::array<std::uint64_t, kWords>& words) {
  SequenceWindow window;
  window.empty_ = false;
  window.highest_ = highest;
  window.words_ = words;
  return window;
}

void SequenceWindow::set(std::uint64_t sequence, bool value) {
  const std::uint64_t bit = sequence % kSize;
  const std::uint64_t mask = std::uint64_t{1} << (bit % 64);
  if (value) {
    words_[bit / 64] |= mask;
  } else {
    words_[bit / 64] &= ~mask;
  }
}

bool SequenceWindow::get(std::uint64_t sequence) const {
  const std::uint64_t bit = sequence % kSize;
  return ((words_[bit / 64] >> (bit % 64)) & 1U) != 0;
}

}  // namespace troupe::shards
