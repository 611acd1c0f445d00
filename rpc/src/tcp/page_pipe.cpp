#include "tcp/page_pipe.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace troupe::rpc::tcp {
namespace {

constexpr int kPipeBytes = 1 << 20;

bool would_block() {
  return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR || errno == ENOBUFS || errno == ENOMEM;
}

}  // namespace

PagePipe PagePipe::create() {
  PagePipe pipe;
  std::array<int, 2> fds{-1, -1};
  if (::pipe2(fds.data(), O_NONBLOCK | O_CLOEXEC) != 0) return pipe;
  pipe.out_ = UniqueFd(fds[0]);
  pipe.in_ = UniqueFd(fds[1]);
  ::fcntl(fds[1], F_SETPIPE_SZ,
          kPipeBytes);  // a user may have so many large ones only; a small one works too
  return pipe;
}

ssize_t PagePipe::fill(const iovec& piece) {
  const ssize_t n = ::vmsplice(in_.get(), &piece, 1, SPLICE_F_NONBLOCK);
  if (n < 0) return would_block() ? 0 : -1;
  filled_ += static_cast<std::size_t>(n);
  return n;
}

bool PagePipe::empty_into(int socket, std::size_t most, bool more_follows, std::size_t& moved) {
  for (most = std::min(most, filled_); most > 0;) {
    const bool more = more_follows || filled_ > most;
    const unsigned flags = SPLICE_F_NONBLOCK | SPLICE_F_MOVE | (more ? SPLICE_F_MORE : 0);
    const ssize_t n = ::splice(out_.get(), nullptr, socket, nullptr, most, flags);
    if (n < 0) return would_block();
    if (n == 0) return true;
    const auto here = static_cast<std::size_t>(n);
    most -= here;
    filled_ -= here;
    moved += here;
  }
  return true;
}

}  // namespace troupe::rpc::tcp
