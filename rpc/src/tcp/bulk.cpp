#include "tcp/bulk.hpp"

#include <signal.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>
#include <utility>

#include "tcp/retired_pages.hpp"

namespace troupe::rpc::tcp {
namespace {

constexpr std::size_t kPieces = 16;  // in one system call

/// While it lives, writing to a socket whose peer has gone is an error and no signal: splice() knows no
/// MSG_NOSIGNAL, and the process's signals are not ours to set.
class WithoutSigpipe {
 public:
  WithoutSigpipe() {
    ::sigemptyset(&pipe_);
    ::sigaddset(&pipe_, SIGPIPE);
    sigset_t pending;
    ::sigpending(&pending);
    was_pending_ = ::sigismember(&pending, SIGPIPE) == 1;
    ::pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
  }
  ~WithoutSigpipe() {
    constexpr timespec kNow{};
    const int error = errno;
    if (!was_pending_ && broken_)
      while (::sigtimedwait(&pipe_, nullptr, &kNow) < 0 && errno == EINTR) continue;
    ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
    errno = error;
  }
  WithoutSigpipe(const WithoutSigpipe&) = delete;
  WithoutSigpipe& operator=(const WithoutSigpipe&) = delete;
  /// There was such an error: the signal that came with it is to be forgotten.
  void note_broken() { broken_ = true; }

 private:
  sigset_t pipe_{};
  sigset_t before_{};
  bool was_pending_ = false;
  bool broken_ = false;
};

}  // namespace

// ---- BulkSender -----------------------------------------------------------------------------------

void BulkSender::push(std::vector<Buffer> parts, std::size_t bytes, bool lent, std::uint64_t announced_at) {
  Pieces pieces(parts);
  queue_.push_back({std::move(parts), std::move(pieces), bytes, lent, announced_at});
  bytes_in_flight_ += bytes;
}

ssize_t BulkSender::copy(ByteStream& stream, Outgoing& message, std::size_t most) const {
  std::array<iovec, kPieces> list;
  const auto count = static_cast<std::size_t>(message.pieces.next(list, most));
  const ssize_t n = stream.write(std::span<const iovec>(list).first(count), message.pieces.left() > most);
  if (n > 0) message.pieces.advance(static_cast<std::size_t>(n));
  return n;
}

/// As copy(), but gives the kernel the pages themselves.
Went BulkSender::lend(int fd, Outgoing& message, std::size_t most, std::size_t& sent) {
  if (!pipe_) pipe_ = PagePipe::create();
  if (!pipe_) may_lend_ = false;
  while (sent < most) {
    if (may_lend_ && pipe_.filled() == 0 && message.pieces.left() > 0) {
      std::array<iovec, 1> piece;
      message.pieces.next(piece, message.pieces.left());
      const ssize_t n = pipe_.fill(piece[0]);
      if (n > 0) message.pieces.advance(static_cast<std::size_t>(n));
      message.pages_given |= n > 0;
      if (n < 0) may_lend_ = false;  // this memory is of no kind that can be lent
    }
    const std::size_t before = sent;
    if (!pipe_.empty_into(fd, most - sent, message.pieces.left() > 0, sent)) return Went::kEnded;
    if (sent == before) break;
  }
  return Went::kOn;
}

Went BulkSender::progress(ByteStream& stream, std::size_t most, std::uint64_t told, std::size_t& did) {
  if (stream.plain_fd() < 0) may_lend_ = false;
  std::vector<std::vector<Buffer>> sent_parts;  // dropped last, because their owners may send
  std::optional<WithoutSigpipe> quiet;
  if (busy() && queue_.front().lent) quiet.emplace();
  std::size_t sent = 0;
  Went went = Went::kOn;
  while (ready(told) && sent < most) {
    Outgoing& message = queue_.front();
    const std::size_t before = sent;
    const bool lends = may_lend_ && (message.pages_given || !RetiredPages::all().full());
    if (message.lent && (lends || pipe_.filled() > 0)) {
      went = lend(stream.plain_fd(), message, most, sent);
    } else if (const ssize_t n = copy(stream, message, most - sent); n < 0) {
      went = Went::kEnded;
    } else {
      sent += static_cast<std::size_t>(n);
    }
    if (went == Went::kEnded) break;
    if (message.pieces.left() == 0 && pipe_.filled() == 0) {
      if (message.lent) {
        bytes_not_taken_ += message.bytes;
        given_.splice(given_.end(), queue_, queue_.begin());
        continue;
      }
      bytes_in_flight_ -= message.bytes;
      sent_parts.push_back(std::move(message.parts));
      queue_.pop_front();
      continue;
    }
    if (sent == before) break;
  }
  if (quiet && went == Went::kEnded) quiet->note_broken();
  did += sent;
  return went;
}

void BulkSender::retire(UniqueFd stream) {
  if (!stream) return;
  std::vector<std::vector<Buffer>> lent;
  if (busy()) given_.splice(given_.end(), queue_, queue_.begin());
  for (Outgoing& message : given_)
    if (message.pages_given) lent.push_back(std::move(message.parts));
  if (!lent.empty()) RetiredPages::all().keep(std::move(stream), std::move(pipe_), std::move(lent));
}

bool BulkSender::taken(std::uint64_t count, std::vector<std::vector<Buffer>>& parts) {
  if (count > given_.size()) return false;
  for (; count > 0; --count) {
    bytes_in_flight_ -= given_.front().bytes;
    bytes_not_taken_ -= given_.front().bytes;
    parts.push_back(std::move(given_.front().parts));
    given_.pop_front();
  }
  return true;
}

// ---- BulkReceiver ---------------------------------------------------------------------------------

Went BulkReceiver::progress(ByteStream& stream, std::size_t most, std::size_t& did) {
  while (busy() && !lost_ && most > 0) {
    Announced& first = announced_.front();
    if (!begun_) {
      if (!data_->ask_for_parts(first.arrival, first.bytes)) {
        lost_ = true;  // and so is the link
        return Went::kOn;
      }
      pieces_ = Pieces(first.arrival.parts);
      begun_ = true;
    }
    std::array<iovec, kPieces> list;
    const auto count = static_cast<std::size_t>(pieces_.next(list, most));
    const ssize_t n = stream.read(std::span<const iovec>(list).first(count));
    if (n <= 0) return n == 0 ? Went::kOn : Went::kEnded;
    pieces_.advance(static_cast<std::size_t>(n));
    most -= static_cast<std::size_t>(n);
    did += static_cast<std::size_t>(n);
    if (pieces_.left() == 0) end_first();
  }
  return Went::kOn;
}

void BulkReceiver::end_first() {
  Announced first = std::move(announced_.front());
  announced_.pop_front();
  begun_ = false;
  if (first.lent) {
    ++taken_;
    // A sender that goes closes its control socket before it frees anything: if that is open still, what came
    // was the message.
    if (data_->control->peer_has_left(first.arrival.link)) {
      ++data_->stats.lost;
      return;
    }
  }
  data_->arrivals.push(std::move(first.arrival));
}

}  // namespace troupe::rpc::tcp
