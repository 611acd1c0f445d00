#include "shm/inbound.hpp"

#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <string>
#include <utility>

#include "shm/asymmetric_fence.hpp"

namespace troupe::rpc::shm {
namespace {

/// Messages whose parts wait to be copied; a peer that announces more waits itself.
constexpr std::size_t kMostLent = 1024;

}  // namespace

Result<Inbound> Inbound::create(LinkId link, DataPlane& data) {
  auto ring = Segment::create(ring::kSegmentBytes);
  if (!ring) return ring.error();
  std::uint64_t cookie = 0;
  while (cookie == 0)
    if (::getrandom(&cookie, sizeof cookie, 0) != sizeof cookie) return errno_error(errno, "random bytes");
  auto* const header = new (ring->data()) RingHeader;
  header->cookie = cookie;
  header->reader_orders = AsymmetricFence::available() ? 1 : 0;
  return Inbound(link, data, std::move(*ring));
}

Inbound::Inbound(LinkId link, DataPlane& data, Segment ring)
    : link_(link), data_(&data), ring_(std::move(ring)), reader_(ring_) {}

bool Inbound::attached() {
  if (attached_) return true;
  attached_ = reader_.header().attached.load(std::memory_order_acquire) != 0;
  if (attached_) ring_.close_fd();
  return attached_;
}

void Inbound::set_writer(pid_t pid, bool readable, const Bell& bell) {
  writer_ = pid;
  bell_ = &bell;
  reader_.header().reader_copies.store(readable ? 1 : 0, std::memory_order_release);
}

Inbound::Got Inbound::receive(Arrival& arrival) {
  if (!lent_.empty() && lent_.size() >= kMostLent) [[unlikely]]
    return Got::kNothing;  // the others stay in the ring
  Record record;
  const auto found = reader_.next(record);
  if (found == RingReader::Found::kNothing) return Got::kNothing;
  if (found == RingReader::Found::kNonsense) return Got::kNonsense;
  Got got = Got::kNonsense;
  switch (record.kind) {
    case RecordKind::kFrame:
      got = take_frame(record, arrival);
      break;
    case RecordKind::kLent:
      got = take_lent(record);
      break;
    case RecordKind::kBegin:
      got = begin_stream(record);
      break;
    case RecordKind::kPiece:
      got = take_piece(record, arrival);
      break;
    case RecordKind::kPad:
      break;
  }
  pop(record);
  return got;
}

/// The head is copied, because the ring is wanted back before the message is done with.
bool Inbound::take_head(const Record& record, Arrival& arrival) const {
  if (record.head_bytes == 0 || record.head_bytes > data_->max_head_bytes ||
      record.head_bytes > record.payload.size())
    return false;
  arrival.link = link_;
  arrival.head = data_->heads.acquire(record.head_bytes);
  std::memcpy(arrival.head.data(), record.payload.data(), record.head_bytes);
  return true;
}

Inbound::Got Inbound::take_frame(const Record& record, Arrival& arrival) {
  if (!take_head(record, arrival)) return Got::kNonsense;
  if (record.part_bytes == 0) return Got::kMessage;
  const std::size_t parts_at = ring::aligned_head(record.head_bytes);
  if (parts_at > record.payload.size() || record.part_bytes > record.payload.size() - parts_at)
    return Got::kNonsense;
  if (!data_->ask_for_parts(arrival, record.part_bytes)) return Got::kMore;
  scatter(record.payload.data() + parts_at, arrival.parts);
  return Got::kMessage;
}

Inbound::Got Inbound::take_lent(const Record& record) {
  Lent lent;
  if (!take_head(record, lent.arrival) || writer_ == 0) return Got::kNonsense;
  std::size_t at = ring::aligned_head(record.head_bytes);
  while (lent.bytes < record.part_bytes) {
    LentPiece piece;
    if (at + sizeof piece > record.payload.size()) return Got::kNonsense;
    std::memcpy(&piece, record.payload.data() + at, sizeof piece);
    at += sizeof piece;
    if (piece.bytes > record.part_bytes - lent.bytes) return Got::kNonsense;
    lent.bytes += piece.bytes;
    if (piece.bytes == 0) continue;
    if (lent.pieces.size() == ring::kMostPieces) return Got::kNonsense;
    lent.pieces.push_back(piece);
  }
  if (lent.bytes == 0) return Got::kNonsense;
  lent_.push_back(std::move(lent));
  return Got::kMore;
}

/// Memory is given to one message at a time, in the order in which they were announced: see
/// UcxWorker::accept_announced().
Inbound::Got Inbound::copy(Arrival& arrival, std::size_t most) {
  if (!copy_begun_) {
    Lent& first = lent_.front();
    copied_ = std::move(first.arrival);
    if (!data_->ask_for_parts(copied_, first.bytes)) {
      end_lent();
      return Got::kMore;
    }
    copy_.start(std::move(first.pieces), copied_.parts);
    copy_begun_ = true;
  }
  auto step = copy_.step(writer_, most);
  if (step && !copy_.done()) return Got::kMore;
  copy_begun_ = false;
  arrival = std::exchange(copied_, {});
  // A sender that goes closes its socket before it frees anything: if that is open still, what we have read
  // was the message.
  const bool left = data_->control && data_->control->peer_has_left(link_);
  end_lent();
  if (step && !left) return Got::kMessage;
  ++data_->stats.lost;
  arrival = {};
  if (!step && !left) data_->lose(link_, std::move(step).error());
  return Got::kMore;
}

void Inbound::end_lent() {
  lent_.pop_front();
  auto& done = reader_.header().lent_done;
  done.store(done.load(std::memory_order_relaxed) + 1, std::memory_order_seq_cst);
  ring_if_waited_for();
}

Inbound::Got Inbound::begin_stream(const Record& record) {
  if (stream_bytes_ != 0 || record.part_bytes == 0 || !take_head(record, stream_)) return Got::kNonsense;
  if (!data_->ask_for_parts(stream_, record.part_bytes)) return Got::kMore;
  stream_bytes_ = record.part_bytes;
  stream_done_ = 0;
  stream_part_ = stream_offset_ = 0;
  return Got::kMore;
}

Inbound::Got Inbound::take_piece(const Record& record, Arrival& arrival) {
  if (record.part_bytes == 0 || record.part_bytes > record.payload.size() ||
      record.part_bytes > stream_bytes_ - stream_done_)
    return Got::kNonsense;
  const std::byte* from = record.payload.data();
  for (std::size_t left = record.part_bytes; left > 0;) {
    const Buffer& part = stream_.parts[stream_part_];
    const std::size_t here = std::min(left, part.size() - stream_offset_);
    if (here > 0) std::memcpy(part.data() + stream_offset_, from, here);
    from += here;
    left -= here;
    stream_offset_ += here;
    if (stream_offset_ == part.size()) ++stream_part_, stream_offset_ = 0;
  }
  stream_done_ += record.part_bytes;
  if (stream_done_ < stream_bytes_) return Got::kMore;
  stream_bytes_ = stream_done_ = 0;
  arrival = std::exchange(stream_, {});
  return Got::kMessage;
}

void Inbound::pop(const Record& record) {
  if (reader_.pop(record)) ring_if_waited_for();
}

void Inbound::ring_if_waited_for() {
  auto& waits = reader_.header().writer_waits;
  if (waits.load(std::memory_order_seq_cst) != 0 && bell_ && waits.exchange(0) != 0) bell_->ring();
}

bool Inbound::arm() {
  reader_.header().reader_sleeps.store(1, std::memory_order_seq_cst);
  return reader_.empty() && lent_.empty();
}

}  // namespace troupe::rpc::shm
