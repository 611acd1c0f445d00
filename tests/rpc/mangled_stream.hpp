#pragma once

#include <memory>
#include <string>

#include "tcp/byte_stream.hpp"

namespace troupe::rpc::tcp {

/// A stream that is no plain socket, as an encrypted one is none: what it writes does not arrive as it is, it
/// reads ahead, hands out what it has in pieces, and claims to know who is there.
std::unique_ptr<ByteStream> mangled_stream(UniqueFd fd, std::string identity = "whoever mangles");

}  // namespace troupe::rpc::tcp
