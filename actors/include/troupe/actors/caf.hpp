#pragma once

#include <string>

#include <caf/all.hpp>

#include <troupe/actors/caf_compat.hpp>
#include <troupe/runtime/error.hpp>
#include <troupe/runtime/tensor.hpp>

/// Troupe inside CAF applications.
///
/// Node::actor(name) gives a `caf::actor` for any named actor of the cluster. A message to it is a
/// method's name (a std::string or a CAF atom) followed by the arguments:
///
///     self->request(shard, 5s, "add", x, y).receive([](const Tensor& sum) { ... },
///                                                   [](const caf::error& error) { ... });
///
/// Node::publish(name, actor, methods) is the other way: an actor of the application can be called under that
/// name from every node. A call of method "add" reaches it as the message (atom "add", arguments...), and
/// what it responds goes back to the caller.
///
/// Arguments and results may be bool, integers and floats of any width, std::string, Tensor, and vectors
/// of numbers; these every caller and method can use. Between CAF applications they, and whole messages
/// without a leading name to published actors, may be of every type that both have announced with
/// `config.add_message_type<T>("name")` (since CAF 0.18: that have a type id) and that CAF can inspect. A
/// Tensor is passed on without copying its elements, also as a member of such a type. Errors arrive as a
/// caf::error of category kCafErrorCategory whose code is a troupe::Code and whose context holds the message.
/// The handle can be monitored and linked to: when the actor's node dies, or the actor ends, it goes down.
namespace troupe {

/// With CAF 0.18 and later: tells CAF of our types, and of its own. To be called before the first actor
/// system of the process is made; a node in an application's system says so if it was not, one that makes its
/// own does it. With 0.17 there is nothing to do. Any number of times.
void register_caf_types();
bool caf_types_registered();

/// For CAF's deep_to_string: "float32[512, 200]".
std::string to_string(const Tensor& tensor);

/// The CAF form of an error, and back. An error of another category becomes kUnknown with CAF's text, but for
/// CAF's own words for a dead receiver (kUnavailable), a message nobody handles (kUnimplemented) and a time
/// that is up (kDeadlineExceeded).
caf::error to_caf(const Error& error);
Error from_caf(const caf::actor_system& system, const caf::error& error);

}  // namespace troupe
