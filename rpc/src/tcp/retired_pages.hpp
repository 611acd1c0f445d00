#pragma once

#include <atomic>
#include <cstddef>
#include <list>
#include <mutex>
#include <vector>

#include <troupe/runtime/buffer.hpp>
#include <troupe/runtime/unique_fd.hpp>

#include "tcp/page_pipe.hpp"

namespace troupe::rpc::tcp {

/// Memory that was lent to the kernel for streams that have been given up. Its pages may still lie in the
/// queue of the peer's socket: were the memory used for something else, the peer would read that. So it is
/// kept until the peer's socket is gone, which is at once where the peer has died, and soon where it hears of
/// the link's end; a peer that is stopped keeps it. Of such peers there may be many, and any may do it on
/// purpose: while kMost streams are kept the process lends no more, and payloads are copied.
///
/// One for the process, because memory outlives the transport that lent it. Any thread.
class RetiredPages {
 public:
  static RetiredPages& all();

  /// `stream`: over which `parts` were lent, through `pipe`.
  void keep(UniqueFd stream, PagePipe pipe, std::vector<std::vector<Buffer>> parts);
  /// As many streams are kept as may be: until some are gone nothing more is to be lent, on any stream.
  bool full() const { return count_.load(std::memory_order_relaxed) >= kMost; }
  /// Lets go what no peer can read any more; returns how many streams are left.
  std::size_t look();

 private:
  struct Retired {
    UniqueFd stream;
    PagePipe pipe;
    std::vector<std::vector<Buffer>> parts;
  };
  static bool is_gone(const Retired& retired);

  static constexpr std::size_t kMost = 64;
  std::atomic<std::size_t> count_{0};  // of those in kept_
  std::mutex mutex_;
  std::list<Retired> kept_;
};

}  // namespace troupe::rpc::tcp
