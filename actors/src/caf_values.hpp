#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <caf/all.hpp>

#include <troupe/rpc/message.hpp>
#include <troupe/runtime/result.hpp>

#include "caf_internals.hpp"

/// CAF messages to and from values on the wire: as troupe/actors/caf.hpp says. An element of a type that has
/// no kind of value is a list of kForeign, the type's announced name, what CAF's inspection wrote, and the
/// tensors within it.
namespace troupe {

/// Marks an element that only a CAF application can read.
inline constexpr std::string_view kForeign = "caf.type";
/// The method under which a published actor gets a message that begins with no name.
inline constexpr std::string_view kWholeMessage = "caf.message";

/// What a CAF message to a named actor calls: the method of its first element, if that is a string or an atom
/// (then the arguments begin at 1), else kWholeMessage (from 0).
struct CafCall {
  std::string method;
  std::size_t first = 0;
};
CafCall call_of(const caf::message& message);

/// Whether elements `first`.. can all be sent; kInvalidArgument names the first that cannot.
Result<void> check_elements(const caf::actor_system& system, const caf::message& message, std::size_t first);
/// Writes elements `first`.. as values. Precondition: check_elements().
void write_elements(caf::actor_system& system, const caf::message& message, std::size_t first,
                    rpc::OutMessage& out);
/// The same as one value: the element, or a list if there are several, as other languages' structs are.
/// Precondition: there is one at least.
void write_answer(caf::actor_system& system, const caf::message& message, rpc::OutMessage& out);

/// Appends the values of a message to a CAF message. kUnimplemented: one is of a type that CAF actors cannot
/// be given, or that this application has not announced.
Result<void> read_values(caf::actor_system& system, const rpc::InMessage& message, MessageElements& out);

}  // namespace troupe
