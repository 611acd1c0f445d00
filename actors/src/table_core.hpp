#pragma once

#include <atomic>
#include <functional>
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
  Core(Node& own_node, shards::TableSpec table, const Options& options);

  /// A route as this client uses it.
  struct Routed {
    TableRoute route;
    shards::SlotMap map;
    std::vector<std::uint32_t> numbers;  // of the route's servers, as the client counts them
  };
  /// Where a request goes, and by which route its keys were split.
  struct To {
    std::uint32_t number = 0;  // of the server, as the client counts them
    std::string server;
    std::uint64_t route = 0;
    bool decides = false;
  };
  /// Splits lists of keys and makes one gradient a key: one for each thread that is at it just now.
  struct Splitter {
    Splitter(const shards::TableSpec& spec, std::shared_ptr<const Routed> by)
        : routed(std::move(by)), partitioner(spec, routed->map), merge(spec) {}
    To to(std::uint32_t shard) const;
    std::shared_ptr<const Routed> routed;
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
    Splitter& operator*() const { return *splitter_; }

   private:
    Core& core_;
    std::unique_ptr<Splitter> splitter_;
  };
  /// What one shard is asked for.
  struct Rows {
    To to;
    Tensor keys;                            // uint64 [n], or [1, 2] of a range
    std::vector<std::uint32_t> positions;   // where they go in the caller's memory
    std::optional<shards::RowRange> range;  // these, in place of keys, ...
    std::uint64_t at = 0;                   // ... which go to that row of the caller's memory, and behind it
    std::shared_ptr<const Tensor> into = {};  // of a range, if it is received there
  };
  struct Gradients {
    To to;
    Tensor keys;    // uint64 [n], each once, or [ranges, 2]
    Tensor values;  // [n, dim], float32 or, if that is wanted, of the table's type
    PulledVersion pulled;
  };
  struct Read;
  struct Pushing;
  template <class Whole, class Reply>
  struct Repeated;

  /// Whether workers wait for each other.
  bool waits() const { return !std::holds_alternative<shards::Asynchronous>(spec.consistency); }
  bool in_rounds() const { return shards::in_rounds(spec.consistency); }
  WorkerClock worker_clock() const { return {joined ? worker : 0, clock}; }
  void raise_clock(std::uint64_t to);
  TimePoint deadline() const { return node.loop().clock().now() + timeout; }
  Tensor key_tensor(std::span<const std::uint64_t> keys) const;

  // Any thread; they take no turn.
  std::shared_ptr<const Routed> routed();
  /// Servers of the present route.
  std::vector<std::string> servers() { return routed()->route.servers; }
  std::string decider() { return routed()->route.servers.front(); }
  /// Takes a route if it is newer. kDataLoss for one that cannot be.
  Result<void> take_route(const TableRoute& route, const std::vector<std::uint64_t>& generations = {});
  void take_generation(std::uint32_t number, std::uint64_t generation);
  std::uint64_t generation(std::uint32_t number);
  /// A range, or a list.
  Result<std::vector<Rows>> split_rows(const shards::RowKeys& keys, bool pull);
  Result<std::vector<Gradients>> split_gradients(const shards::RowKeys& keys, const float* gradients,
                                                 const PulledVersions& versions);
  /// Makes them numbers of the table's type, if they are to be sent so.
  Result<void> make_half(std::vector<Gradients>& parts) const;
  Result<void> make_half(Gradients& part) const;
  /// Holds them to the norm that a push may have, if there is one.
  void clip(std::vector<Gradients>& parts) const;
  /// The table's step that a push is, by what its pull saw.
  static std::uint64_t step_of(const PulledVersions& versions);
  /// The same requests, split by a newer route.
  Result<std::vector<Rows>> split_again(const Rows& part);
  Result<std::vector<Gradients>> split_again(const Gradients& part);

  // With the turn, or without it: they take it. `keys` may be one range.

  /// `keep`: what `out` lies in, if that is to be kept until nothing writes there any more. `into`: it is
  /// this one, float32 [rows, dim], contiguous, in which a range's rows are received; it may then be written
  /// to after an error, too.
  rpc::Future<PulledVersions> read(const shards::RowKeys& keys, float* out, bool pull, TimePoint deadline,
                                   std::shared_ptr<const void> keep, const Tensor* into = nullptr);
  rpc::Future<PulledVersions> read_range(const shards::RowRange& rows, float* out, bool pull);
  rpc::Future<PulledVersions> read_tensor(const Tensor& out, std::uint64_t first, bool pull);
  rpc::Future<PushSummary> push(const shards::RowKeys& keys, const float* gradients,
                                const PulledVersions& versions, std::optional<PushIdentity> identity,
                                std::uint64_t samples);
  rpc::Future<PushPullSummary> push_pull(std::span<const std::uint64_t> keys, const float* gradients,
                                         const PulledVersions& versions,
                                         std::span<const std::uint64_t> pull_keys, float* out,
                                         std::optional<PushIdentity> identity, std::uint64_t samples);
  rpc::Future<PushPullSummary> push_then_pull(std::span<const std::uint64_t> keys, const float* gradients,
                                              const PulledVersions& versions,
                                              std::span<const std::uint64_t> pull_keys, float* out,
                                              std::optional<PushIdentity> identity, std::uint64_t samples);

  template <class T>
  rpc::Future<T> refused(const Error& why, TimePoint until) const {
    Loop::Turn turn(node.loop());
    rpc::Promise<T> promise(node.loop(), until);
    auto future = promise.future();
    promise.set(why);
    return future;
  }

  Node& node;
  const shards::TableSpec spec;
  const Duration timeout;
  const Duration repeat_for;
  const bool half_pulls, half_pushes;  // of tables whose rows are kept so
  const std::uint64_t worker;
  std::atomic<std::uint64_t> clock{0};
  std::atomic<std::uint64_t> sequence{0};
  std::atomic<bool> joined{false};
  std::atomic<std::uint64_t> open_clock{0};  // up to it nobody waits

 private:
  // Any thread.
  std::size_t rows_at_once() const;
  Tensor gradient_tensor(std::uint64_t rows) const;
  /// `at`: the row of the caller's memory to which the first one goes; `tells`: the decider is asked in any
  /// case.
  Result<std::vector<Rows>> split_range(const Splitter& splitter, const shards::RowRange& range,
                                        std::uint64_t at, bool tells) const;
  Result<std::vector<Gradients>> merge_keys(Splitter& splitter, const shards::RowKeys& keys,
                                            const float* gradients) const;
  Result<std::vector<Gradients>> copy_ranges(const Splitter& splitter, const shards::RowKeys& ranges,
                                             const float* gradients) const;

  // With the turn.
  Pushing next_push(const std::optional<PushIdentity>& identity, const PulledVersions& versions);
  template <class Whole>
  void send(const std::shared_ptr<TableGather<Whole>>& gather, const Pushing& push, Gradients part,
            std::function<void()> after = {});
  void send(const std::shared_ptr<TableGather<PushPullSummary>>& gather, const Pushing& push,
            const Gradients& part, Rows rows, float* out);
  template <class Whole>
  void pushed(const std::shared_ptr<TableGather<Whole>>& gather, const Pushing& push, const Gradients& part,
              const PushReply& reply, bool again, const std::function<void()>& after);
  template <class Whole>
  void send(const std::shared_ptr<TableGather<Whole>>& gather, Rows rows, float* out, bool pull,
            std::function<void()> after = {});
  rpc::Future<PushSummary> offer(const Pushing& push, std::uint64_t samples, std::uint64_t seen,
                                 TimePoint until, const PushSummary& kept);

  std::mutex mutex_;  // of the following
  std::shared_ptr<const Routed> routed_;
  std::vector<std::string> known_;          // servers, in the order in which they came into a route
  std::vector<std::uint64_t> generations_;  // of those
  std::vector<std::unique_ptr<Splitter>> idle_;
};

}  // namespace troupe
