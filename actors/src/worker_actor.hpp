#pragma once

#include <algorithm>
#include <deque>
#include <memory>
#include <string>
#include <utility>

#include <troupe/rpc/methods.hpp>
#include <troupe/runtime/raised.hpp>

#include "caf_internals.hpp"
#include "loop_unit.hpp"
#include "node_pool.hpp"

namespace troupe {

/// A call in a CAF mailbox. CAF wants messages that can be copied, a call exists once: a "copy" takes the
/// call out of the original. Messages to our actors are never really copied, only moved along.
class CallBox {
 public:
  CallBox() = default;
  explicit CallBox(rpc::InboundCallPtr call) : call_(std::move(call)) {}
  CallBox(const CallBox& other) : call_(std::move(other.call_)) {}
  CallBox(CallBox&&) noexcept = default;
  /// A box that still has its call lay in the mailbox of an actor that has ended.
  ~CallBox() {
    if (call_) call_->refuse({Code::kUnavailable, "the actor ended before it began this call"});
  }
  CallBox& operator=(const CallBox& other) {
    if (this != &other) call_ = std::move(other.call_);
    return *this;
  }
  CallBox& operator=(CallBox&&) noexcept = default;
  rpc::InboundCallPtr take() const { return std::move(call_); }

 private:
  mutable rpc::InboundCallPtr call_;
};

/// What may wait in one actor's mailbox.
struct MailboxBounds {
  std::size_t calls = 0;
  std::size_t bytes = 0;
};

/// A named actor: a CAF actor around a plain state and its table of methods. While one of these runs in the
/// node's pool, alone, calls wait: those that come in `later_`, those of the mailbox join them there.
class WorkerActor final : public caf::event_based_actor, private rpc::MethodPool {
 public:
  WorkerActor(caf::actor_config& config, std::shared_ptr<LoopUnit> unit, std::shared_ptr<void> state,
              std::shared_ptr<const rpc::MethodTable> methods, MailboxBounds bounds, NodePool* pool)
      : caf::event_based_actor(config),
        unit_(std::move(unit)),
        state_(std::move(state)),
        methods_(std::move(methods)),
        bounds_(bounds),
        pool_(pool) {}

  ~WorkerActor() override {
    if (link_) link_->actor = nullptr;
  }
  WorkerActor(const WorkerActor&) = delete;
  WorkerActor& operator=(const WorkerActor&) = delete;

  const rpc::MethodTable& methods() const { return *methods_; }

  /// Every wake-up goes through our unit, whoever sends: so the actor runs on the node's loop only.
  Enqueued enqueue(caf::mailbox_element_ptr message, SchedulingContext*) override {
    return caf::event_based_actor::enqueue(std::move(message), unit_.get());
  }
  using caf::event_based_actor::enqueue;

  /// Answers a call: at once if the actor waits for its next message, else in its turn, unless too much waits
  /// already: then it is refused with kResourceExhausted. With the loop's turn. Whoever holds the actor has
  /// it outlive the call. What CAF would do with the call (enqueue, resume, match, run) has the same effect
  /// and takes five times as long.
  void take(rpc::InboundCallPtr call) {
    if (running_ || held_ || !mailbox().blocked()) {
      const std::size_t bytes = call->bytes();
      if (waiting_.calls >= bounds_.calls || (waiting_.calls > 0 && waiting_.bytes + bytes > bounds_.bytes))
        return call->refuse({Code::kResourceExhausted, std::to_string(waiting_.calls) + " calls (" +
                                                           std::to_string(waiting_.bytes) +
                                                           " bytes) wait for this actor already"});
      if (held_ && !running_ && mailbox().blocked()) {
        later_.push_back(CallBox(std::move(call)));
        return count_waiting(bytes);
      }
      enqueue(make_mail(nullptr, caf::make_message_id(), CallBox(std::move(call))), nullptr);
      count_waiting(bytes);
      return unit_->run();
    }
    const After after(*this);
    const Raised running(running_);
    invoke(std::move(call));
  }
  /// Takes the last reference to the actor, which is dropped after the call at which it is, if there is one:
  /// counting references in each call would make it wait until its answer has reached the other core's cache.
  void outlive_call(const caf::actor& self) {
    if (running_) kept_ = caf::actor_cast<caf::strong_actor_ptr>(self);
  }

  /// The actor ends after the message it is at. An empty box tells it to; being urgent it comes before what
  /// waits in the mailbox, which is then answered with errors. With the loop's turn.
  void end() {
    enqueue(make_mail(nullptr, caf::make_message_id(caf::message_priority::high), CallBox()), nullptr);
  }

  /// One message at a time: what is in the mailbox waits for the end of take().
  resume_result resume(SchedulingContext* host, std::size_t max_throughput) override {
    if (!running_) return caf::event_based_actor::resume(host, max_throughput);
    postponed_ = true;
    return awaiting_message;
  }

  caf::behavior make_behavior() override {
    return {[this](const CallBox& box) {
      auto call = box.take();
      if (!call) return quit(caf::exit_reason::user_shutdown);
      if (held_) return later_.push_back(CallBox(std::move(call)));
      begin_waiting(std::move(call));
    }};
  }
  void on_exit() override {
    if (link_) link_->actor = nullptr;
    std::exchange(later_, {}).clear();
    state_.reset();
  }

 private:
  /// What a job in the pool knows of the actor, which may end before it.
  struct Link {
    WorkerActor* actor;
  };

  void invoke(rpc::InboundCallPtr call) { methods_->invoke(state_, std::move(call), pool_ ? this : nullptr); }
  void count_waiting(std::size_t bytes) {
    ++waiting_.calls;
    waiting_.bytes += bytes;
  }
  void begin_waiting(rpc::InboundCallPtr call) {
    --waiting_.calls;
    waiting_.bytes -= call->bytes();
    invoke(std::move(call));
  }
  void begin(std::unique_ptr<rpc::PoolJob> job, bool alone) override {
    if (!alone) return pool_->run(std::move(job), [] {});
    if (!link_) link_ = std::make_shared<Link>(Link{this});
    held_ = busy_ = true;
    pool_->run(std::move(job), [link = link_] {
      if (link->actor) link->actor->go_on();
    });
  }
  /// What follows a call, however that ended. May end the actor.
  class After {
   public:
    explicit After(WorkerActor& actor) : actor_(actor) {}
    ~After() {
      if (actor_.postponed_ || actor_.kept_) actor_.after_call();
    }
    After(const After&) = delete;
    After& operator=(const After&) = delete;

   private:
    WorkerActor& actor_;
  };
  /// The job in the pool is done: takes up those that have come meanwhile, up to the next one for the pool.
  void go_on() {
    constexpr int kAtOnce = 64;
    busy_ = false;
    held_ = !later_.empty();
    if (running_) return;  // it was refused at once, inside of the call
    const After after(*this);
    const Raised running(running_);
    try {
      for (int i = 0; i < kAtOnce && !busy_ && !later_.empty(); ++i) {
        rpc::InboundCallPtr call = later_.front().take();
        later_.pop_front();
        begin_waiting(std::move(call));
      }
    } catch (...) {  // there is no memory, not even for an answer
      unit_->loop().report_exception("an actor");
    }
    held_ = busy_ || !later_.empty();
    if (!busy_ && held_)
      unit_->loop().defer([link = link_] {
        if (link->actor) link->actor->go_on();
      });
  }
  void after_call() {
    const caf::strong_actor_ptr last = std::move(kept_);  // goes after all else
    if (!std::exchange(postponed_, false)) return;
    caf::intrusive_ptr_add_ref(static_cast<caf::resumable*>(this));
    unit_->exec_later(this);
  }

  std::shared_ptr<LoopUnit> unit_;
  std::shared_ptr<void> state_;
  std::shared_ptr<const rpc::MethodTable> methods_;
  const MailboxBounds bounds_;
  MailboxBounds waiting_;       // in the mailbox
  NodePool* pool_;              // null: there is none
  std::deque<CallBox> later_;   // that wait for the method in the pool
  bool busy_ = false;           // a method runs in the pool, alone
  bool held_ = false;           // so no other may, or some wait in later_
  std::shared_ptr<Link> link_;  // once such a method has run
  bool running_ = false;        // inside take()
  bool postponed_ = false;      // resume() is due after it
  caf::strong_actor_ptr kept_;  // itself, ended in the middle of take()
};

}  // namespace troupe

CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::CallBox)
