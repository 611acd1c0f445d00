#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include <troupe/runtime/unique_fd.hpp>

namespace troupe::rpc::tcp {

/// A connected stream of bytes, plain or one day encrypted: all reading and writing of a link's streams goes
/// through here. Nothing waits. Loop only.
///
/// Where functions return a count: bytes, 0 for none just now, -1 if the stream has ended or is broken.
class ByteStream {
 public:
  virtual ~ByteStream() = default;
  ByteStream() = default;
  ByteStream(const ByteStream&) = delete;
  ByteStream& operator=(const ByteStream&) = delete;

  virtual ssize_t read(std::span<const iovec> into) = 0;
  ssize_t read(std::span<std::byte> into) {
    const iovec one{into.data(), into.size()};
    return read(std::span(&one, 1));
  }
  /// `more_follows`: soon, so that less than a packet may wait for it.
  virtual ssize_t write(std::span<const iovec> from, bool more_follows) = 0;
  /// Until all is written or no more is taken.
  virtual ssize_t write(std::span<const std::byte> from) = 0;

  /// Bytes have been taken from the socket and not been read yet: epoll does not tell of them.
  virtual bool has_input() const { return false; }
  /// The socket, to be asked when something may be read or written.
  virtual int fd() const = 0;
  /// The same if what is written to it arrives as it is, so that the kernel can be given pages; else -1.
  virtual int plain_fd() const { return -1; }
  /// Who is at the other end, as far as the stream itself has proof; empty: it has none.
  virtual std::string_view peer_identity() const { return {}; }
  /// Gives the socket up, for who keeps it longer than the stream.
  virtual UniqueFd release() = 0;
};

/// Without encryption, and without proof of who is there: that is the business of the meeting, which has told
/// the two sides the token with which the stream began.
std::unique_ptr<ByteStream> plain_stream(UniqueFd fd);

}  // namespace troupe::rpc::tcp
