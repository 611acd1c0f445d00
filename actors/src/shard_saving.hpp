#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <troupe/actors/node.hpp>
#include <troupe/actors/shard_server.hpp>
#include <troupe/rpc/scope.hpp>
#include <troupe/shards/snapshot.hpp>

#include "disk_thread.hpp"

namespace troupe {

/// What `work` returns, a Result; what it throws becomes its error, for which there need be no memory.
template <class Body>
auto result_of(Body& work, std::string_view what) noexcept -> decltype(work()) {
  try {
    try {
      return work();
    } catch (...) {
      return rpc::detail::current_exception_error(what);
    }
  } catch (...) {
    return Error{Code::kResourceExhausted, "out of memory"};  // so short that it needs none
  }
}

/// A server, as the other thread knows it, which may still be at work when that has gone.
class ShardServer::Shore {
 public:
  Shore(ShardServer& server, shards::OptimizerList known, shards::MakeRowStore make_store)
      : index_(server.index_),
        count_(server.count_),
        known_(std::move(known)),
        make_store_(std::move(make_store)),
        loop_(&server.node_.loop()) {}

  const shards::OptimizerList& known() const { return known_; }
  /// The slots that a balanced map gives to the server.
  shards::SlotSet own_slots(const shards::TableSpec& spec) const {
    return shards::SlotMap::balanced(spec.slots, count_).slots_of(index_);
  }
  Result<shards::TableShard> make(const shards::TableSpec& spec, shards::SlotSet slots) const {
    return shards::TableShard::create(spec, std::move(slots), make_store_);
  }
  Result<Restored> read_checkpoint(const std::string& folder) const;

  /// Posts `told` to the loop unless the server has gone: then false. It must come, or somebody waits for
  /// ever: while there is no memory for a task, it is tried again.
  template <class Told>
  bool post(const std::shared_ptr<Told>& told) {
    static_assert(sizeof(told) <= Task::kInlineBytes);
    constexpr std::chrono::milliseconds kAgain{1};
    for (;;) {
      try {
        const std::lock_guard lock(mutex_);
        if (loop_ == nullptr) return false;
        loop_->post([told] { (*told)(); });
        return true;
      } catch (const std::bad_alloc&) {
        std::this_thread::sleep_for(kAgain);
      }
    }
  }
  /// The server goes.
  void leave() {
    gone_ = true;
    const std::lock_guard lock(mutex_);
    loop_ = nullptr;
  }
  const std::atomic<bool>& gone() const { return gone_; }

 private:
  const std::uint32_t index_;
  const std::uint32_t count_;
  const shards::OptimizerList known_;
  const shards::MakeRowStore make_store_;
  std::atomic<bool> gone_{false};
  std::mutex mutex_;  // of the following
  Loop* loop_;
};

/// Tables of a checkpoint.
struct ShardServer::Restored {
  std::vector<shards::TableShard> tables;
  std::uint64_t rows = 0;
};

template <class Body, class Then>
void ShardServer::on_disk(Body work, Then then) {
  // All that is needed later is made now: who calls this hears if there is no memory for it.
  using Answer = decltype(std::declval<Body&>()());
  struct Job {
    std::weak_ptr<int> alive;
    Body work;
    Then then;
    std::optional<Answer> answer = {};
    void operator()() {
      auto found = std::move(*answer);  // to be ended here, on the loop
      if (!alive.expired()) then(std::move(found));
    }
  };
  auto job = std::make_shared<Job>(Job{alive_, std::move(work), std::move(then)});
  disk_->post([shore = shore_, job = std::move(job)] {
    job->answer.emplace(result_of(job->work, "work beside the loop"));
    if (shore->post(job)) return;
    // Rows that may lie on a device are left where they are: its owner has gone.
    constexpr bool kRows =
        std::is_same_v<Answer, Result<shards::TableShard>> || std::is_same_v<Answer, Result<Restored>>;
    if constexpr (kRows) (void)std::make_unique<std::shared_ptr<Job>>(job).release();
  });
}

/// A checkpoint on its way to the disk: cuts of all its tables, taken at one moment; pages of them copied on
/// the loop, one a task, and written on the other thread, a few at a time. Loop only.
class ShardServer::Saving {
 public:
  Saving(ShardServer& server, std::string folder, const std::vector<std::string>& tables,
         rpc::Promise<std::vector<std::string>> promise);
  Saving(const Saving&) = delete;
  Saving& operator=(const Saving&) = delete;
  ~Saving();

  /// Takes the cuts and begins. Ends by itself, which destroys this.
  void begin();
  /// What somebody who wants to save is told.
  std::string state() const;

 private:
  struct Part {
    std::string name;
    Table* table = nullptr;
    std::shared_ptr<shards::ShardFileWriter> writer;  // the other thread may have it for longer
    shards::ExtractPage page;
  };
  void settled();
  Result<void> open(const std::string& name);
  void go_on();
  Result<void> step();
  Result<void> copy_page(Part& part);
  /// Has the other thread do it, unless it has been given up by then; `then`, with its outcome, comes back.
  template <class Body, class Then>
  void give_to_disk(Body work, Then then);
  void finished(Result<shards::FileEntry> entry);
  void came_back(const Result<void>& result);
  void fail(Error error);
  void close_cuts();
  void end();

  ShardServer& server_;
  const std::string folder_;
  rpc::Promise<std::vector<std::string>> promise_;
  const TimePoint begun_;
  const std::vector<std::string> names_;
  std::vector<Table*> held_;   // until none of them is in the middle of something
  std::size_t unsettled_ = 0;  // of them
  std::vector<Part> parts_;
  std::size_t at_ = 0;      // the part that is written
  int on_their_way_ = 0;    // what the other thread has been given
  bool scheduled_ = false;  // go_on() will run
  std::vector<std::string> entries_;
  std::optional<Error> error_;  // it has been given up, and ends when the other thread has given all back
  const std::shared_ptr<std::atomic<bool>> given_up_ = std::make_shared<std::atomic<bool>>(false);
};

}  // namespace troupe
