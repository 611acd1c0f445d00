#include "mangled_stream.hpp"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "control/socket.hpp"
#include "transport/process_transport.hpp"
#include "transport_contract.hpp"

namespace troupe::rpc::tcp {
namespace {

constexpr std::size_t kReadAhead = 50'000;
constexpr std::size_t kPiece = 3'001;  // less than some records are long

class MangledStream final : public ByteStream {
 public:
  MangledStream(UniqueFd fd, std::string identity) : fd_(std::move(fd)), identity_(std::move(identity)) {}

  ssize_t read(std::span<const iovec> into) override {
    if (ahead_.empty())
      if (const ssize_t n = read_ahead(); n <= 0) return n;
    std::size_t given = 0;
    for (const iovec& place : into) {
      const std::size_t size = std::min({place.iov_len, ahead_.size() - given, kPiece - given});
      std::memcpy(place.iov_base, ahead_.data() + given, size);
      given += size;
    }
    ahead_.erase(ahead_.begin(), ahead_.begin() + static_cast<std::ptrdiff_t>(given));
    return static_cast<ssize_t>(given);
  }
  ssize_t write(std::span<const iovec> from, bool) override {
    ssize_t all = 0;
    for (const iovec& piece : from) {
      const ssize_t n = write({static_cast<const std::byte*>(piece.iov_base), piece.iov_len});
      if (n < 0) return n;
      all += n;
      if (static_cast<std::size_t>(n) < piece.iov_len) break;
    }
    return all;
  }
  ssize_t write(std::span<const std::byte> from) override {
    std::size_t all = 0;
    while (all < from.size()) {
      std::array<std::byte, 4096> mangled;
      const std::size_t size = std::min(mangled.size(), from.size() - all);
      for (std::size_t i = 0; i < size; ++i) mangled[i] = from[all + i] ^ key(written_ + i);
      const ssize_t n = send_some(fd_.get(), std::span<const std::byte>(mangled.data(), size));
      if (n < 0) return n;
      written_ += static_cast<std::uint64_t>(n);
      all += static_cast<std::size_t>(n);
      if (static_cast<std::size_t>(n) < size) break;
    }
    return static_cast<ssize_t>(all);
  }
  bool has_input() const override { return !ahead_.empty(); }
  int fd() const override { return fd_.get(); }
  std::string_view peer_identity() const override { return identity_; }
  UniqueFd release() override { return std::move(fd_); }

 private:
  static std::byte key(std::uint64_t position) {
    return static_cast<std::byte>((position * 167 + 89) ^ (position >> 9));
  }
  ssize_t read_ahead() {
    ahead_.resize(kReadAhead);
    const ssize_t n = ::recv(fd_.get(), ahead_.data(), ahead_.size(), MSG_DONTWAIT);
    const bool just_now = n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR);
    ahead_.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
    for (std::byte& byte : ahead_) byte ^= key(read_++);
    return n > 0 ? n : just_now ? 0 : -1;
  }

  UniqueFd fd_;
  const std::string identity_;
  std::vector<std::byte> ahead_;  // read and not given yet
  std::uint64_t read_ = 0, written_ = 0;
};

}  // namespace

std::unique_ptr<ByteStream> mangled_stream(UniqueFd fd, std::string identity) {
  return fd ? std::make_unique<MangledStream>(std::move(fd), std::move(identity)) : nullptr;
}

}  // namespace troupe::rpc::tcp

namespace troupe::rpc::contract {

std::unique_ptr<Transport> MangledTcp::make(Loop& loop, const char*) {
  auto transport = ProcessTransport::create(loop, options).value();
  transport->streams().set_streams([](UniqueFd fd) { return tcp::mangled_stream(std::move(fd)); });
  return transport;
}

}  // namespace troupe::rpc::contract
