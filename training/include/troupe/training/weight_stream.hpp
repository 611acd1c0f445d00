#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <troupe/actors/node.hpp>
#include <troupe/runtime/clock.hpp>
#include <troupe/runtime/result.hpp>
#include <troupe/runtime/tensor.hpp>

/// Weights on their way from one trainer to whoever reads them: see docs/weight-stream.md.
namespace troupe::training {

struct WeightLayout;
struct WeightVersion;

/// One tensor of a stream. Names are unique in it.
struct WeightSpec {
  std::string name;
  DType dtype = DType::kFloat32;
  Shape shape;
  friend bool operator==(const WeightSpec&, const WeightSpec&) = default;
};

/// One whole version of a stream's tensors. It never changes, and its memory is kept for as long as somebody
/// has it. Any thread.
class Weights {
 public:
  explicit Weights(std::shared_ptr<const WeightVersion> version) : version_(std::move(version)) {}

  /// Counts from 1 within a generation. Some may be missing: a reader gets the newest one.
  std::uint64_t version() const;
  /// Which publisher it comes from: another number for each that has been made.
  std::uint64_t generation() const;
  /// What the publisher has said of it.
  const std::map<std::string, std::string>& metadata() const;
  std::span<const WeightSpec> specs() const;
  /// Shares the version's memory, which others read, too: not to be written. BadTensor: no such index.
  Tensor tensor(std::size_t index) const;
  /// kNotFound.
  Result<Tensor> tensor(std::string_view name) const;

 private:
  std::shared_ptr<const WeightVersion> version_;
};

/// A version in the making: tensors to be written, of which nobody knows yet. They are dropped before it is
/// published.
class WeightDraft {
 public:
  WeightDraft(WeightDraft&&) noexcept = default;
  WeightDraft& operator=(WeightDraft&&) noexcept = default;
  /// Contents undefined. BadTensor: no such index.
  Tensor tensor(std::size_t index) const;
  /// kNotFound.
  Result<Tensor> tensor(std::string_view name) const;

 private:
  friend class WeightPublisher;
  WeightDraft(std::shared_ptr<const WeightLayout> layout, Buffer slab)
      : layout_(std::move(layout)), slab_(std::move(slab)) {}
  std::shared_ptr<const WeightLayout> layout_;
  Buffer slab_;
};

struct WeightPublisherOptions {
  /// How many versions may have memory, the one in the making among them: while so many are held nothing is
  /// published. An older one is held by who still fetches or has mapped it, and by who keeps Weights, or a
  /// tensor, of it in this process. All of them together should fit into NodeOptions::shared_pool: what does
  /// not is copied, not mapped.
  std::size_t max_versions = 4;
  /// How many other machines this one sends to; those send on.
  std::size_t fan_out = 4;
  /// Compares each version with the one before, so that readers who ask for it (WeightReaderOptions) fetch
  /// only what has changed. Costs reading both.
  bool find_changes = false;
  std::size_t piece_bytes = std::size_t{64} << 10;  ///< what is compared, and has changed or not, as a whole
  std::size_t part_bytes = std::size_t{8} << 20;    ///< what travels in one message to another machine
  /// Where this process runs; empty: this machine, as the system knows it. Readers of the same place share
  /// memory, or so it is tried.
  std::string place = {};
};

/// The trainer's end of a stream, an actor "<stream>.weights" of its node, which must outlive it. Readers
/// never make it wait.
class WeightPublisher {
 public:
  /// kAlreadyExists: the cluster has a stream of this name. kInvalidArgument: no tensors, names that are
  /// empty or come twice, shapes of too many bytes, an option of zero.
  static Result<std::unique_ptr<WeightPublisher>> on(Node& node, const std::string& stream,
                                                     std::vector<WeightSpec> specs,
                                                     const WeightPublisherOptions& options = {});
  /// Ends the stream; readers keep what they have, and follow the next publisher of this name. Tells the
  /// first node, and waits for its answer.
  ~WeightPublisher();
  WeightPublisher(const WeightPublisher&) = delete;
  WeightPublisher& operator=(const WeightPublisher&) = delete;

  /// Copies the tensors, in the order of the specs, and makes them the newest version, whose number it
  /// returns. Any thread but the loop's; the copying is done on it, without the turn.
  /// kInvalidArgument: other dtypes or shapes, strided, or not in host memory. kResourceExhausted:
  /// `max_versions` have memory; the newest one stays what it was.
  Result<std::uint64_t> publish(std::span<const Tensor> tensors,
                                std::map<std::string, std::string> metadata = {});
  /// The same without a copy: memory to write the next version into, then publish() of it. Errors as above;
  /// kFailedPrecondition besides: somebody still has a tensor of the draft, or this is the loop's thread.
  Result<WeightDraft> draft();
  Result<std::uint64_t> publish(WeightDraft draft, std::map<std::string, std::string> metadata = {});
  /// What this process itself may read; null: nothing was published. Any thread.
  std::shared_ptr<const Weights> newest() const;

  struct Stats {
    std::uint64_t published = 0;  ///< the newest version's number
    std::size_t versions = 0;     ///< that have memory here
    std::size_t readers = 0;      ///< nodes that follow, the far ones among them
    std::size_t direct = 0;       ///< of these, those that this node itself sends to
    std::uint64_t bytes_out = 0;  ///< sent in parts; what is mapped is not sent
  };
  Stats stats() const;

 private:
  struct State;
  explicit WeightPublisher(std::shared_ptr<State> state) : state_(std::move(state)) {}
  std::shared_ptr<State> state_;
};

struct WeightReaderOptions {
  /// Whether it takes each new version as soon as there is one; else only when refresh() asks.
  bool follow = true;
  /// Whether it fetches only what has changed since the version that it has, and copies the rest from there.
  /// Means something if the publisher finds changes, and between machines.
  bool only_changes = false;
  std::string place = {};                           ///< as WeightPublisherOptions::place
  Duration part_timeout{std::chrono::seconds(30)};  ///< for one part of a version to come
  Duration silence_limit{
      std::chrono::seconds(10)};  ///< without news the publisher is asked whether all is well
  /// Called on the loop with each version, at once when it is whole. Should not throw, nor take long.
  std::function<void(const std::shared_ptr<const Weights>&)> on_version = {};
};

/// A reader's end of a stream, an actor "<stream>.weights.<node>" of its node, which must outlive it; one of
/// a stream at each node. It sends on to others what it has: to those of its machine by sharing memory. It
/// may be there before the publisher, and stays when that dies.
class WeightReader {
 public:
  /// kAlreadyExists: the node has one for this stream. kInvalidArgument: an option of zero.
  static Result<std::unique_ptr<WeightReader>> on(Node& node, const std::string& stream,
                                                  WeightReaderOptions options = {});
  /// Tells the first node, and waits for its answer.
  ~WeightReader();
  WeightReader(const WeightReader&) = delete;
  WeightReader& operator=(const WeightReader&) = delete;

  /// The newest version that is here; null: none yet. Any thread; waits for nothing but a lock that is held
  /// for the copy of a pointer.
  std::shared_ptr<const Weights> newest() const;
  /// Waits until newest() is another one than `last` and returns it. Any thread. kDeadlineExceeded says what
  /// the reader waits for.
  Result<std::shared_ptr<const Weights>> wait_for_next(const std::shared_ptr<const Weights>& last,
                                                       Duration timeout);
  /// Fetches the newest version that there is now. Any thread but the loop's, where it is
  /// kFailedPrecondition. kDeadlineExceeded,
  /// kUnavailable: no publisher, or it died; kNotFound: nothing was published yet.
  Result<std::shared_ptr<const Weights>> refresh(Duration timeout);

  struct Stats {
    std::string parent;                ///< the actor that it is told by; empty: none just now
    std::uint64_t taken = 0;           ///< versions
    std::uint64_t bytes_mapped = 0;    ///< read where their sender has them
    std::uint64_t bytes_received = 0;  ///< in parts
    std::uint64_t bytes_kept = 0;      ///< copied from the version before, for they had not changed
    std::uint64_t bytes_out = 0;       ///< sent on in parts
    std::uint64_t attached = 0;        ///< times that it was given a parent
    std::string trouble;  ///< why it has no parent, or the last reason why it had to look for another
  };
  Stats stats() const;

 private:
  class Core;
  explicit WeightReader(std::shared_ptr<Core> core) : core_(std::move(core)) {}
  std::shared_ptr<Core> core_;
};

}  // namespace troupe::training
