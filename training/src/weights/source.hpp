#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include <troupe/actors/node.hpp>
#include <troupe/rpc/methods.hpp>
#include <troupe/runtime/timer.hpp>

#include "layout.hpp"
#include "wire.hpp"

namespace troupe::training {

/// What publishers and readers have for those that they send to, the actor "<stream>.weights.<node>": the
/// newest version, and each older one that somebody is still fetching. With the loop's turn, but for
/// newest().
class WeightSource : public std::enable_shared_from_this<WeightSource> {
 public:
  static constexpr std::uint64_t kLongestPart = std::uint64_t{256} << 20;
  static constexpr std::size_t kMostRuns = 8192;  ///< of changed pieces in one answer
  /// One that asks for no part for so long has to begin again, with the newest.
  static constexpr Duration kIdleFetch{std::chrono::seconds(60)};
  /// A version that is on its way here, and how many bytes have come.
  using Coming = std::pair<std::uint64_t, std::uint64_t>;

  explicit WeightSource(Node& node);
  WeightSource(const WeightSource&) = delete;
  WeightSource& operator=(const WeightSource&) = delete;

  /// Listens for nodes that go. `coming`: what to answer to those who ask.
  void begin(std::function<Coming()> coming);
  /// To be called before the node goes, whether it has begun or not: nobody is told of anything any more. The
  /// actor may live for longer.
  void end();
  static void methods(rpc::Methods<WeightSource>& methods);
  /// Versions of other generations are not given out from now on.
  void set_generation(std::uint64_t generation);
  /// The newest version from now on; who waits for it is told.
  void set(WeightVersionPtr version);
  /// Any thread; null: none yet.
  WeightVersionPtr newest() const;
  std::uint64_t bytes_out() const { return bytes_out_; }

  /// The newest version, once it is newer than `have` if `wait`, to be fetched by the caller. Waits for the
  /// caller's deadline at most. kFailedPrecondition: of that generation there is nothing here any more.
  rpc::Future<WeightNews> next(const rpc::CallContext& context, std::uint64_t generation, std::uint64_t have,
                               bool wait, bool changes);
  /// Bytes of the version that next() has told of. kFailedPrecondition: it is not kept any more.
  Result<Tensor> part(const rpc::CallContext& context, std::uint64_t generation, std::uint64_t number,
                      std::uint64_t offset, std::uint64_t bytes);
  /// All of them, to be mapped. kOutOfRange: they lie where nobody can map them.
  Result<Tensor> whole(const rpc::CallContext& context, std::uint64_t generation, std::uint64_t number);
  Coming coming() const;

 private:
  struct Waiting {
    std::uint64_t have = 0;
    bool changes = false;
    std::uint64_t number = 0;
    rpc::Promise<WeightNews> promise;
  };
  struct Fetch {
    WeightVersionPtr version;
    TimePoint used;
    std::uint64_t left = 0;  // bytes that were not asked for yet
  };
  WeightNews news(std::uint64_t have, bool changes) const;
  void begin_fetch(std::uint64_t node, const WeightNews& news);
  Result<std::uint64_t> caller_of(const rpc::CallContext& context) const;
  Result<WeightVersionPtr> fetched(std::uint64_t caller, std::uint64_t generation, std::uint64_t number);
  void gave(std::uint64_t caller, const WeightVersionPtr& version, std::uint64_t bytes);
  void drop_idle();

  Node& node_;
  std::uint64_t watch_ = 0;
  bool listens_ = false;
  bool ended_ = false;
  std::function<Coming()> coming_;
  Timer idle_;
  std::uint64_t generation_ = 0;
  std::uint64_t asked_ = 0;
  std::uint64_t bytes_out_ = 0;
  std::map<std::uint64_t, Waiting> waiting_;  // by node, as are the fetches
  std::map<std::uint64_t, Fetch> fetches_;
  mutable std::mutex mutex_;
  WeightVersionPtr newest_;  // written with the turn
};

}  // namespace troupe::training
