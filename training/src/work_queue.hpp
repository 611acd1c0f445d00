#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>

#include "work.hpp"

namespace troupe::training {

/// The work of one phase (an epoch, an evaluation), handed out on demand, so that a slow worker does less
/// and nobody waits for it. What a worker had when it died goes to the next one who asks. Plain state.
class WorkQueue {
 public:
  /// Batches 0 .. batches-1 of an epoch. Precondition: finished().
  void begin_training(std::uint64_t epoch, std::uint64_t batches, TableSet tables = TableSet::kOwn);
  /// Examples 0 .. examples-1 of a split, `chunk` at a time. Precondition: finished().
  void begin_evaluation(std::uint64_t epoch, Split split, std::uint64_t examples, std::uint64_t chunk);
  /// Hands out no more of this phase; it is finished once what is under way is done.
  void cut_short();

  /// The next piece for `worker`, nothing if all is handed out.
  std::optional<Work> take(const std::string& worker);
  /// True if the piece was under way with this worker; a second report of it, or one of a piece that has
  /// gone to somebody else, is not counted.
  bool done(const std::string& worker, const Work& work);
  /// The worker is gone; returns how many pieces go to others.
  std::size_t lost(const std::string& worker);

  bool finished() const { return next_ >= count_ && returned_.empty() && under_way_.empty(); }
  WorkKind kind() const { return first_.kind; }
  TableSet tables() const { return first_.tables; }
  std::uint64_t pieces() const { return count_; }
  std::uint64_t pieces_done() const { return done_; }

 private:
  Work piece(std::uint64_t number) const;

  Work first_;               // what all pieces have in common
  std::uint64_t total_ = 0;  // examples of an evaluation
  std::uint64_t chunk_ = 1;
  std::uint64_t count_ = 0;
  std::uint64_t next_ = 0;
  std::uint64_t done_ = 0;
  std::deque<Work> returned_;
  std::multimap<std::string, Work> under_way_;
};

}  // namespace troupe::training
