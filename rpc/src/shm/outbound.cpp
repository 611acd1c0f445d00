#include "shm/outbound.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>

#include "shm/asymmetric_fence.hpp"

namespace troupe::rpc::shm {
namespace {

/// Bytes of a stream in one record, and what it leaves free for small messages.
constexpr std::size_t kPieceBytes = std::size_t{16} << 10;
constexpr std::size_t kKeptFree = ring::kBytes / 2;

std::size_t bytes_of(const std::vector<Buffer>& parts) {
  std::size_t bytes = 0;
  for (const Buffer& part : parts) bytes += part.size();
  return bytes;
}

/// Copies a message's head, which has just been written in words and in smaller pieces, by words. memcpy()
/// would load longer pieces: a processor cannot put one together from stores that are still under way, and so
/// waits until they have reached the cache, one after the other, behind those of the message before. Both
/// should be aligned to words.
void copy_words(std::byte* to, const std::byte* from, std::size_t bytes) {
  constexpr std::size_t kWord = sizeof(std::uint64_t);
  const auto load = [&](std::size_t at) {
    std::uint64_t word;
    std::memcpy(&word, from + at, kWord);
    asm("" : "+r"(word));  // keeps the compiler from making it longer pieces again
    return word;
  };
  const auto store = [&](std::size_t at, std::uint64_t word) { std::memcpy(to + at, &word, kWord); };
  std::size_t at = 0;
  for (; at + 4 * kWord <= bytes; at += 4 * kWord) {
    const std::uint64_t words[] = {load(at), load(at + kWord), load(at + 2 * kWord), load(at + 3 * kWord)};
    for (std::size_t i = 0; i < 4; ++i) store(at + i * kWord, words[i]);
  }
  for (; at + kWord <= bytes; at += kWord) store(at, load(at));
  if (at < bytes) std::memcpy(to + at, from + at, bytes - at);
}
/// Longer heads are better off with memcpy(): what they begin with has arrived by then.
constexpr std::size_t kFreshHead = 256;

void copy_head(std::byte* to, const Buffer& head) {
  if (head.size() <= kFreshHead) return copy_words(to, head.data(), head.size());
  std::memcpy(to, head.data(), head.size());
}

}  // namespace

Outbound::Outbound(Segment ring, Bell bell) : ring_(std::move(ring)), bell_(std::move(bell)), writer_(ring_) {
  fences_ = !AsymmetricFence::available() || writer_.header().reader_orders.load() == 0;
  writer_.header().attached.store(1, std::memory_order_release);
}

/// A fence between the mark and the look at the sleeper would wait for the ring's cache lines to come from
/// the other core, a fifth of a call's whole time. Where the two can, who goes to sleep makes it for us
/// (ShmWay::arm).
void Outbound::publish(RecordKind kind, std::size_t head_bytes, std::size_t part_bytes) {
  writer_.publish(kind, head_bytes, part_bytes);
  if (fences_) [[unlikely]]
    std::atomic_thread_fence(std::memory_order_seq_cst);
  else
    std::atomic_signal_fence(std::memory_order_seq_cst);
  auto& sleeps = writer_.header().reader_sleeps;
  if (sleeps.load(std::memory_order_relaxed) != 0 && sleeps.exchange(0) != 0) bell_.ring();
}

void Outbound::send(OutFrame&& frame) {
  const std::size_t part_bytes = frame.parts.empty() ? 0 : bytes_of(frame.parts);
  if (part_bytes > kCopiedBytes && !lends(frame, part_bytes)) {
    bytes_in_flight_ += frame.head.size() + part_bytes;
    streams_.push_back({std::move(frame), part_bytes});
    push_streams();
    return;
  }
  if (waiting_.empty() && try_send(frame, part_bytes)) return;
  bytes_in_flight_ += frame.head.size() + part_bytes;
  waiting_.push_back(std::move(frame));
}

bool Outbound::lends(const OutFrame& frame, std::size_t part_bytes) const {
  return part_bytes > kCopiedBytes && frame.parts.size() <= ring::kMostPieces &&
         writer_.header().reader_copies.load(std::memory_order_acquire) != 0;
}

bool Outbound::try_send(OutFrame& frame, std::size_t part_bytes) {
  return part_bytes > kCopiedBytes ? lend(frame, part_bytes) : write(frame, part_bytes);
}

bool Outbound::write(OutFrame& frame, std::size_t part_bytes) {
  const std::size_t head = frame.head.size();
  const std::size_t parts_at = ring::aligned_head(head);
  std::byte* to = writer_.reserve(part_bytes > 0 ? parts_at + part_bytes : head);
  if (!to) return false;
  copy_head(to, frame.head);
  to += parts_at;
  for (const Buffer& part : frame.parts) {
    if (part.empty()) continue;
    std::memcpy(to, part.data(), part.size());
    to += part.size();
  }
  publish(RecordKind::kFrame, head, part_bytes);
  return true;
}

bool Outbound::lend(OutFrame& frame, std::size_t part_bytes) {
  const std::size_t head = frame.head.size();
  const std::size_t pieces_at = ring::aligned_head(head);
  std::byte* const to = writer_.reserve(pieces_at + frame.parts.size() * sizeof(LentPiece));
  if (!to) return false;
  copy_head(to, frame.head);
  std::byte* piece = to + pieces_at;
  for (const Buffer& part : frame.parts) {
    const LentPiece lent{reinterpret_cast<std::uintptr_t>(part.data()), part.size()};
    std::memcpy(piece, &lent, sizeof lent);
    piece += sizeof lent;
  }
  // An array's end is where its bytes add up: what the record's length leaves beyond it says nothing.
  publish(RecordKind::kLent, head, part_bytes);
  bytes_in_flight_ += part_bytes;
  lent_.push_back({std::move(frame.parts), part_bytes});
  return true;
}

int Outbound::progress() {
  int did = lent_.empty() ? 0 : take_back_lent();
  if (!waiting_.empty()) did += flush_waiting();
  if (!streams_.empty()) did += push_streams();
  return did;
}

int Outbound::flush_waiting() {
  int did = 0;
  while (!waiting_.empty()) {
    OutFrame& frame = waiting_.front();
    const std::size_t part_bytes = bytes_of(frame.parts);
    const std::size_t bytes = frame.head.size() + part_bytes;
    if (!try_send(frame, part_bytes)) break;
    bytes_in_flight_ -= bytes;
    const OutFrame sent = std::move(waiting_.front());  // dropping buffers may run anybody's code
    waiting_.pop_front();
    ++did;
  }
  return did;
}

int Outbound::take_back_lent() {
  const std::uint64_t done = writer_.header().lent_done.load(std::memory_order_seq_cst);
  int did = 0;
  while (!lent_.empty() && done > returned_) {
    ++returned_;
    const Lent back = std::move(lent_.front());
    lent_.pop_front();
    bytes_in_flight_ -= back.bytes;
    ++did;
  }
  return did;
}

int Outbound::push_streams() {
  int did = 0;
  while (!streams_.empty() && push(streams_.front())) {
    ++did;
    Stream& stream = streams_.front();
    if (stream.part < stream.frame.parts.size()) continue;
    const Stream sent = std::move(streams_.front());
    streams_.pop_front();
    bytes_in_flight_ -= sent.frame.head.size() + sent.bytes;
  }
  return did;
}

/// Writes one more record of it, if there is room.
bool Outbound::push(Stream& stream) {
  if (writer_.room() < kKeptFree + kPieceBytes) return false;
  if (!std::exchange(stream.begun, true)) {
    const Buffer& head = stream.frame.head;
    std::byte* const to = writer_.reserve(head.size());
    if (!to) return stream.begun = false;
    copy_head(to, head);
    publish(RecordKind::kBegin, head.size(), stream.bytes);
    return true;
  }
  const auto& parts = stream.frame.parts;
  std::byte* const to = writer_.reserve(kPieceBytes);
  if (!to) return false;
  std::size_t written = 0;
  while (written < kPieceBytes && stream.part < parts.size()) {
    const Buffer& part = parts[stream.part];
    const std::size_t here = std::min(kPieceBytes - written, part.size() - stream.offset);
    if (here > 0) std::memcpy(to + written, part.data() + stream.offset, here);
    written += here;
    stream.offset += here;
    if (stream.offset < part.size()) continue;
    ++stream.part;
    stream.offset = 0;
  }
  publish(RecordKind::kPiece, 0, written);
  return true;
}

bool Outbound::arm() {
  if (!busy()) return true;
  auto& header = writer_.header();
  header.writer_waits.store(1, std::memory_order_seq_cst);
  const bool returned = !lent_.empty() && header.lent_done.load(std::memory_order_seq_cst) != returned_;
  const bool room = (!waiting_.empty() || !streams_.empty()) && writer_.room() >= kKeptFree + kPieceBytes;
  return !returned && !room;
}

}  // namespace troupe::rpc::shm
