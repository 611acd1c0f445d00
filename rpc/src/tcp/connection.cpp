#include "tcp/connection.hpp"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cstring>
#include <new>

namespace troupe::rpc::tcp {
namespace {

/// Records up to this are put together on the stack and sent at once.
constexpr std::size_t kShort = 2048;
constexpr std::size_t kMostKept = std::size_t{256} << 10;  // of memory for a queue that is empty
constexpr int kLastReads = 64;
/// Sent bytes that may stand before those that wait, which are moved to the front then.
constexpr std::size_t kMostSentKept = std::size_t{256} << 10;

std::byte* put(std::byte* to, std::span<const std::byte> bytes) {
  if (!bytes.empty()) std::memcpy(to, bytes.data(), bytes.size());  // an empty part may lie nowhere
  return to + bytes.size();
}

}  // namespace

// ---- Sending --------------------------------------------------------------------------------------

bool Connection::send(OutFrame&& frame, bool later) {
  std::size_t bytes = 0;
  for (const Buffer& part : frame.parts) bytes += part.size();
  RecordHeader header;
  header.head_bytes = static_cast<std::uint32_t>(frame.head.size());
  header.part_bytes = bytes;
  if (bytes <= kMostInline) {
    write(header, frame.head.bytes(), frame.parts, later);
    return true;
  }
  header.kind = lends_ ? RecordKind::kLent : RecordKind::kAnnounced;
  write(header, frame.head.bytes(), {}, later);
  try {
    sender_.push(std::move(frame.parts), bytes, lends_, queued_);
  } catch (const std::bad_alloc&) {
    break_off();  // the peer waits for what has been announced
    throw;
  }
  return false;
}

/// What has been begun cannot be ended. The peer sees it, and so does this side when it reads; no memory is
/// needed for that.
void Connection::break_off() {
  broken_ = lacked_memory_ = true;
  for (const StreamKind kind : {StreamKind::kMessages, StreamKind::kBulk})
    if (has(kind)) ::shutdown(fd(kind), SHUT_RDWR);
}

/// So that a record is queued whole, or not at all if there is no memory.
void Connection::make_room(std::size_t bytes) {
  if (out_.capacity() - out_.size() < bytes) out_.reserve(std::max(2 * out_.capacity(), out_.size() + bytes));
}

void Connection::write(const RecordHeader& header, std::span<const std::byte> head,
                       const std::vector<Buffer>& parts, bool later) {
  if (broken_) return;
  const auto header_bytes = std::as_bytes(std::span(&header, 1));
  const std::size_t in_record = header.kind == RecordKind::kMessage ? header.part_bytes : 0;
  const std::size_t size = sizeof header + head.size() + in_record;
  if (!later && out_.empty() && size <= kShort && messages_) {
    queued_ += size;
    std::array<std::byte, kShort> record;
    std::byte* end = put(put(record.data(), header_bytes), head);
    for (const Buffer& part : parts) end = put(end, part.bytes());
    const ssize_t sent = messages_->write(std::span<const std::byte>(record.data(), size));
    if (sent < 0) broken_ = true;
    if (sent > 0) sent_ += static_cast<std::size_t>(sent);
    if (sent < 0 || static_cast<std::size_t>(sent) == size) return;
    try {
      return append({record.data() + sent, size - static_cast<std::size_t>(sent)});
    } catch (const std::bad_alloc&) {
      break_off();
      throw;
    }
  }
  make_room(size);
  queued_ += size;
  append(header_bytes);
  append(head);
  for (const Buffer& part : parts) append(part.bytes());
  if (!later) flush_messages();
}

void Connection::flush_messages() {
  if (out_.empty() || !messages_) return;
  const ssize_t sent = broken_ ? 0 : messages_->write(std::span<const std::byte>(out_).subspan(out_sent_));
  if (sent < 0) broken_ = true;
  if (sent > 0) note_sent(static_cast<std::size_t>(sent));
  if (!broken_ && out_sent_ < out_.size()) return;
  out_.clear();
  out_sent_ = 0;
  if (out_.capacity() > kMostKept) out_ = {};
}

/// A backlog may stand for ever, always with something new behind it: memory is for what waits, not for all
/// that ever went through. Moved when that is less than what has gone, so that each byte is moved once.
void Connection::note_sent(std::size_t bytes) {
  sent_ += bytes;
  out_sent_ += bytes;
  if (out_sent_ < kMostSentKept || out_sent_ < out_.size() / 2) return;
  out_.erase(out_.begin(), out_.begin() + static_cast<std::ptrdiff_t>(out_sent_));
  out_sent_ = 0;
}

std::size_t Connection::flush(std::size_t most_bulk) {
  const std::size_t before = out_.size() - out_sent_;
  flush_messages();
  tell_taken();
  const std::size_t after = out_.size() - out_sent_;  // and perhaps a word more
  std::size_t did = before - std::min(before, after);
  // What the peer has not been told of yet, it does not read.
  if (sender_.ready(sent_) && bulk_ && !broken_)
    broken_ |= sender_.progress(*bulk_, most_bulk, sent_, did) == Went::kEnded;
  return did;
}

/// A socket that is closed with something unread in it takes back, by a reset, what the peer has not read
/// yet.
void Connection::close(std::span<std::byte> scratch) {
  for (const StreamKind kind : {StreamKind::kMessages, StreamKind::kBulk}) {
    for (int i = 0; has(kind) && i < kLastReads; ++i)
      if (stream(kind)->read(scratch) <= 0) break;
  }
  messages_.reset();
  if (bulk_) sender_.retire(bulk_->release());
  bulk_.reset();
}

// ---- Receiving ------------------------------------------------------------------------------------

Connection::Got Connection::receive(std::span<std::byte> scratch, int& did) {
  if (!messages_ || receiver_.full()) return Got::kOn;
  const std::size_t begun = rest_.size();
  assert(begun < scratch.size());
  if (begun > 0) std::memcpy(scratch.data(), rest_.data(), begun);
  const ssize_t n = messages_->read(scratch.subspan(begun));
  if (n <= 0) return n == 0 ? Got::kOn : Got::kEnded;
  received_ += static_cast<std::uint64_t>(n);

  // Dropped last: who had lent them may do anything then, also receive into the same scratch.
  std::vector<std::vector<Buffer>> taken;
  auto unread = scratch.first(begun + static_cast<std::size_t>(n));
  while (unread.size() >= sizeof(RecordHeader)) {
    RecordHeader header;
    std::memcpy(&header, unread.data(), sizeof header);
    const bool is_whole = header.kind == RecordKind::kMessage;
    if (header.head_bytes > data_->max_head_bytes || (is_whole && header.part_bytes > kMostInline))
      return Got::kNonsense;
    const std::size_t content = header.head_bytes + (is_whole ? header.part_bytes : 0);
    if (unread.size() < sizeof header + content) break;
    if (!take(header, unread.subspan(sizeof header, content), taken)) return Got::kNonsense;
    unread = unread.subspan(sizeof header + content);
    ++did;
  }
  rest_.assign(unread.begin(), unread.end());
  return Got::kOn;
}

bool Connection::take(const RecordHeader& header, std::span<const std::byte> content,
                      std::vector<std::vector<Buffer>>& taken) {
  if (header.kind == RecordKind::kTaken)
    return header.head_bytes == 0 && sender_.taken(header.part_bytes, taken);
  const bool is_lent = header.kind == RecordKind::kLent;
  const bool is_announced = is_lent || header.kind == RecordKind::kAnnounced;
  if (header.head_bytes == 0 || (header.kind != RecordKind::kMessage && !is_announced)) return false;
  Arrival arrival;
  arrival.link = link_;
  arrival.head = data_->heads.acquire(header.head_bytes);
  std::memcpy(arrival.head.data(), content.data(), header.head_bytes);
  if (is_announced) {
    if (header.part_bytes == 0) return false;
    receiver_.announce(std::move(arrival), header.part_bytes, is_lent);
    return true;
  }
  if (header.part_bytes > 0) {
    if (!data_->ask_for_parts(arrival, header.part_bytes)) return true;  // the link is lost already
    scatter(content.data() + header.head_bytes, arrival.parts);
  }
  data_->arrivals.push(std::move(arrival));
  return true;
}

/// A peer that reads nothing does not make us keep a word for each of its messages: it is told of all later.
void Connection::tell_taken() {
  if (untold_ == 0 || out_.size() - out_sent_ > kMostSentKept) return;
  RecordHeader header;
  header.kind = RecordKind::kTaken;
  header.part_bytes = untold_;
  write(header, {}, {}, false);
  untold_ = 0;
}

Connection::Got Connection::receive_bulk(std::size_t most, std::size_t& did) {
  if (!bulk_) return Got::kOn;
  const Went went = receiver_.progress(*bulk_, most, did);
  untold_ += receiver_.take_taken();
  tell_taken();
  return went == Went::kEnded ? Got::kEnded : Got::kOn;
}

}  // namespace troupe::rpc::tcp
