#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>

#include <troupe/actors/node.hpp>
#include <troupe/rpc/methods.hpp>

#include "layout.hpp"
#include "wire.hpp"

namespace troupe::training {

/// What publishers and readers have for those that they send to, the actor "<stream>.weights.<node>": the
/// newest version, and each older one that somebody is still fetching. With the loop's turn, but for
/// newest().
class WeightSource {
 public:
  static constexpr std::uint64_t kLongestPart = std::uint64_t{256} << 20;
  static constexpr std::size_t kMostRuns = 8192;  ///< of changed pieces in one answer
  /// One that asks for no part for so long may have to begin again.
  static constexpr Duration kIdleFetch{std::chrono::seconds(10)};

  explicit WeightSource(Node& node);
  WeightSource(const WeightSource&) = delete;
  WeightSource& operator=(const WeightSource&) = delete;

  /// To be called before the node goes: nobody is told of anything any more. The actor may live for longer.
  void end();
  static void methods(rpc::Methods<WeightSource>& methods);
  /// Versions of other generations are not given out from now on.
  void set_generation(std::uint64_t generation);
  /// The newest version from now on; who waits is told.
  void set(WeightVersionPtr version);
  /// Any thread; null: none yet.
  WeightVersionPtr newest() const;
  /// Whoever has asked for nothing lately no longer keeps an old version.
  void drop_idle();
  std::uint64_t bytes_out() const { return bytes_out_; }

  /// The newest version, once it is newer than `have` if `wait`, to be fetched by the caller. Waits for the
  /// caller's deadline at most. kFailedPrecondition: of that generation there is nothing here any more.
  rpc::Future<WeightNews> next(const rpc::CallContext& context, std::uint64_t generation, std::uint64_t have,
                               bool wait, bool changes);
  /// Bytes of the version that next() has told of. kFailedPrecondition: it is not kept any more.
  Result<Tensor> part(const rpc::CallContext& context, std::uint64_t generation, std::uint64_t number,
                      std::uint64_t offset, std::uint64_t bytes);
  Result<Tensor> whole(const rpc::CallContext& context, std::uint64_t generation, std::uint64_t number);

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
  };
  WeightNews news(std::uint64_t have, bool changes) const;
  WeightNews begin_fetch(std::uint64_t node, std::uint64_t have, bool changes);
  Result<WeightVersionPtr> fetched(const rpc::CallContext& context, std::uint64_t generation,
                                   std::uint64_t number);

  Node& node_;
  std::uint64_t watch_ = 0;
  std::uint64_t generation_ = 0;
  std::uint64_t asked_ = 0;
  std::uint64_t bytes_out_ = 0;
  std::map<std::uint64_t, Waiting> waiting_;  // by node, as are the fetches
  std::map<std::uint64_t, Fetch> fetches_;
  mutable std::mutex mutex_;
  WeightVersionPtr newest_;  // written with the turn
};

}  // namespace troupe::training
