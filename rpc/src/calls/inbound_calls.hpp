#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <unordered_set>
#include <utility>
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
    ++*of_node_;
    bytes_ += call.counted_bytes_;
  }
  void remove(InboundCall& call) {
    InboundCall*& first = chain_of(call);
    (call.previous_ ? call.previous_->next_ : first) = call.next_;
    if (call.next_) call.next_->previous_ = call.previous_;
    call.previous_ = call.next_ = nullptr;
    call.listed_ = nullptr;
    bytes_ -= call.counted_bytes_;
    --*of_node_;
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
  /// They are counted there, too. Precondition: there are none yet.
  void count_in(std::size_t& of_node) { of_node_ = &of_node; }

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
  std::size_t of_nobody_ = 0;
  std::size_t* of_node_ = &of_nobody_;
};

/// What an endpoint knows of one node over all sessions with it, those that have ended among them.
struct PeerNode {
  PeerNode(std::uint64_t node_id, std::uint64_t random) : id(node_id), orphans(random) {
    orphans.count_in(running);
  }
  const std::uint64_t id;
  std::unordered_set<SessionId> sessions;  // that have met, and have not ended
  std::size_t running = 0;                 // calls of its that have begun here, the orphans among them
  InboundCalls orphans;                    // those whose session has ended
};

/// The nodes that have met this one; who has gone, and left nothing, is forgotten at some time.
class PeerNodes {
 public:
  const std::shared_ptr<PeerNode>& of(std::uint64_t node_id, std::uint64_t random);
  /// Null: it has never been met, or left nothing.
  const PeerNode* find(std::uint64_t node_id) const;
  template <class F>
  void for_each(F&& visit) const {
    for (const auto& [id, node] : nodes_) visit(*node);
  }

 private:
  std::unordered_map<std::uint64_t, std::shared_ptr<PeerNode>> nodes_;
  std::size_t look_at_ = 16;  // the number of nodes at which those that have gone are dropped
};

/// What one peer has open here, and we with it; an endpoint has one more for what it calls of itself.
struct PeerCalls {
  explicit PeerCalls(std::uint64_t random) : in(random) {}
  OpenCalls out;
  InboundCalls in;
  HeldRequests held;               // those of them that are not begun
  std::shared_ptr<PeerNode> node;  // whose they are; null: ours, or it has not been met yet
  void belong_to(std::shared_ptr<PeerNode> to) {
    node = std::move(to);
    in.count_in(node->running);
    held.count_out_of(node->running);
  }
  std::unordered_map<std::uint64_t, std::shared_ptr<detail::StreamSource>> streams;  // by the call's id
};

}  // namespace troupe::rpc
