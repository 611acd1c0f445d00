#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <troupe/rpc/endpoint.hpp>
#include <troupe/runtime/timer.hpp>

namespace troupe {

struct NodeImpl;

/// A node's part in finding nodes that have fallen silent: few watch each one, and all hear of it.
///
/// The members' ids, which are random, form a ring; each node watches the two that follow it there, as its
/// own copy of the directory says. It keeps one link to each of them, on which signs of life go to and fro in
/// each heartbeat interval; all other links rest. So what an idle node sends does not depend on how many
/// there are. Of who says nothing for half the silence limit it tells the registry, which asks that node
/// itself (Registry::suspect) and alone decides on its death. If it is the registry that says nothing, the
/// word goes around the ring, and each node asks for itself.
///
/// Signs of life carry the version of the membership that their sender knows: who is behind asks the registry
/// for what it has missed. With the loop's turn.
class WatchRing {
 public:
  explicit WatchRing(NodeImpl& node);

  /// Who is there has changed: looked at before long.
  void members_changed();
  void close();
  void on_session(rpc::SessionId session, std::uint64_t node_id);
  void on_session_closed(rpc::SessionId session);
  void on_quiet(rpc::SessionId session, Duration silence);
  void on_news(std::uint64_t version);
  /// A node that watches the registry has heard nothing of it.
  void doubt_registry();

 private:
  struct Watched {
    std::uint64_t node_id = 0;
    rpc::SessionId session = 0;  // 0: none at the moment
    TimePoint lost{};            // since then it is not met; 0: it is
  };
  void review();
  void watch(Watched& watched);
  void lose(Watched& watched);
  void try_again();
  void report(std::uint64_t node_id, Duration silence);
  bool takes_part() const;

  NodeImpl& node_;
  std::vector<Watched> watched_;
  bool review_scheduled_ = false;
  Timer again_;     // to meet those whose link was lost
  Timer catch_up_;  // a notice may still be on its way: so not at once
  std::uint64_t latest_ = 0;
  TimePoint doubted_{-1'000'000'000'000};  // long ago
};

}  // namespace troupe
