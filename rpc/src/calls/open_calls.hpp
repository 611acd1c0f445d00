#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include <troupe/rpc/call.hpp>
#include <troupe/runtime/fresh_memory.hpp>
#include <troupe/runtime/timer.hpp>

#include "session/flow_queue.hpp"

namespace troupe::rpc {

class EndpointCore;
class OpenCalls;
class Session;

/// A call of ours that has no answer yet; its timer is its deadline.
struct OpenCall final : TimerNode {
  OpenCall(EndpointCore& owner, std::uint32_t own_slot) : endpoint(owner), slot(own_slot) {}
  std::uint64_t id() const { return (std::uint64_t{generation} << 32) | slot; }  // never 0

  void set_waits(bool on) {
    if (on) waits_in = metered.series;
    if (waits != on && waits_in) on ? ++waits_in->waiting : --waits_in->waiting;
    waits = on;
  }

  EndpointCore& endpoint;
  std::uint32_t slot;
  std::uint32_t generation = 1;
  ReplySink* sink = nullptr;  // null: the slot is free
  CallTarget target;
  Session* session = nullptr;    // while it takes a place there, sent or waiting
  FlowQueue::Position position;  // while it waits
  std::size_t bytes = 0;         // while it is sent
  bool waits = false;            // changed by set_waits()
  bool attempt = false;          // of a call that may be tried again: its end is not the caller's last word
  detail::MeteredCall metered;
  detail::CallSeries* waits_in = nullptr;  // where it is counted while it waits
  std::shared_ptr<const Tensor> into;      // where the answer's first tensor is to lie
  std::unique_ptr<InMessage> parked;       // a stream's reply that came before the last item
  OpenSpan span;                           // null: it is not traced

 private:
  friend class OpenCalls;
  void on_timer() override;
  OpenCalls* listed_ = nullptr;  // with those to the same peer
  OpenCall* previous_ = nullptr;
  OpenCall* next_ = nullptr;
};

/// The open calls to one peer, in no order.
class OpenCalls {
 public:
  OpenCalls() = default;
  OpenCalls(const OpenCalls&) = delete;
  OpenCalls& operator=(const OpenCalls&) = delete;

  void add(OpenCall& call) {
    call.listed_ = this;
    call.next_ = first_;
    if (first_) first_->previous_ = &call;
    first_ = &call;
  }
  /// From whichever list it is in; nothing if in none.
  static void remove(OpenCall& call) {
    if (!call.listed_) return;
    (call.previous_ ? call.previous_->next_ : call.listed_->first_) = call.next_;
    if (call.next_) call.next_->previous_ = call.previous_;
    call.previous_ = call.next_ = nullptr;
    call.listed_ = nullptr;
  }
  OpenCall* first() const { return first_; }

 private:
  OpenCall* first_ = nullptr;
};

/// All open calls of an endpoint: a call's id is its slot and the slot's generation.
class CallSlots {
 public:
  CallSlots() = default;
  ~CallSlots() {
    for (const OpenCall& call : slots_) allow_use(&call, sizeof call);
  }
  CallSlots(const CallSlots&) = delete;
  CallSlots& operator=(const CallSlots&) = delete;

  OpenCall& take(EndpointCore& owner) {
    if (free_.empty()) [[unlikely]]
      add_slot(owner);
    OpenCall& call = slots_[free_.back()];
    allow_use(&call, sizeof call);
    free_.pop_back();
    ++open_;
    return call;
  }
  /// Null: there is none, or it has ended.
  OpenCall* find(std::uint64_t call_id) {
    const auto slot = static_cast<std::uint32_t>(call_id);
    if (slot >= slots_.size()) return nullptr;
    OpenCall& call = slots_[slot];
    return call.sink && call.id() == call_id ? &call : nullptr;
  }
  bool contains(std::uint64_t call_id) const {
    return const_cast<CallSlots*>(this)->find(call_id) != nullptr;
  }
  void give_back(OpenCall& call) {
    if (++call.generation == 0) call.generation = 1;
    free_.push_back(call.slot);
    --open_;
    // Of an ended call only that it has ended may be looked at.
    const auto* const rest = reinterpret_cast<const std::byte*>(&call.target);
    forbid_use(rest, static_cast<std::size_t>(reinterpret_cast<const std::byte*>(&call + 1) - rest));
  }
  std::size_t open() const { return open_; }

 private:
  /// give_back() must not fail, so there is always room for all to be free.
  void add_slot(EndpointCore& owner) {
    if (free_.capacity() <= slots_.size()) free_.reserve(2 * slots_.size() + 16);
    const auto slot = static_cast<std::uint32_t>(slots_.size());
    slots_.emplace_back(owner, slot);
    free_.push_back(slot);
  }

  std::deque<OpenCall> slots_;
  std::vector<std::uint32_t> free_;
  std::size_t open_ = 0;
};

}  // namespace troupe::rpc
