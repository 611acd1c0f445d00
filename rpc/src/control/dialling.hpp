#pragma once

#include <functional>
#include <list>
#include <string>
#include <vector>

#include <troupe/runtime/loop.hpp>
#include <troupe/runtime/result.hpp>
#include <troupe/runtime/timer.hpp>

#include "control/address.hpp"
#include "control/resolver.hpp"
#include "control/socket.hpp"

namespace troupe::rpc {

/// How somebody may be dialled.
struct DialRules {
  /// Other machines are not dialled.
  bool this_machine_only = false;
  /// In all, looking the name up too.
  Duration patience{std::chrono::seconds(5)};
};

/// The way to one peer, until there is a connection: looks its name up, then tries all addresses, one after
/// the other, the next as soon as one has failed or has been silent for a quarter of a second; the first that
/// answers is it (as RFC 8305 has it for people who wait). Loop only.
class Dialling {
 public:
  /// The connection, or why there is none: kUnavailable, telling of each address; kFailedPrecondition: all
  /// are on other machines; kResourceExhausted: this process can have no more descriptors.
  using OnDone = std::function<void(Result<UniqueFd>)>;

  /// `on_done` is called once, on the loop, not from inside the constructor or start(), and may destroy this.
  Dialling(Loop& loop, Resolver& resolver, Destination to, const DialRules& rules, OnDone on_done);
  ~Dialling();
  Dialling(const Dialling&) = delete;
  Dialling& operator=(const Dialling&) = delete;

  void start();

 private:
  class Attempt;

  void on_found(Result<std::vector<SocketAddress>> found);
  void try_next();
  void on_attempt(Attempt& attempt);
  void out_of_time();
  /// Soon, if all addresses have failed.
  void end_if_over();
  Error why_not() const;

  Loop& loop_;
  Resolver& resolver_;
  const Destination to_;
  const DialRules rules_;
  OnDone on_done_;
  Resolver::Lookup lookup_ = 0;  // 0: none is under way
  std::vector<SocketAddress> addresses_;
  std::size_t next_ = 0;
  std::list<Attempt> attempts_;
  std::vector<Error> failures_;
  Timer next_timer_, deadline_, over_;
};

}  // namespace troupe::rpc
