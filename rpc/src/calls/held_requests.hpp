#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include <troupe/rpc/call.hpp>

namespace troupe::rpc {

/// The requests of one peer that have come and are not begun, in their order.
class HeldRequests {
 public:
  HeldRequests() = default;
  HeldRequests(const HeldRequests&) = delete;
  HeldRequests& operator=(const HeldRequests&) = delete;
  /// The call stays with its owner if there is no memory.
  void push(InboundCallPtr&& call);
  bool empty() const { return count_ == 0; }
  std::size_t count() const { return count_; }
  /// Memory is kept for so many.
  std::size_t places() const { return calls_.capacity(); }
  /// The first. Precondition: !empty().
  InboundCallPtr pop();
  /// Precondition: it is held here.
  InboundCallPtr take(const InboundCall& call);
  /// Some of those that are too late at `now`: all of them in a number of calls, soon after they are. Each
  /// looks at kLook at most.
  std::vector<InboundCallPtr> take_expired(TimePoint now);
  static constexpr std::size_t kLook = 256;
  /// What counts here does not count there. Precondition: none is held yet.
  void count_out_of(std::size_t& begun) { begun_ = &begun; }
  /// Whether it has not looked at all yet.
  bool is_looking() const { return looking_; }

 private:
  InboundCallPtr release(InboundCallPtr& place);
  void begin_look();
  void trim();

  std::vector<InboundCallPtr> calls_;  // null: taken. That at `first_` is not
  std::size_t first_ = 0;              // those before it are done with
  std::uint64_t last_ = 0;             // number of the last one
  std::size_t count_ = 0;
  std::size_t of_nobody_ = 0;
  std::size_t* begun_ = &of_nobody_;
  TimePoint earliest_ = TimePoint::never();  // no deadline is earlier
  TimePoint look_again_{};
  // While all are being looked at:
  bool looking_ = false;
  std::size_t looked_ = 0;               // those before it have been
  TimePoint kept_ = TimePoint::never();  // of these, what earliest_ is to be
};

}  // namespace troupe::rpc
