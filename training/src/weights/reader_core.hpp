#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <troupe/actors/node.hpp>
#include <troupe/runtime/timer.hpp>
#include <troupe/training/weight_stream.hpp>

#include "intake.hpp"
#include "names.hpp"
#include "source.hpp"
#include "wire.hpp"

namespace troupe::training {

/// A reader: joins the stream at its publisher, which names a parent; asks that for versions and fetches
/// them, one after the other; and begins anew, after a pause, when anything of that fails. With the loop's
/// turn, but for newest() and stats().
class WeightReader::Core : public std::enable_shared_from_this<WeightReader::Core> {
 public:
  Core(Node& node, std::string stream, WeightReaderOptions options);
  ~Core();
  Core(const Core&) = delete;
  Core& operator=(const Core&) = delete;

  Result<void> start();
  /// Idempotent. The actor is to be killed after it.
  void close();
  std::shared_ptr<const Weights> newest() const;
  Stats stats() const;
  Node& node() { return node_; }
  std::string actor() const { return source_actor(stream_, node_.name()); }
  /// The newest version that the publisher has now, once it is here.
  rpc::Future<std::shared_ptr<const Weights>> refresh(TimePoint deadline);

 private:
  using Version = std::pair<std::uint64_t, std::uint64_t>;  // generation and number
  struct Refresh {
    TimePoint deadline;
    Version wanted;
    rpc::Promise<std::shared_ptr<const Weights>> promise;
  };
  static constexpr std::size_t kMostAvoided = 64;
  static constexpr Duration kFirstPause{std::chrono::milliseconds(20)};
  static constexpr Duration kLongestPause{std::chrono::seconds(1)};

  Version have() const;
  bool wants_more() const { return options_.follow || !refreshes_.empty(); }
  void join();
  void joined(Result<WeightPlace> place);
  void ask();
  void told(Result<WeightNews> news);
  void ask_whether_all_is_well();
  void doubt(std::uint64_t newest);
  void take(WeightNews news);
  void taken(Result<WeightVersionPtr> version, const WeightIntake::Counts& counts);
  /// `said_by`: who made it so, to be avoided from now on unless empty.
  void begin_again(const Error& why, const std::string& said_by = {});
  void serve_refreshes();
  void expire_refreshes();
  /// Does a step in this reader's name, unless it has ended; what it throws, for want of memory, makes it
  /// begin again.
  template <class Step>
  static void guarded(const std::weak_ptr<Core>& weak, Step step);
  void fail_refreshes(const Error& why);

  Node& node_;
  const std::string stream_;
  const WeightReaderOptions options_;
  const std::string own_place_;
  std::shared_ptr<WeightSource> source_;
  Timer again_, expiry_;
  std::mt19937_64 random_;
  Duration pause_ = kFirstPause;
  bool closed_ = false;
  bool busy_ = false;  // something is under way, or again_ is set
  std::shared_ptr<const WeightLayout> layout_;
  WeightPlace place_;               // of layout_; without a parent: there is none
  std::vector<std::string> avoid_;  // since the last version
  bool has_joined_ = false;
  bool can_map_ = true;  // as far as is known of this parent
  TimePoint asked_at_;
  std::optional<WeightSource::Coming> doubted_;  // what the parent was at when it was looked at last
  WeightVersionPtr whole_;                       // the newest
  std::shared_ptr<WeightIntake> intake_;
  std::list<Refresh> refreshes_;
  mutable std::mutex mutex_;  // what follows; written with the turn
  std::shared_ptr<const Weights> newest_;
  Stats stats_;
};

}  // namespace troupe::training
