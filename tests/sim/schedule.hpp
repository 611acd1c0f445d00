#pragma once

#include <cstdint>
#include <deque>
#include <initializer_list>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <caf/all.hpp>
#include <troupe/actors/node.hpp>
#include <troupe/actors/remote.hpp>
#include <troupe/rpc/sim.hpp>

#include "history.hpp"

namespace troupe::sim {

inline constexpr Duration kTimeout = std::chrono::milliseconds(300);  ///< of calls
inline constexpr Duration kSilence = std::chrono::seconds(1);

/// What a schedule does wrong, so that the checker can be seen to find it.
enum class Planted {
  kNothing,
  kRunsTwice,    ///< a call is carried out twice
  kLosesItem,    ///< of a stream
  kKeepsObject,  ///< to which nobody refers any more
  kOpensEarly,   ///< a barrier
  kBreaksOff,    ///< what has been taken in is answered with UNAVAILABLE
};

/// What a schedule is like.
struct Plan {
  int nodes = 10;           ///< all are there at the beginning; the first keeps the registry, and stays
  int actions = 60;         ///< joins, deaths, leaves, drains, cuts, stalls and rounds of calls
  double hidden_loss = 0;   ///< of data messages, of which the checker is not told: it must notice
  std::string secret = {};  ///< of the cluster; empty: none
  Planted planted = Planted::kNothing;
};

struct Thing;

/// One run of one seed: a cluster in virtual time whose nodes join, leave (at once or in order), die, stall
/// and are cut off at random while they call each other in all ways, read streams, make objects at each other
/// and wait for each other in barriers.
class Schedule {
 public:
  /// Runs it to its end. `system`: the nodes live there.
  Schedule(std::uint64_t seed, const Plan& plan, caf::actor_system& system);
  Schedule(const Schedule&) = delete;
  Schedule& operator=(const Schedule&) = delete;

  /// What was wrong; empty: nothing.
  const std::vector<std::string>& faults() const { return faults_; }
  /// Of everything that was seen, with its time.
  std::uint64_t hash() const { return hash_; }
  const std::vector<Call>& calls() const { return history_.calls(); }
  bool planted(Planted what) const { return plan_.planted == what; }
  int drains() const { return drains_; }  ///< nodes that have left in order, and finished what was open

 private:
  friend struct Worker;
  friend struct Thing;
  /// Reads a stream to its end, which is that of its call.
  struct Reading {
    std::uint64_t call = 0;
    rpc::StreamReader<std::int64_t> reader;
  };
  /// An object that some node has made at another one.
  struct Made {
    std::uint64_t call = 0;
    int host = 0;  ///< index
  };
  /// Who is to come to a barrier, and who is there.
  struct Barrier {
    std::set<int> expected, entered;
  };
  struct Member {
    std::unique_ptr<Node> node;
    std::string host;
    std::uint64_t life = 0;
  };
  struct Cut {
    std::string host_a, host_b;
    std::uint64_t life_a = 0, life_b = 0;
    TimePoint since;
  };

  int pick(int below) { return std::uniform_int_distribution<int>(0, below - 1)(random_); }
  Duration pick_time(Duration most) {
    return Duration(std::uniform_int_distribution<std::int64_t>(0, most.count())(random_));
  }
  /// One of the last nodes to which something happened, or any.
  int pick_target();
  Member* find(int index);
  TimePoint now() { return world_.clock().now(); }
  void trace(std::initializer_list<std::uint64_t> words);

  void act();
  void start(int index);
  void start_a_missing_one();
  void kill(int index);
  void leave(int index);
  void drain(int index);
  void cut(int a, int b);
  void isolate(int index);
  void mend();
  void stall(int index);
  void call(bool may_wait);
  void make(CallKind kind, Node& node, std::uint64_t number, int last, int middle);
  void read_stream(Node& node, std::uint64_t number, const std::string& actor);
  void read_next(const std::shared_ptr<Reading>& reading);
  void call_object(Node& node, std::uint64_t number, int where);
  void meet();
  void entered(std::uint64_t barrier, int index);
  void left_together(std::uint64_t barrier);
  void finish();
  void check_objects();
  bool agreed();
  void check_members();

  void taken(std::uint64_t call, std::uint64_t life);
  void executed(std::uint64_t call, std::uint64_t life);
  void end_call(std::uint64_t number, const Result<std::int64_t>& answer);

  caf::actor_system& system_;
  Plan plan_;
  std::mt19937_64 random_;
  History history_;
  std::vector<std::string> faults_;
  std::uint64_t hash_ = 0xcbf29ce484222325ULL;
  std::uint64_t lives_ = 0;
  int drains_ = 0;
  std::uint64_t stalled_ = 0;  // the life that stands still just now
  std::vector<int> touched_;
  std::vector<Cut> cuts_;
  rpc::SimWorld world_;
  std::map<int, Member> members_;
  std::deque<RemoteRef<Thing>> held_;
  std::map<const Thing*, Made> things_;  // that live
  std::vector<std::shared_ptr<Reading>> readings_;
  std::vector<Barrier> barriers_;
};

}  // namespace troupe::sim
