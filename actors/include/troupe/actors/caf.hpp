#pragma once

#include <caf/all.hpp>

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
/// Arguments and results may be bool, integers and floats of any width, std::string, Tensor, and vectors
/// of numbers. A Tensor is passed on without copying its elements. Errors arrive as a caf::error of
/// category "troupe" whose code is a troupe::Code and whose context holds the message. The handle can be
/// monitored and linked to: when the actor's node dies, or the actor ends, it goes down.
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::Tensor)

namespace troupe {

/// CAF's category of Troupe's errors.
inline constexpr caf::atom_value kCafErrorCategory = caf::atom("troupe");

/// The CAF form of an error, and back. An error of another category becomes kUnknown with CAF's text.
caf::error to_caf(const Error& error);
Error from_caf(const caf::actor_system& system, const caf::error& error);

}  // namespace troupe
