// The program is linked with --wrap=recv and --wrap=recvmsg: what the transports receive comes through here.
#include "fuzz/tamper.hpp"

#include <sys/socket.h>

#include <algorithm>
#include <cstring>

namespace troupe::rpc::conversation {

namespace {
/// One conversation at a time, on one thread.
thread_local Tamper* present = nullptr;
}  // namespace

Tamper::Tamper(std::vector<Edit> edits, bool wanted) : edits_(std::move(edits)) {
  if (!wanted) edits_.clear();
  present = this;
  schedule();
}

Tamper::~Tamper() {
  present = nullptr;
}

/// Where the next edit is.
void Tamper::schedule() {
  for (; next_ < edits_.size() && edits_[next_].what == Edit::What::kLong; ++next_)
    at_ += std::uint64_t{256} * edits_[next_].gap;
  at_ = next_ < edits_.size() ? at_ + edits_[next_].gap : UINT64_MAX;
}

bool Tamper::ended(int fd) const {
  return std::find(ended_.begin(), ended_.end(), fd) != ended_.end();
}

std::size_t Tamper::room_before(std::size_t wanted) {
  if (!counts_ || next_ >= edits_.size() || edits_[next_].what != Edit::What::kShort) return wanted;
  const std::uint64_t before = at_ - bytes_;
  if (before >= wanted) return wanted;
  ++changed_;
  ++next_;
  schedule();
  return std::max<std::size_t>(1, static_cast<std::size_t>(before));
}

std::size_t Tamper::apply(int fd, std::uint8_t* data, std::size_t size) {
  if (!counts_) return size;
  std::size_t done = 0;  // of the bytes at `data`
  while (at_ != UINT64_MAX && at_ - bytes_ < size - done) {
    done += static_cast<std::size_t>(at_ - bytes_);
    bytes_ = at_;
    const Edit edit = edits_[next_++];
    const std::uint64_t here = at_;
    schedule();
    ++changed_;
    switch (edit.what) {
      case Edit::What::kFlip:
        data[done] ^= edit.value;
        break;
      case Edit::What::kSet:
        data[done] = edit.value;
        break;
      case Edit::What::kDrop: {
        const std::size_t lost = std::min<std::size_t>(edit.value, size - done);
        std::memmove(data + done, data + done + lost, size - done - lost);
        size -= lost;
        break;
      }
      case Edit::What::kShort:  // in room_before(): here it has been done already
        --changed_;
        break;
      case Edit::What::kEnd:
        ended_.push_back(fd);
        bytes_ = here;
        return done;
      case Edit::What::kLong:
        break;
    }
    if (at_ <= bytes_ && at_ != UINT64_MAX) at_ = bytes_ + 1;  // each byte is changed once
  }
  bytes_ += size - done;
  return size;
}

}  // namespace troupe::rpc::conversation

using troupe::rpc::conversation::present;

extern "C" {
ssize_t __real_recv(int fd, void* to, size_t size, int flags);
ssize_t __real_recvmsg(int fd, msghdr* message, int flags);
ssize_t __wrap_recv(int fd, void* to, size_t size, int flags);
ssize_t __wrap_recvmsg(int fd, msghdr* message, int flags);

ssize_t __wrap_recv(int fd, void* to, size_t size, int flags) {
  if (present && present->ended(fd)) return 0;
  if (present && !(flags & MSG_PEEK) && size > 0) size = present->room_before(size);
  const ssize_t got = __real_recv(fd, to, size, flags);
  if (!present || got <= 0 || (flags & MSG_PEEK)) return got;
  return static_cast<ssize_t>(
      present->apply(fd, static_cast<std::uint8_t*>(to), static_cast<std::size_t>(got)));
}

ssize_t __wrap_recvmsg(int fd, msghdr* message, int flags) {
  if (present && present->ended(fd)) return 0;
  const ssize_t got = __real_recvmsg(fd, message, flags);
  if (!present || got <= 0 || (flags & MSG_PEEK)) return got;
  // Piece by piece; what an edit takes away at the end of one piece is missing in the whole, and the pieces
  // behind it are given up.
  std::size_t left = static_cast<std::size_t>(got), kept = 0;
  for (size_t i = 0; i < message->msg_iovlen && left > 0; ++i) {
    const std::size_t here = std::min(left, message->msg_iov[i].iov_len);
    const std::size_t stays =
        present->apply(fd, static_cast<std::uint8_t*>(message->msg_iov[i].iov_base), here);
    kept += stays;
    left -= here;
    if (stays < here) break;
  }
  return static_cast<ssize_t>(kept);
}
}
