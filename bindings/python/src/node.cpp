#include "node.hpp"

#include <map>
#include <thread>
#include <utility>
#include <vector>

#include <nanobind/stl/map.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <troupe/runtime/raised.hpp>

#include "call.hpp"
#include "hooks.hpp"

namespace troupe::python {
namespace {

thread_local bool may_end_here = false;

/// The last reference to a node may be dropped anywhere: by a thread that has the GIL, even by an actor of
/// the node. Then a thread of its own ends it.
void end_node(Node* node) {
  if (node->loop().is_forked() || interpreter_ended())
    return;  // the parent's, or closed at the program's end
  if (may_end_here) {
    delete node;
    return;
  }
  auto ended = start_thread([node] { delete node; });
  if (ended)
    ended->detach();
  else if (!node->loop().in_turn())
    delete node;
}

nb::object result_type(nb::handle annotation) {
  return nb::handle(hooks().type_of)(annotation);
}

/// Of a call's keywords.
rpc::CallOptions options_of(nb::handle timeout, nb::handle metadata, int attempts) {
  rpc::CallOptions options;
  options.timeout = timeout_of(timeout, rpc::kDefaultTimeout);
  if (attempts > 1) options.retry.max_attempts = static_cast<std::uint32_t>(attempts);
  if (metadata.is_none()) return options;
  std::vector<rpc::MetadataPair> pairs;
  for (const auto& [key, value] : nb::cast<std::map<std::string, std::string>>(metadata))
    pairs.push_back({key, value, false});
  options.metadata = rpc::Metadata(std::move(pairs));
  value_or_raise(options.metadata.check());
  return options;
}

Request request_of(std::string actor, std::string method, nb::handle args, nb::handle timeout,
                   nb::handle metadata, int attempts) {
  return {std::move(actor),  std::move(method), 0, {}, options_of(timeout, metadata, attempts),
          take_all({}, args)};
}

Request typed_request_of(std::string actor, const Signature& signature, nb::handle args, nb::handle timeout,
                         nb::handle metadata, int attempts) {
  const auto given = static_cast<std::size_t>(nb::len(args));
  if (given != signature.parameters.size())
    throw nb::type_error(
        (signature.name + signature.text + " was given " + std::to_string(given) + " arguments").c_str());
  return {std::move(actor),
          signature.name,
          signature.fingerprint,
          signature.text,
          options_of(timeout, metadata, attempts),
          take_all(signature.parameters, args)};
}

TypePtr type_for(nb::handle returns) {
  if (returns.is_none()) return natural_type();
  return nb::cast<TypePtr>(nb::isinstance<Type>(returns) ? nb::borrow(returns) : result_type(returns));
}

nb::object call(const NodeHandle& self, std::string actor, std::string method, const nb::args& args,
                nb::handle timeout, nb::handle returns, nb::handle metadata, int attempts) {
  const std::shared_ptr<Node> node = self.node();
  const TypePtr type = type_for(returns);
  return call_and_wait(
      node, request_of(std::move(actor), std::move(method), args, timeout, metadata, attempts), *type);
}

PendingCall begin(const std::shared_ptr<Node>& node, Request request, TypePtr result, bool help) {
  auto call = std::make_shared<Call>(*node, std::move(request));
  {
    const NoGil free;
    Call::begin_soon(call, help);
  }
  give_back_dropped();
  return {node, std::move(call), std::move(result)};
}

PendingCall start_call(const NodeHandle& self, std::string actor, std::string method, const nb::args& args,
                       nb::handle timeout, nb::handle returns, nb::handle metadata, int attempts, bool help) {
  const std::shared_ptr<Node> node = self.node();
  TypePtr type = type_for(returns);
  return begin(node, request_of(std::move(actor), std::move(method), args, timeout, metadata, attempts),
               std::move(type), help);
}

nb::object call_typed(const NodeHandle& self, std::string actor, const Signature& signature,
                      const nb::tuple& args, nb::handle timeout, nb::handle metadata, int attempts) {
  const std::shared_ptr<Node> node = self.node();
  return call_and_wait(node, typed_request_of(std::move(actor), signature, args, timeout, metadata, attempts),
                       *signature.result);
}

PendingCall start_typed(const NodeHandle& self, std::string actor, const Signature& signature,
                        const nb::tuple& args, nb::handle timeout, nb::handle metadata, int attempts,
                        bool help) {
  const std::shared_ptr<Node> node = self.node();
  return begin(node, typed_request_of(std::move(actor), signature, args, timeout, metadata, attempts),
               signature.result, help);
}

/// Waits in slices: each of `wait`'s ends with DEADLINE_EXCEEDED, until all of the time is over.
template <class T, class Wait>
T wait_in_slices(const std::shared_ptr<Node>& node, nb::handle timeout, Wait wait) {
  const Clock& clock = node->loop().clock();
  const TimePoint deadline = clock.now() + timeout_of(timeout, node->endpoint().default_timeout());
  for (;;) {
    Result<T> result = [&] {
      const NoGil free;
      return wait(std::min(kSlice, std::max(deadline - clock.now(), Duration{0})));
    }();
    if (result || result.error().code != Code::kDeadlineExceeded || clock.now() >= deadline)
      return value_or_raise(std::move(result));
    check_signals();
  }
}

nb::object as_python(const Member& member) {
  nb::dict dict;
  dict["name"] = member.name;
  dict["role"] = member.role;
  dict["node_id"] = member.node_id;
  dict["address"] = member.address;
  dict["metadata"] = nb::cast(member.metadata);
  return dict;
}

nb::object wait_for_role(const NodeHandle& self, const std::string& role, std::size_t count,
                         nb::handle timeout) {
  const std::shared_ptr<Node> node = self.node();
  const auto members = wait_in_slices<std::vector<Member>>(
      node, timeout, [&](Duration slice) { return node->wait_for_role(role, count, slice); });
  nb::list list;
  for (const Member& each : members) list.append(as_python(each));
  return list;
}

nb::object members(const NodeHandle& self) {
  const std::shared_ptr<Node> node = self.node();
  const Membership all = [&] {
    const NoGil free;
    return node->membership();
  }();
  nb::list list;
  for (const Member& each : all.members) list.append(as_python(each));
  return list;
}

nb::object actors(const NodeHandle& self) {
  const std::shared_ptr<Node> node = self.node();
  const Membership all = [&] {
    const NoGil free;
    return node->membership();
  }();
  nb::dict dict;
  for (const NamedActor& actor : all.actors)
    for (const Member& member : all.members)
      if (member.node_id == actor.node_id) dict[nb::cast(actor.name)] = member.name;
  return dict;
}

void barrier(const NodeHandle& self, const std::string& name, const std::vector<std::string>& participants,
             nb::handle timeout) {
  const std::shared_ptr<Node> node = self.node();
  const Duration patience = timeout_of(timeout, node->endpoint().default_timeout());
  value_or_raise(
      aside_unless_in_turn<void>(node->loop(), [=] { return node->barrier(name, participants, patience); }));
}

/// A handler on the loop would wait for itself.
void require_outside(const Node& node, Loop& loop, const char* what) {
  if (loop.in_turn() && !loop.is_forked())
    raise({Code::kFailedPrecondition,
           "a handler of '" + node.name() + "' cannot " + what + " it; stop() it can"});
}

void run(const NodeHandle& self) {
  const std::shared_ptr<Node> node = self.node();
  require_outside(*node, node->loop(), "run");
  value_or_raise(aside<void>([node] { return node->run(); }));
}

void leave(NodeHandle& self, nb::handle drain_time) {
  if (self.closed()) return;
  const std::shared_ptr<Node> node = self.node();
  require_outside(*node, node->loop(), "leave with");
  const Duration patience = timeout_of(drain_time, std::chrono::seconds(5));
  const Result<void> left = aside<void>([=, ending = self.ending()] {
    const std::lock_guard alone(*ending);
    return node->leave(patience);
  });
  self.close();
  value_or_raise(left);
}

std::unique_ptr<NodeHandle> start(const std::string& name, const std::string& role,
                                  const std::string& registry, const std::string& listen,
                                  const std::string& advertise, const std::string& secret,
                                  const std::string& secret_file,
                                  const std::map<std::string, std::string>& metadata, nb::handle join_timeout,
                                  nb::handle default_timeout, bool help, int pool_threads,
                                  const std::string& metrics_address) {
  NodeOptions options{.name = name,
                      .role = role,
                      .metadata = metadata,
                      .registry = registry,
                      .listen = listen,
                      .advertise = advertise,
                      .secret = secret,
                      .secret_file = secret_file};
  options.join_timeout = timeout_of(join_timeout, options.join_timeout);
  options.default_timeout = timeout_of(default_timeout, options.default_timeout);
  options.loop.help = help;
  options.pool_threads = static_cast<std::size_t>(std::max(pool_threads, 0));
  options.metrics_address = metrics_address;
  return std::make_unique<NodeHandle>(
      value_or_raise(aside<std::unique_ptr<Node>>([options] { return Node::start(options); })));
}

nb::object shared_tensor(const NodeHandle& self, const std::vector<std::int64_t>& shape,
                         const std::string& dtype) {
  const std::shared_ptr<Node> node = self.node();
  DType type{};
  int i = 0;
  while (i <= static_cast<int>(DType::kBool) && to_string(type = static_cast<DType>(i)) != dtype) ++i;
  if (i > static_cast<int>(DType::kBool))
    throw nb::value_error(("there is no dtype named '" + dtype + "'").c_str());
  return nb::cast(Tensor::empty(type, Shape(std::span(shape)), node->endpoint().shared_pool()));
}

}  // namespace

NodeHandle::NodeHandle(std::unique_ptr<Node> node)
    : node_(node.release(), end_node), name_(node_->name()), address_(node_->address()), id_(node_->id()) {}

NodeHandle::~NodeHandle() {
  // An actor of the node's own may have dropped the last handle: it cannot wait for its node to end.
  if (node_ && !node_->loop().is_forked() && !node_->loop().in_turn()) close();
}

const std::shared_ptr<Node>& NodeHandle::node() const {
  if (!node_) raise({Code::kFailedPrecondition, "the node '" + name_ + "' is closed"});
  return node_;
}

void NodeHandle::close() {
  if (node_) require_outside(*node_, node_->loop(), "close");
  std::shared_ptr<Node> node = std::exchange(node_, nullptr);
  if (!node || node->loop().is_forked()) return;
  {
    const NoGil free;
    const std::lock_guard alone(*ending_);  // somebody may be in leave()
    node->shutdown();
    const Raised here(may_end_here);
    node.reset();
  }
  give_back_dropped();
}

void bind_nodes(nb::module_& module) {
  using namespace nb::literals;
  const auto none = nb::none();
  nb::class_<NodeHandle>(module, "Node", nb::is_weak_referenceable(), "One process's place in a cluster.")
      .def_static("_start", &start, nb::kw_only(), "name"_a, "role"_a = "worker", "registry"_a = "",
                  "listen"_a = "127.0.0.1:0", "advertise"_a = "", "secret"_a = "", "secret_file"_a = "",
                  "metadata"_a = std::map<std::string, std::string>(), "join_timeout"_a = none,
                  "default_timeout"_a = none, "help"_a = true, "pool_threads"_a = 4, "metrics_address"_a = "")
      .def_prop_ro("name", &NodeHandle::name)
      .def_prop_ro("id", &NodeHandle::id)
      .def_prop_ro("address", &NodeHandle::address)
      .def_prop_ro("closed", &NodeHandle::closed)
      .def("call", &call, "actor"_a, "method"_a, "args"_a, "timeout"_a = none, "returns"_a = none,
           "metadata"_a = none, "attempts"_a = 1)
      .def("_start_call", &start_call, "actor"_a, "method"_a, "args"_a, "timeout"_a = none,
           "returns"_a = none, "metadata"_a = none, "attempts"_a = 1, "help"_a = true)
      .def("_call_typed", &call_typed, "actor"_a, "signature"_a, "args"_a, "timeout"_a = none,
           "metadata"_a = none, "attempts"_a = 1)
      .def("_start_typed", &start_typed, "actor"_a, "signature"_a, "args"_a, "timeout"_a = none,
           "metadata"_a = none, "attempts"_a = 1, "help"_a = true)
      .def("_spawn", &spawn, "name"_a, "object"_a, "methods"_a)
      .def(
          "kill",
          [](const NodeHandle& self, const std::string& name) {
            const std::shared_ptr<Node> node = self.node();
            const Result<void> killed = [&] {
              const NoGil free;
              return node->kill(name);
            }();
            value_or_raise(killed);
          },
          "name"_a)
      .def(
          "wait_for_actor",
          [](const NodeHandle& self, const std::string& name, nb::handle timeout) {
            const std::shared_ptr<Node> node = self.node();
            wait_in_slices<void>(node, timeout,
                                 [&](Duration slice) { return node->wait_for_actor(name, slice); });
          },
          "name"_a, "timeout"_a = none)
      .def("wait_for_role", &wait_for_role, "role"_a, "count"_a, "timeout"_a = none)
      .def("members", &members)
      .def("actors", &actors)
      .def("barrier", &barrier, "name"_a, "participants"_a, "timeout"_a = none)
      .def("shared_tensor", &shared_tensor, "shape"_a, "dtype"_a = "float32")
      .def("run", &run)
      .def("stop",
           [](const NodeHandle& self) {
             const std::shared_ptr<Node> node = self.node();
             const NoGil free;
             node->stop();
           })
      .def("leave", &leave, "drain_time"_a = none)
      .def("close", &NodeHandle::close);
}

}  // namespace troupe::python
