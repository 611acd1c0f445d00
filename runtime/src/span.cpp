#include <troupe/runtime/span.hpp>

#include <algorithm>
#include <bit>
#include <utility>

namespace troupe {

SpanBuffer::SpanBuffer(std::size_t capacity) : ring_(std::bit_ceil(std::max<std::size_t>(capacity, 2))) {}

void SpanBuffer::push(Span&& span) {
  const std::uint64_t written = written_.load(std::memory_order_relaxed);
  const std::uint64_t waiting = written - read_.load(std::memory_order_acquire);
  if (waiting >= ring_.size()) {
    dropped_.fetch_add(1, std::memory_order_relaxed);
    return;
  }
  ring_[written & (ring_.size() - 1)] = std::move(span);
  written_.store(written + 1, std::memory_order_release);
  if (waiting >= ring_.size() / 2 && wake_ && !woken_.exchange(true)) wake_();
}

void SpanBuffer::take(std::vector<Span>& spans, std::size_t most) {
  woken_.store(false);
  const std::uint64_t from = read_.load(std::memory_order_relaxed);
  const std::uint64_t to = std::min<std::uint64_t>(written_.load(std::memory_order_acquire), from + most);
  for (std::uint64_t i = from; i < to; ++i) spans.push_back(std::move(ring_[i & (ring_.size() - 1)]));
  read_.store(to, std::memory_order_release);
}

const std::string* SpanBuffer::keep(Name kind, std::uint64_t key, std::string_view text) {
  if (const std::string* known = kept(kind, key)) return known;
  auto& names = names_[static_cast<std::size_t>(kind)];
  if (text.empty() || names.size() >= kMaxNames) return nullptr;
  return &names.emplace(key, text).first->second;
}

const std::string* SpanBuffer::kept(Name kind, std::uint64_t key) const {
  const auto& names = names_[static_cast<std::size_t>(kind)];
  const auto found = names.find(key);
  return found == names.end() ? nullptr : &found->second;
}

}  // namespace troupe
