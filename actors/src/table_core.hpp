#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <troupe/actors/table_client.hpp>
#include <troupe/shards/gradient_merge.hpp>

namespace troupe {

/// Joins the answers of several shards: the last one to come finishes the whole. Loop only, but for its
/// making.
template <class T>
struct TableGather {
  TableGather(Loop& loop, TimePoint until) : promise(loop, until), whole(promise.future()), deadline(until) {}
  /// Whether whoever asked has been answered, or has stopped waiting (Future::get() gives up a while after
  /// the deadline when the loop is busy): memory of theirs is not touched any more.
  bool over(Loop& loop) const { return whole.ready() || loop.clock().now() >= deadline; }
  /// One more shard is asked; cancelling the whole cancels this.
  template <class U>
  void asked(const rpc::Future<U>& part) {
    ++missing;
    asked_again(part);
  }
  /// The same in place of one that has ended.
  template <class U>
  void asked_again(const rpc::Future<U>& part) {
    parts.push_back(part.cancellable());
  }
  void one_done(const Error* why) {
    if (why && !error) error = *why;
    if (--missing > 0) return;
    if (error)
      promise.set(*error);
    else
      promise.set(std::move(value));
  }

  rpc::Promise<T> promise;
  const rpc::Future<T> whole;
  const TimePoint deadline;
  std::vector<std::weak_ptr<rpc::detail::Cancellable>> parts;
  T value{};
  std::optional<Error> error;
  std::size_t missing =
      1;  // one for whoever starts the calls, so that it cannot finish before they all began
};

/// All that are to be asked have been.
template <class T>
void all_asked(const std::shared_ptr<TableGather<T>>& gather) {
  gather->promise.on_cancel([of = std::weak_ptr(gather)] {
    const auto asked = of.lock();
    if (!asked) return;
    for (const auto& each : std::exchange(asked->parts, {}))
      if (const auto part = each.lock()) part->cancel();
  });
  gather->one_done(nullptr);
}

/// What a TableClient and its calls share, so that calls may end after it.
struct TableClient::Core : std::enable_shared_from_this<TableClient::Core> {
  Core(Node& own_node, shards::TableSpec table, std::vector<std::string> names, const Options& options);

  /// Splits lists of keys and makes one gradient a key: one for each thread that is at it just now.
  struct Splitter {
    Splitter(const shards::TableSpec& spec, const shards::SlotMap& map)
        : partitioner(spec, map), merge(spec) {}
    shards::Partitioner partitioner;
    shards::GradientMerge merge;
  };
  /// Has one, of those that are there, until its end.
  class Splitting {
   public:
    explicit Splitting(Core& core);
    ~Splitting();
    Splitting(const Splitting&) = delete;
    Splitting& operator=(const Splitting&) = delete;
    Splitter* operator->() const { return splitter_.get(); }

   private:
    Core& core_;
    std::unique_ptr<Splitter> splitter_;
  };
  /// What one shard is asked for.
  struct Rows {
    std::uint32_t shard = 0;
    Tensor keys;                           // uint64 [n]
    std::vector<std::uint32_t> positions;  // where they go in the caller's memory
  };
  struct Gradients {
    std::uint32_t shard = 0;
    Tensor keys;    // uint64 [n], each once
    Tensor values;  // float32 [n, dim]
    std::uint64_t pulled_version = shards::kNotPulled;
  };
  struct Read;
  struct Pushing;
  template <class Whole, class Reply>
  struct Repeated;

  bool bounded() const { return std::holds_alternative<shards::BoundedStaleness>(spec.consistency); }
  WorkerClock worker_clock() const { return {joined ? worker : 0, clock}; }
  TimePoint deadline() const { return node.loop().clock().now() + timeout; }
  Tensor key_tensor(std::span<const std::uint64_t> keys) const;

  // Any thread; they take no turn.
  Result<std::vector<Rows>> split_rows(std::span<const std::uint64_t> keys, bool pull);
  Result<std::vector<Gradients>> split_gradients(std::span<const std::uint64_t> keys, const float* gradients,
                                                 const PulledVersions& versions);

  // With the turn, or without it: they take it.

  /// `keep`: what `out` lies in, if that is to be kept until nothing writes there any more.
  rpc::Future<PulledVersions> read(std::span<const std::uint64_t> keys, float* out, bool pull,
                                   TimePoint deadline, std::shared_ptr<const void> keep);
  rpc::Future<PushSummary> push(std::span<const std::uint64_t> keys, const float* gradients,
                                const PulledVersions& versions, std::optional<PushIdentity> identity);
  rpc::Future<PushPullSummary> push_pull(std::span<const std::uint64_t> keys, const float* gradients,
                                         const PulledVersions& versions,
                                         std::span<const std::uint64_t> pull_keys, float* out,
                                         std::optional<PushIdentity> identity);
  rpc::Future<PushPullSummary> push_then_pull(std::span<const std::uint64_t> keys, const float* gradients,
                                              const PulledVersions& versions,
                                              std::span<const std::uint64_t> pull_keys, float* out,
                                              std::optional<PushIdentity> identity);

  Node& node;
  const shards::TableSpec spec;
  const std::vector<std::string> servers;
  const Duration timeout;
  const Duration repeat_for;
  const std::uint64_t worker;
  std::atomic<std::uint64_t> clock{0};
  std::atomic<std::uint64_t> sequence{0};
  std::atomic<bool> joined{false};

 private:
  // With the turn.
  Pushing next_push(const std::optional<PushIdentity>& identity);
  template <class Whole>
  void send(const std::shared_ptr<TableGather<Whole>>& gather, const Pushing& push, Gradients part);
  void send(const std::shared_ptr<TableGather<PushPullSummary>>& gather, const Pushing& push, Gradients part,
            Rows rows, float* out);
  void send(const std::shared_ptr<TableGather<PushPullSummary>>& gather, Rows rows, float* out);

  const shards::SlotMap map_;
  std::mutex mutex_;  // of idle_
  std::vector<std::unique_ptr<Splitter>> idle_;
};

}  // namespace troupe
