// What ends a communicator.
#include <algorithm>
#include <chrono>
#include <cstdint>

#include "communicator_contract.hpp"

namespace troupe::shards::test {
namespace {

using Steady = std::chrono::steady_clock;

}  // namespace

void members_that_do_different_things_are_told(const CommunicatorKind& kind) {
  using Body = std::function<Work(Communicator&, const Side&)>;
  const std::vector<std::pair<Body, Body>> pairs = {
      {[](Communicator& g, const Side& s) {
         return g.all_reduce(s.filled(DType::kFloat32, 100, 0), ReduceOp::kSum);
       },
       [](Communicator& g, const Side& s) {
         return g.all_reduce(s.filled(DType::kFloat32, 50, 0), ReduceOp::kSum);
       }},
      {[](Communicator& g, const Side& s) {
         return g.all_reduce(s.filled(DType::kFloat32, 100, 0), ReduceOp::kSum);
       },
       [](Communicator& g, const Side& s) {
         return g.all_reduce(s.filled(DType::kInt32, 100, 0), ReduceOp::kSum);
       }},
      {[](Communicator& g, const Side& s) {
         return g.all_reduce(s.filled(DType::kFloat32, 100, 0), ReduceOp::kSum);
       },
       [](Communicator& g, const Side& s) {
         return g.all_reduce(s.filled(DType::kFloat32, 100, 0), ReduceOp::kMax);
       }},
      {[](Communicator& g, const Side& s) { return g.broadcast(s.filled(DType::kFloat32, 100, 0), 0); },
       [](Communicator& g, const Side& s) { return g.broadcast(s.filled(DType::kFloat32, 100, 0), 1); }},
      {[](Communicator& g, const Side&) { return g.barrier(); },
       [](Communicator& g, const Side& s) { return g.broadcast(s.filled(DType::kFloat32, 100, 0), 1); }},
      {[](Communicator& g, const Side& s) {
         return g.all_to_all(s.filled(DType::kUInt8, 6, 0), {2, 2, 2}, s.filled(DType::kUInt8, 6, 0),
                             {2, 2, 2});
       },
       [](Communicator& g, const Side& s) {
         return g.all_to_all(s.filled(DType::kUInt8, 7, 0), {2, 2, 3}, s.filled(DType::kUInt8, 7, 0),
                             {2, 2, 3});
       }},
  };
  if (!enough_for(kind, 2)) return;
  for (std::size_t i = 0; i < pairs.size() && kind.most_members >= 3; ++i) {
    CAPTURE(i);
    all_well(with_members(kind, 3, [&](Communicator& group) -> std::string {
      const Result<void> ended =
          (group.rank() == 1 ? pairs[i].second : pairs[i].first)(group, Side(kind, group.rank())).wait();
      // The last pair: what goes from the third to the second is not what that expects.
      if (ended && kind.done_beside_others && i + 1 == pairs.size() && group.rank() == 0)
        return group.barrier().wait() ? "it goes on" : "";
      if (ended) return "it was done";
      // Those who agree with each other may hear of the end first.
      if (ended.error().code != Code::kInvalidArgument && ended.error().code != Code::kUnavailable)
        return ended.error().to_string();
      if (group.rank() == 1 && ended.error().code != Code::kInvalidArgument &&
          ended.error().code != Code::kUnavailable)
        return ended.error().to_string();
      return group.barrier().wait() ? "it goes on" : "";
    }));
  }
  // A transfer of another size, and one of another type.
  for (const DType dtype : {DType::kFloat32, DType::kInt32}) {
    const auto found = with_members(kind, 2, [&](Communicator& group) -> std::string {
      const Side side(kind, group.rank());
      const Tensor four = side.filled(DType::kFloat32, 4, 0);
      const Tensor other = side.filled(dtype, dtype == DType::kInt32 ? 4 : 3, 0);
      const Result<void> ended = (group.rank() == 0 ? group.send(four, 1) : group.receive(other, 0)).wait();
      return ended ? "it was done" : std::string(to_string(ended.error().code));
    });
    CHECK(found[1] == "INVALID_ARGUMENT");
    CHECK(found[0] != "DEADLINE_EXCEEDED");
  }
}

void who_does_not_come_ends_it_in_time(const CommunicatorKind& kind) {
  if (!enough_for(kind, 2)) return;
  const int members = std::min(3, kind.most_members);
  const int absent = members - 1;
  CommunicatorOptions options;
  options.timeout = std::chrono::milliseconds(700);
  options.name = "trio";
  std::mutex mutex;
  std::condition_variable changed;
  int ended_members = 0;
  all_well(with_members(
      kind, members,
      [&](Communicator& group) -> std::string {
        if (group.rank() == absent) {  // lives, and does not come
          std::unique_lock lock(mutex);
          return changed.wait_for(lock, std::chrono::seconds(60), [&] { return ended_members == absent; })
                     ? ""
                     : "the others wait for ever";
        }
        const auto begin = Steady::now();
        const Work work =
            group.all_reduce(Side(kind, group.rank()).filled(DType::kFloat32, 10, 0), ReduceOp::kSum);
        const Work next = group.barrier();
        const Result<void> ended = work.wait();
        const auto took = Steady::now() - begin;
        {
          const std::lock_guard lock(mutex);
          ++ended_members;
        }
        changed.notify_all();
        if (ended) return "it was done";
        // One of the two is the first, and ends the other's.
        if (ended.error().code == Code::kDeadlineExceeded) {
          if (ended.error().message.find("no sign of member " + std::to_string(absent)) == std::string::npos)
            return ended.error().message;
        } else if (ended.error().code != Code::kUnavailable) {
          return ended.error().to_string();
        }
        if (took < std::chrono::milliseconds(600)) return "too early";
        const Result<void> second = next.wait();
        return !second && second.error().code == ended.error().code ? "" : "the next one";
      },
      options));
}

void aborting_ends_what_waits_everywhere(const CommunicatorKind& kind) {
  if (!enough_for(kind, 2)) return;
  const int members = std::min(3, kind.most_members);
  CommunicatorOptions options;
  options.timeout = std::chrono::seconds(60);
  const auto begin = Steady::now();
  all_well(with_members(
      kind, members,
      [&](Communicator& group) -> std::string {
        if (group.rank() == members - 1) {
          group.abort({Code::kAborted, "had enough"});
          group.abort({Code::kInternal, "later"});
          const Result<void> state = group.state();
          return !state && state.error().code == Code::kAborted && !group.barrier().wait() ? ""
                                                                                           : "not aborted";
        }
        const Result<void> ended =
            group.all_reduce(Side(kind, group.rank()).filled(DType::kFloat32, 1'000'000, 0), ReduceOp::kSum)
                .wait();
        return !ended && ended.error().code == Code::kUnavailable && !group.state() ? "" : "it was done";
      },
      options));
  CHECK(Steady::now() - begin < std::chrono::seconds(30));
  // Destroyed while a collective is under way: its work has ended then.
  Rendezvous rendezvous(2);
  std::unique_ptr<Communicator> other;
  options.size = 2;
  std::thread second([&, theirs = options]() mutable {
    theirs.rank = 1;
    other = kind.make(theirs, rendezvous.of(1)).value();
  });
  auto group = kind.make(options, rendezvous.of(0)).value();
  second.join();
  const Work work = group->barrier();
  group.reset();
  CHECK(work.done());
  CHECK(work.wait().error().code == Code::kCancelled);
  const Result<void> theirs = other->barrier().wait();
  CHECK(!theirs.ok());
}

void a_group_that_does_not_come_together_says_so(const CommunicatorKind& kind) {
  CommunicatorOptions options;
  options.timeout = std::chrono::milliseconds(300);
  options.size = 2;
  Rendezvous rendezvous(2);
  CHECK(kind.make(options, rendezvous.of(0)).error().code == Code::kDeadlineExceeded);
  // Addresses that are none, and one where nobody is.
  for (const std::string& address : {std::string("none"), std::string(), std::string(4096, 'x')}) {
    const auto made =
        kind.make(options, [&](const std::string& mine, Duration) -> Result<std::vector<std::string>> {
          return std::vector<std::string>{mine, address};
        });
    REQUIRE_FALSE(made.ok());
    CHECK(made.error().code == Code::kUnavailable);
  }
  // One of three members tells where it is and does not come. Whoever is to be dialled by it waits in vain;
  // which side dials is decided by the ports.
  const auto codes_of_two = [&](const CommunicatorOptions& all) {
    Rendezvous three(3);
    std::vector<Code> codes(2);
    std::vector<std::thread> threads;
    threads.reserve(2);
    for (int rank = 0; rank < 2; ++rank) {
      threads.emplace_back([&, rank, mine = all]() mutable {
        mine.rank = rank;
        const auto made = kind.make(mine, three.of(rank));
        codes[static_cast<std::size_t>(rank)] = made ? Code::kOk : made.error().code;
      });
    }
    CommunicatorOptions third = all;
    third.rank = 2;
    AddressExchange last = three.of(2);
    const auto absent =
        kind.make(third, [&](const std::string& own, Duration timeout) -> Result<std::vector<std::string>> {
          (void)last(own, timeout);
          for (std::thread& thread : threads) thread.join();
          return Error{Code::kCancelled, "not this time"};
        });
    CHECK(absent.error().code == Code::kCancelled);
    return codes;
  };
  const auto ends_with = [&](Code expected, const CommunicatorOptions& all) {
    constexpr int kTries = 20;
    for (int i = 0; i < kTries; ++i)
      for (const Code code : codes_of_two(all))
        if (code == expected) return true;
    return false;
  };
  CommunicatorOptions trio = options;
  trio.size = 3;
  CHECK(ends_with(Code::kDeadlineExceeded, trio));
  trio.timeout = std::chrono::seconds(60);
  trio.given_up = [] { return Error{Code::kAborted, "it is not worth waiting"}; };
  CHECK(ends_with(Code::kAborted, trio));
  const auto silent =
      kind.make(options, [&](const std::string& mine, Duration) -> Result<std::vector<std::string>> {
        return std::vector<std::string>{mine, mine};  // itself is not the other
      });
  CHECK_FALSE(silent.ok());
  CHECK(kind.make(options,
                  [](const std::string&, Duration) -> Result<std::vector<std::string>> {
                    return Error{Code::kPermissionDenied, "not you"};
                  })
            .error()
            .code == Code::kPermissionDenied);
  CHECK(kind.make(options,
                  [](const std::string&, Duration) -> Result<std::vector<std::string>> {
                    return std::vector<std::string>{"one"};
                  })
            .error()
            .code == Code::kInternal);
  for (const auto& [rank, size] : {std::pair{0, 0}, {-1, 2}, {2, 2}, {0, -5}, {0, 1 << 20}}) {
    CommunicatorOptions wrong = options;
    wrong.rank = rank;
    wrong.size = size;
    CHECK(kind.make(wrong, rendezvous.of(0)).error().code == Code::kInvalidArgument);
  }
  CommunicatorOptions elsewhere = options;
  elsewhere.address = "no.address";
  CHECK(kind.make(elsewhere, rendezvous.of(0)).error().code == Code::kInvalidArgument);
  elsewhere.address = "192.0.2.1";  // of nobody's machine
  CHECK(kind.make(elsewhere, rendezvous.of(0)).error().code == Code::kUnavailable);
}

}  // namespace troupe::shards::test
