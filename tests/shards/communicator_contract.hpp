#pragma once

#include <doctest/doctest.h>

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <troupe/shards/communicator.hpp>

/// What every Communicator does, whatever carries it. A new kind runs these with its own factory.
namespace troupe::shards::test {

using MakeCommunicator = std::function<Result<std::unique_ptr<Communicator>>(CommunicatorOptions options,
                                                                             AddressExchange exchange)>;

/// A kind of communicator, and where its tensors lie.
struct CommunicatorKind {
  MakeCommunicator make;
  int most_members = 5;
  /// Of members that do different things, those that agree with all they exchange something with may be done.
  bool done_beside_others = false;
  /// A collective past max_waiting is refused; else it waits for room.
  bool refuses_more = true;
  /// A member's tensor where this kind works on it, with what a host's holds; and back.
  std::function<Tensor(int rank, const Tensor& host)> place = [](int, const Tensor& host) { return host; };
  std::function<Tensor(int rank, const Tensor& there)> fetch = [](int, const Tensor& there) { return there; };
  std::function<bool(DType, ReduceOp)> reduces = [](DType, ReduceOp) { return true; };
};

/// Whether a kind can have so many members here; if not, says that the test is skipped.
inline bool enough_for(const CommunicatorKind& kind, int members) {
  if (kind.most_members >= members) return true;
  MESSAGE("skipped: there are GPUs for ", kind.most_members, " members, not ", members);
  return false;
}

/// Members of one process, each a thread, tell each other their addresses.
class Rendezvous {
 public:
  explicit Rendezvous(int members) : all_(static_cast<std::size_t>(members)) {}
  AddressExchange of(int rank) {
    return [this, rank](std::string mine, Duration timeout) -> Result<std::vector<std::string>> {
      std::unique_lock lock(mutex_);
      all_[static_cast<std::size_t>(rank)] = std::move(mine);
      ++there_;
      changed_.notify_all();
      if (changed_.wait_for(lock, timeout, [&] { return there_ == all_.size(); })) return all_;
      return Error{Code::kDeadlineExceeded, "not all members came"};
    };
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> all_;
  std::size_t there_ = 0;
};

/// Forms a group and has each member do `body`, on a thread of its own. What the members find wrong is
/// returned: doctest's own checks are for one thread.
inline std::vector<std::string> with_members(const CommunicatorKind& kind, int members,
                                             const std::function<std::string(Communicator&)>& body,
                                             CommunicatorOptions options = {}) {
  Rendezvous rendezvous(members);
  std::vector<std::string> found(static_cast<std::size_t>(members));
  std::vector<std::thread> threads;
  threads.reserve(found.size());
  for (int rank = 0; rank < members; ++rank) {
    threads.emplace_back([&, rank, options]() mutable {
      options.rank = rank;
      options.size = members;
      auto made = kind.make(options, rendezvous.of(rank));
      found[static_cast<std::size_t>(rank)] = made ? body(**made) : made.error().to_string();
    });
  }
  for (std::thread& thread : threads) thread.join();
  return found;
}

inline void all_well(const std::vector<std::string>& found) {
  for (std::size_t rank = 0; rank < found.size(); ++rank) {
    CAPTURE(rank);
    CHECK(found[rank] == "");
  }
}

/// Of member `rank`, element `i`: small whole numbers, which all types hold.
inline double value_at(int rank, std::int64_t i) {
  return static_cast<double>((rank * 5 + i * 3) % 7 + 1);
}

double element(const Tensor& tensor, std::int64_t i);
void set_element(const Tensor& tensor, std::int64_t i, double value);
/// A member's own: value_at() in each element.
Tensor filled(DType dtype, std::int64_t n, int rank);
/// Empty if tensor[i] is expected(i) for all, else what is not.
std::string differences(const Tensor& tensor, const std::function<double(std::int64_t)>& expected);
/// One member's tensors of a kind.
class Side {
 public:
  Side(const CommunicatorKind& kind, int rank) : kind_(kind), rank_(rank) {}
  Tensor place(const Tensor& host) const { return kind_.place(rank_, host); }
  Tensor filled(DType dtype, std::int64_t n, int rank) const { return place(test::filled(dtype, n, rank)); }
  Tensor zeros(DType dtype, std::int64_t n) const { return place(Tensor::zeros(dtype, Shape{n})); }
  double element(const Tensor& tensor, std::int64_t i) const {
    return test::element(kind_.fetch(rank_, tensor), i);
  }
  std::string differences(const Tensor& tensor, const std::function<double(std::int64_t)>& expected) const {
    return test::differences(kind_.fetch(rank_, tensor), expected);
  }

 private:
  const CommunicatorKind& kind_;
  const int rank_;
};

/// What the members' elements give, one after the other.
double reduced(ReduceOp op, int members, std::int64_t i);

void collectives_give_what_a_plain_loop_gives(const CommunicatorKind& kind);
void unequal_parts_find_their_places(const CommunicatorKind& kind);
void transfers_meet_by_tag_and_cross(const CommunicatorKind& kind);
void works_may_be_many_and_are_told_in_order(const CommunicatorKind& kind);
void groups_end_together(const CommunicatorKind& kind);
void parts_of_a_group_are_groups(const CommunicatorKind& kind);
void what_is_wrong_by_itself_is_refused_and_the_group_goes_on(const CommunicatorKind& kind);
void members_that_do_different_things_are_told(const CommunicatorKind& kind);
void who_does_not_come_ends_it_in_time(const CommunicatorKind& kind);
void aborting_ends_what_waits_everywhere(const CommunicatorKind& kind);
void a_group_that_does_not_come_together_says_so(const CommunicatorKind& kind);

}  // namespace troupe::shards::test
