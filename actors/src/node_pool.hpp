#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include <troupe/rpc/off_loop.hpp>
#include <troupe/runtime/log.hpp>
#include <troupe/runtime/loop.hpp>
#include <troupe/runtime/thread_pool.hpp>

namespace troupe {

/// The threads on which a node's long methods run.
class NodePool {
 public:
  NodePool(Loop& loop, ThreadPool::Limits limits);
  ~NodePool();  ///< after the node's endpoint
  NodePool(const NodePool&) = delete;
  NodePool& operator=(const NodePool&) = delete;

  /// Does the job's work on a thread, then runs finish() and `done` on the loop; or refuse() and `done`, at
  /// once, if too many wait. With the turn.
  void run(std::unique_ptr<rpc::PoolJob> job, UniqueFunction<void()> done);
  /// Begins nothing more, and waits for what runs. Not with the turn, which what runs may want. Returns how
  /// many threads still work: what they do comes to nothing. Those that wait are answered with kCancelled.
  std::size_t close(Duration patience);

 private:
  struct Item {
    std::unique_ptr<rpc::PoolJob> job;
    UniqueFunction<void()> done;
  };
  /// The way back to the loop, which may have gone before a thread that was left to itself.
  struct Way {
    std::mutex mutex;
    Loop* loop = nullptr;                              // null: closed
    bool node_gone = false;                            // calls may be dropped anywhere
    std::vector<std::unique_ptr<Item>> too_late = {};  // came between the two
  };
  static void go_back(Way& way, std::unique_ptr<Item> item);

  Loop& loop_;
  std::shared_ptr<Way> way_;
  ThreadPool threads_;
};

}  // namespace troupe
