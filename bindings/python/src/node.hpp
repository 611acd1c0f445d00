#pragma once

#include <memory>
#include <mutex>
#include <string>

#include <troupe/actors/node.hpp>

#include "gil.hpp"

namespace troupe::python {

/// A node as Python has it: until close() it may be used by any thread.
class NodeHandle {
 public:
  explicit NodeHandle(std::unique_ptr<Node> node);
  ~NodeHandle();
  NodeHandle(const NodeHandle&) = delete;
  NodeHandle& operator=(const NodeHandle&) = delete;

  /// Error (FAILED_PRECONDITION): it was closed.
  const std::shared_ptr<Node>& node() const;
  bool closed() const { return !node_; }
  const std::string& name() const { return name_; }
  std::uint64_t id() const { return id_; }
  const std::string& address() const { return address_; }
  /// Ends it; waits for that without the GIL. Idempotent.
  void close();
  /// Held by who ends it: one at a time.
  const std::shared_ptr<std::mutex>& ending() const { return ending_; }

 private:
  std::shared_ptr<Node> node_;
  std::shared_ptr<std::mutex> ending_ = std::make_shared<std::mutex>();
  const std::string name_, address_;
  const std::uint64_t id_;
};

void bind_nodes(nb::module_& module);
void bind_tables(nb::module_& module);
/// What actors in Python need: Answer (actor.cpp).
void bind_actors(nb::module_& module);
/// Makes `object` a named actor; `methods` is a list of (Signature, function, where).
void spawn(NodeHandle& node, const std::string& name, nb::handle object, const nb::list& methods);

}  // namespace troupe::python
