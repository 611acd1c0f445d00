#pragma once

#include <string>

#include <caf/all.hpp>

#include <troupe/rpc/message.hpp>
#include <troupe/runtime/result.hpp>

/// CAF messages to and from values on the wire, for the types that troupe/actors/caf.hpp lists.
namespace troupe {

/// The method that a CAF message to a named actor calls: its first element. kInvalidArgument if that is
/// neither a string nor an atom.
Result<std::string> method_of(const caf::type_erased_tuple& message);

/// Whether elements 1.. can all be sent; kInvalidArgument names the first that cannot.
Result<void> check_arguments(const caf::type_erased_tuple& message);
/// Writes elements 1.. as the call's arguments. Precondition: check_arguments().
void write_arguments(const caf::type_erased_tuple& message, rpc::OutMessage& out);

/// The values of an answer as a CAF message.
Result<caf::message> read_values(const rpc::InMessage& answer);

}  // namespace troupe
