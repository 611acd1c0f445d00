#pragma once

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
  bool in_turn() const { return loop_->in_turn(); }
  /// False: the loop has gone, and the task with it.
  bool post(Task task) {
    const std::lock_guard lock(mutex_);
    if (!open_) return false;
    loop_->post(std::move(task));
    return true;
  }
  bool is_open() {
    const std::lock_guard lock(mutex_);
    return open_;
  }
  void close() {
    const std::lock_guard lock(mutex_);
    open_ = false;
  }

 private:
  Loop* loop_;  // compared, but not used once it is closed
  std::mutex mutex_;
  bool open_ = true;
};

/// A node and what is made once for it; ends with its handle and the last thing that was made of it.
struct NodeBox {
  explicit NodeBox(std::unique_ptr<Node> started)
      : node(std::move(started)), gate(std::make_shared<Gate>(node->loop())) {}
  ~NodeBox() {
    node->shutdown();
    gate->close();
  }
  NodeBox(const NodeBox&) = delete;
  NodeBox& operator=(const NodeBox&) = delete;

  const std::unique_ptr<Node> node;
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
