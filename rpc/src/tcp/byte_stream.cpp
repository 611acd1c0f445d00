#include "tcp/byte_stream.hpp"

#include <sys/socket.h>

#include <cerrno>
#include <utility>

#include "control/socket.hpp"

namespace troupe::rpc::tcp {
namespace {

bool would_block() {
  return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR || errno == ENOBUFS || errno == ENOMEM;
}

class PlainStream final : public ByteStream {
 public:
  explicit PlainStream(UniqueFd fd) : fd_(std::move(fd)) {}

  ssize_t read(std::span<const iovec> into) override {
    msghdr header = header_of(into);
    const ssize_t n = into.size() == 1 ? ::recv(fd_.get(), into[0].iov_base, into[0].iov_len, MSG_DONTWAIT)
                                       : ::recvmsg(fd_.get(), &header, MSG_DONTWAIT);
    if (n > 0) return n;
    return n < 0 && would_block() ? 0 : -1;
  }
  ssize_t write(std::span<const iovec> from, bool more_follows) override {
    const msghdr header = header_of(from);
    const ssize_t n =
        ::sendmsg(fd_.get(), &header, MSG_DONTWAIT | MSG_NOSIGNAL | (more_follows ? MSG_MORE : 0));
    return n < 0 && would_block() ? 0 : n;
  }
  ssize_t write(std::span<const std::byte> from) override { return send_some(fd_.get(), from); }
  int fd() const override { return fd_.get(); }
  int plain_fd() const override { return fd_.get(); }
  UniqueFd release() override { return std::move(fd_); }

 private:
  static msghdr header_of(std::span<const iovec> pieces) {
    msghdr header{};
    header.msg_iov = const_cast<iovec*>(pieces.data());  // the kernel only reads it
    header.msg_iovlen = pieces.size();
    return header;
  }

  UniqueFd fd_;
};

}  // namespace

std::unique_ptr<ByteStream> plain_stream(UniqueFd fd) {
  return fd ? std::make_unique<PlainStream>(std::move(fd)) : nullptr;
}

}  // namespace troupe::rpc::tcp
