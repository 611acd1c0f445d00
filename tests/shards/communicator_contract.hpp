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
inline std::vector<std::string> with_members(const MakeCommunicator& make, int members,
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
      auto made = make(options, rendezvous.of(rank));
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
/// What the members' elements give, one after the other.
double reduced(ReduceOp op, int members, std::int64_t i);

void collectives_give_what_a_plain_loop_gives(const MakeCommunicator& make);
void unequal_parts_find_their_places(const MakeCommunicator& make);
void transfers_meet_by_tag_and_cross(const MakeCommunicator& make);
void works_may_be_many_and_are_told_in_order(const MakeCommunicator& make);
void parts_of_a_group_are_groups(const MakeCommunicator& make);
void what_is_wrong_by_itself_is_refused_and_the_group_goes_on(const MakeCommunicator& make);
void members_that_do_different_things_are_told(const MakeCommunicator& make);
void who_does_not_come_ends_it_in_time(const MakeCommunicator& make);
void aborting_ends_what_waits_everywhere(const MakeCommunicator& make);
void a_group_that_does_not_come_together_says_so(const MakeCommunicator& make);

}  // namespace troupe::shards::test
