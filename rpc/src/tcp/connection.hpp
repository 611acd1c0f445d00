#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include <troupe/rpc/transport.hpp>
#include <troupe/runtime/unique_fd.hpp>

#include "tcp/bulk.hpp"
#include "tcp/byte_stream.hpp"
#include "tcp/wire.hpp"
#include "transport/data_plane.hpp"

namespace troupe::rpc::tcp {

/// One link's two streams, once they are there, and what waits for them.
///
/// Nothing here calls a handler: what arrives goes to DataPlane::arrivals. Loop only.
class Connection {
 public:
  /// A received record is whole in so many bytes, whatever came before it in one read.
  static constexpr std::size_t kScratchBytes = std::size_t{128} << 10;

  enum class Got {
    kOn,        ///< as far as it goes now
    kEnded,     ///< the peer has closed a stream, or it is broken
    kNonsense,  ///< the peer is not what it should be
  };

  /// `lends`: the peer is on this machine, where the kernel can pass it our pages instead of copies.
  Connection(LinkId link, DataPlane& data, bool lends)
      : link_(link), data_(&data), lends_(lends), receiver_(data) {}

  void attach(StreamKind kind, std::unique_ptr<ByteStream> stream) {
    (kind == StreamKind::kMessages ? messages_ : bulk_) = std::move(stream);
    if (lacked_memory_) break_off();
  }
  /// Closes the streams. What the kernel has taken still goes out.
  void close(std::span<std::byte> scratch);
  bool has(StreamKind kind) const { return stream(kind) != nullptr; }
  /// To be watched; -1 if the stream is not there.
  int fd(StreamKind kind) const { return has(kind) ? stream(kind)->fd() : -1; }
  /// There is something to receive of which the sockets do not tell, and it may be received.
  bool has_input() const {
    return (messages_ && !full() && messages_->has_input()) ||
           (bulk_ && receiver_.busy() && bulk_->has_input());
  }
  /// Who is there, as far as the streams have proof; empty: they have none.
  std::string_view peer_identity() const {
    return messages_ ? messages_->peer_identity() : std::string_view();
  }
  /// Whether the streams that are there say the same of that.
  bool has_one_peer() const {
    return !messages_ || !bulk_ || messages_->peer_identity() == bulk_->peer_identity();
  }

  /// Sends, or queues if the streams do not take it now, or are not there yet, or `later`: then flush()
  /// follows soon. Returns whether the message is small enough to go as one record.
  bool send(OutFrame&& frame, bool later);
  /// Sends what is queued, of bulk up to `most_bulk` bytes. Returns bytes sent.
  std::size_t flush(std::size_t most_bulk);
  /// Something waits that a stream did not take.
  bool sending(StreamKind kind) const {
    return !broken_ && (kind == StreamKind::kMessages ? !out_.empty() : sender_.ready(sent_));
  }
  bool sending() const { return sending(StreamKind::kMessages) || sending(StreamKind::kBulk); }
  /// As many long messages are announced as may be: no more is read of messages until some have come.
  bool full() const { return receiver_.full(); }
  /// Memory kept for what waits to be sent.
  std::size_t bytes_kept() const { return out_.capacity(); }
  bool broken() const { return broken_; }
  /// ... because something was sent by half, and there was no memory for its rest.
  bool lacked_memory() const { return lacked_memory_; }
  /// Records that wait to be sent.
  std::size_t bytes_held() const { return out_.size() - out_sent_; }
  /// `deaf`: nothing is received just now. Then the peer cannot tell what it has taken, and what the kernel
  /// has counts as having left; else two sides that wait for each other would wait for ever.
  std::size_t bytes_in_flight(bool deaf = false) const {
    return bytes_held() + sender_.bytes_in_flight() - (deaf ? sender_.bytes_not_taken() : 0);
  }

  /// Reads what the stream of messages has, at most `scratch` full; adds the records handled to `did`.
  Got receive(std::span<std::byte> scratch, int& did);
  /// Bytes of messages so far.
  std::uint64_t received() const { return received_; }
  /// Reads up to `most` bytes of bulk; adds bytes to `did`.
  Got receive_bulk(std::size_t most, std::size_t& did);
  /// Parts are on their way.
  bool receiving_bulk() const { return receiver_.busy(); }

 private:
  const std::unique_ptr<ByteStream>& stream(StreamKind kind) const {
    return kind == StreamKind::kMessages ? messages_ : bulk_;
  }
  void write(const RecordHeader& header, std::span<const std::byte> head, const std::vector<Buffer>& parts,
             bool later);
  void append(std::span<const std::byte> bytes) { out_.insert(out_.end(), bytes.begin(), bytes.end()); }
  void make_room(std::size_t bytes);
  void break_off();
  void note_sent(std::size_t bytes);
  void flush_messages();
  void tell_taken();
  bool take(const RecordHeader& header, std::span<const std::byte> content,
            std::vector<std::vector<Buffer>>& taken);

  LinkId link_;
  DataPlane* data_;
  bool lends_;
  std::unique_ptr<ByteStream> messages_;
  std::unique_ptr<ByteStream> bulk_;
  bool broken_ = false;         // nothing more can be sent; what comes is still read
  bool lacked_memory_ = false;  // therefore
  std::vector<std::byte> out_;  // records, from out_sent_ on not sent yet
  std::size_t out_sent_ = 0;
  std::uint64_t queued_ = 0;     // bytes of all records since the beginning,
  std::uint64_t sent_ = 0;       // ... and those that the kernel has
  std::uint64_t untold_ = 0;     // lent messages that have been taken, of which the peer has not been told
  std::uint64_t received_ = 0;   // of messages
  std::vector<std::byte> rest_;  // the beginning of a record
  BulkSender sender_;
  BulkReceiver receiver_;
};

}  // namespace troupe::rpc::tcp
