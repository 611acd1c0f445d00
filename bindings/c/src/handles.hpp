#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include <troupe/actors/collectives.hpp>
#include <troupe/actors/dynamic_calls.hpp>
#include <troupe/actors/node.hpp>
#include <troupe/actors/table_client.hpp>
#include <troupe/rpc/completion_queue.hpp>
#include <troupe/rpc/message.hpp>

#include "boundary.hpp"
#include "values.hpp"

/// What the handles of the C library are.
namespace troupe::c {

/// The way to a node's loop for those who may come after its end.
class Gate {
 public:
  explicit Gate(Loop& loop) : loop_(&loop) {}
  /// False, too, once it is closed.
  bool in_turn() {
    const std::lock_guard lock(mutex_);
    return stage_ == Stage::kOpen && loop_->in_turn();
  }
  /// Posts what `make()` returns; false: it is closed, and `make` was not called.
  template <class Make>
  bool post(Make&& make) {
    const std::lock_guard lock(mutex_);
    if (stage_ != Stage::kOpen) return false;
    loop_->post(make());
    return true;
  }
  /// For what need not run: posts also while nobody drives the loop any more. False: the node has gone, or
  /// goes.
  bool post_late(Task task) {
    const std::lock_guard lock(mutex_);
    if (stage_ > Stage::kClosed) return false;
    loop_->post(std::move(task));
    return true;
  }
  /// Precondition: post() was false. Ends the call: when the node has gone, because until then its endpoint
  /// knows the call, and only a thread with the turn may touch it.
  void end(troupe_incoming* call);
  /// Nobody drives the loop any more.
  void close() { enter(Stage::kClosed); }
  /// The node is about to go; then it has gone.
  void begin_end() { enter(Stage::kEnding); }
  void finish_end();

 private:
  enum class Stage : std::uint8_t { kOpen, kClosed, kEnding, kGone };

  void enter(Stage stage) {
    const std::lock_guard lock(mutex_);
    stage_ = stage;
  }

  std::mutex mutex_;
  Loop* const loop_;  // there before kGone
  Stage stage_ = Stage::kOpen;
  troupe_incoming* ended_ = nullptr;  // a list
};

/// A node and what is made once for it; ends with its handle and the last thing that was made of it.
struct NodeBox {
  explicit NodeBox(std::unique_ptr<Node> started)
      : node(std::move(started)), gate(std::make_shared<Gate>(node->loop())) {}
  ~NodeBox() {
    node->shutdown();
    gate->begin_end();
    const bool forked = node->loop().is_forked();
    collectives.reset();
    node.reset();
    if (!forked) gate->finish_end();  // there the node has only been left behind
  }
  NodeBox(const NodeBox&) = delete;
  NodeBox& operator=(const NodeBox&) = delete;

  std::unique_ptr<Node> node;
  const std::shared_ptr<Gate> gate;
  // Made when they are first needed.
  std::mutex collectives_mutex;
  std::unique_ptr<Collectives> collectives;
};

}  // namespace troupe::c

struct troupe_node {
  std::shared_ptr<troupe::c::NodeBox> box;
  troupe::Node& operator*() const { return *box->node; }
  troupe::Node* operator->() const { return box->node.get(); }
};

struct troupe_answer {
  troupe::DynamicCalls::Answer message;
  troupe::c::ValueTree values;  // of the message
  bool has_value = false;
  troupe_value value{};
  std::string error;
  // Of pulls and pushes.
  std::optional<troupe::PulledVersions> versions;
  std::optional<troupe::PushSummary> pushed;
};

struct troupe_queue {
  std::unique_ptr<troupe::rpc::CompletionQueue> queue;
};
