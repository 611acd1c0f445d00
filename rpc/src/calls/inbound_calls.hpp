#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include <troupe/rpc/call.hpp>
#include <troupe/rpc/stream_ends.hpp>

#include "calls/held_requests.hpp"
#include "calls/open_calls.hpp"

namespace troupe::rpc {

/// The calls of one peer that have no answer yet, found by their ids: a table of chains that run through the
/// calls themselves. What is done with one call costs the same however many there are; peers choose ids, but
/// not where they come to lie.
class InboundCalls {
 public:
  /// `random` decides where ids come to lie.
  explicit InboundCalls(std::uint64_t random);
  ~InboundCalls() = default;
  InboundCalls(const InboundCalls&) = delete;
  InboundCalls& operator=(const InboundCalls&) = delete;

  void add(InboundCall& call) {
    if (count_ >= 2 * chains_.size()) [[unlikely]]
      grow();
    link(call);
    ++count_;
    bytes_ += call.counted_bytes_;
  }
  void remove(InboundCall& call) {
    InboundCall*& first = chain_of(call);
    (call.previous_ ? call.previous_->next_ : first) = call.next_;
    if (call.next_) call.next_->previous_ = call.previous_;
    call.previous_ = call.next_ = nullptr;
    call.listed_ = nullptr;
    bytes_ -= call.counted_bytes_;
    if (--count_ == 0 && chains_.size() > kKeptChains) [[unlikely]]
      shrink();
  }
  /// The latest request with this id; null: there is none. One-way messages have none.
  InboundCall* find(std::uint64_t call_id) const;
  /// Any of them, to be removed before it is asked again; null: there is none. Looks at chains from `from`
  /// on, which it moves forward: 0 in the first question.
  InboundCall* any(std::size_t& from) const;
  /// `visit(call)` must neither add nor remove any.
  template <class F>
  void for_each(F&& visit) const {
    for (InboundCall* first : chains_)
      for (InboundCall* call = first; call; call = call->next_) visit(*call);
  }
  std::size_t count() const { return count_; }
  /// Of those that are charged to a session.
  std::size_t bytes() const { return bytes_; }

 private:
  static constexpr std::size_t kFirstChains = 16;
  static constexpr std::size_t kKeptChains = 1024;
  InboundCall*& chain_of(const InboundCall& call) { return chains_[index_of(call.header().call_id)]; }
  std::size_t index_of(std::uint64_t call_id) const {
    return static_cast<std::size_t>((call_id * factor_) >> shift_);
  }
  void link(InboundCall& call) {
    InboundCall*& first = chain_of(call);
    call.listed_ = this;
    call.previous_ = nullptr;
    call.next_ = first;
    if (first) first->previous_ = &call;
    first = &call;
  }
  void grow();
  void shrink();
  std::vector<InboundCall*> set_chains(std::size_t count);

  std::vector<InboundCall*> chains_;  // a power of two
  std::size_t count_ = 0;       // not beside bytes_: both would be loaded as one, right after two stores
  const std::uint64_t factor_;  // random and odd
  int shift_ = 0;
  std::size_t bytes_ = 0;
};

/// Calls whose session has ended, while they run, by the node of their caller.
class Orphans {
 public:
  explicit Orphans(std::uint64_t random) : random_(random), others_(random) {}

  void add(InboundCall& call, std::uint64_t node_id) { of(node_id).add(call); }
  std::size_t count(std::uint64_t node_id) const;
  template <class F>
  void for_each(F&& visit) const {
    others_.for_each(visit);
    for (const auto& [node_id, calls] : by_node_) calls.for_each(visit);
  }

 private:
  InboundCalls& of(std::uint64_t node_id) noexcept;

  const std::uint64_t random_;
  InboundCalls others_;  // of no node that is known, or there was no memory
  std::unordered_map<std::uint64_t, InboundCalls> by_node_;
  std::size_t look_at_ = 16;  // the number of nodes at which those that have none left are dropped
};

/// What one peer has open here, and we with it; an endpoint has one more for what it calls of itself.
struct PeerCalls {
  explicit PeerCalls(std::uint64_t random) : in(random) {}
  OpenCalls out;
  InboundCalls in;
  HeldRequests held;  // those of them that are not begun
  std::unordered_map<std::uint64_t, std::shared_ptr<detail::StreamSource>> streams;  // by the call's id
};

}  // namespace troupe::rpc
