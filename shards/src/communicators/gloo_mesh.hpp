#pragma once

#include <gloo/context.h>
#include <gloo/transport/unbound_buffer.h>

#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

namespace troupe::shards {

/// While there is one, writing to a closed socket does not end the process. Threads that are begun meanwhile
/// inherit that. One thread.
class NoSigpipe {
 public:
  NoSigpipe();
  ~NoSigpipe();
  NoSigpipe(const NoSigpipe&) = delete;
  NoSigpipe& operator=(const NoSigpipe&) = delete;

 private:
  sigset_t before_{};
};

/// The members' sockets, each connected with each other's. Functions throw what Gloo does.
class GlooMesh final : public gloo::Context {
 public:
  /// Listens at `address`, which stands in numbers; one port for each other member.
  GlooMesh(int own_rank, int members, const std::string& address, std::chrono::milliseconds timeout);

  /// Where the others find this member.
  std::string addresses();
  /// `all`: the members' addresses(), by rank.
  void connect(const std::vector<std::string>& all);
  /// `bytes` from `at` on of a block of memory, for a member or from one.
  struct Part {
    int member = 0;
    std::size_t at = 0;
    std::size_t bytes = 0;
  };
  /// Sends these parts of `from` and fills those of `to`, all at once; parts of no bytes do not travel. Of
  /// what goes between two members, that of one slot meets in order. `heard` is told who has sent.
  void exchange(std::uint64_t slot, std::span<std::byte> from, std::span<const Part> sends,
                std::span<std::byte> to, std::span<const Part> takes,
                const std::function<void(int member)>& heard = {});
  /// Memory for a member, or to be filled by one.
  struct Move {
    int member = 0;
    std::uint64_t slot = 0;
    std::span<std::byte> bytes;
  };
  void exchange(std::span<const Move> sends, std::span<const Move> takes);

  /// Waits until a connection has been closed, or all by abort(). Returns whose, or -1. Once.
  int wait_for_loss();
  /// Whatever waits for others fails, here at once and at the others soon. Any thread.
  void abort() noexcept;

 private:
  using Block = gloo::transport::UnboundBuffer;
  class Waiting;

  char nothing_ = 0;
  std::unique_ptr<Block> any_member_;
  std::vector<std::unique_ptr<Block>> each_member_;  // by rank
  std::mutex mutex_;
  bool aborted_ = false;
  std::vector<Block*> waiting_;  // what somebody waits for in exchange()
};

/// What is sent under a name of its own.
constexpr std::uint64_t own_slot(std::uint8_t kind, std::uint32_t tag) {
  return std::uint64_t{0xf0} << 56 | std::uint64_t{kind} << 48 | tag;
}

}  // namespace troupe::shards
