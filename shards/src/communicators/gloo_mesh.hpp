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
  class Exchange;
  /// Sends these parts of `from` and fills those of `to`, all at once. `heard` is told who has sent, one
  /// after the other.
  void exchange(std::uint64_t slot, std::span<std::byte> from, std::span<const Part> sends,
                std::span<std::byte> to, std::span<const Part> takes,
                const std::function<void(int member)>& heard = {});

  /// Waits until a connection has been closed, or all by abort(). Returns whose, or -1. Once.
  int wait_for_loss();
  /// Whatever waits for others fails, here at once and at the others soon. Any thread.
  void abort() noexcept;

 private:
  using Block = gloo::transport::UnboundBuffer;

  char nothing_ = 0;
  std::unique_ptr<Block> any_member_;
  std::vector<std::unique_ptr<Block>> each_member_;  // by rank
  std::mutex mutex_;
  bool aborted_ = false;
  std::vector<Block*> waiting_;  // what somebody waits for in exchange()
};

/// Two blocks of memory, one to send of and one to fill, and what is under way with them. Of what goes
/// between two members, that of one slot meets in order; what has no bytes does not travel. One thread.
class GlooMesh::Exchange {
 public:
  Exchange(GlooMesh& mesh, std::span<std::byte> from, std::span<std::byte> to);
  ~Exchange();
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

  void send(std::uint64_t slot, const Part& part);
  void receive(std::uint64_t slot, const Part& part);
  /// Waits for the next part of this member. Precondition: one is awaited.
  void wait_received(int member);
  /// Waits for all that is left.
  void finish();

 private:
  /// Of one member: Gloo tells of one block whether something has come, but not reliably from whom.
  struct Target {
    std::unique_ptr<Block> block;
    std::size_t awaited = 0;
  };
  Block& watched(std::unique_ptr<Block>& block);

  GlooMesh& mesh_;
  const std::span<std::byte> to_;
  std::unique_ptr<Block> source_;
  std::size_t sent_ = 0;
  std::vector<Target> targets_;  // by rank
};

/// What is sent under a name of its own.
constexpr std::uint64_t own_slot(std::uint8_t kind, std::uint32_t tag) {
  return std::uint64_t{0xf0} << 56 | std::uint64_t{kind} << 48 | tag;
}

}  // namespace troupe::shards
