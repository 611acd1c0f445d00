#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <troupe/runtime/result.hpp>

namespace troupe {

/// A name or number of a host, and a port: "node7:4000", "127.0.0.1:0", "[fe80::1%eth0]:4000".
struct HostPort {
  std::string host;  ///< without brackets
  std::uint16_t port = 0;

  /// In the form that parse_host_port() reads.
  std::string to_string() const;
};

/// Only reads the text: nothing is looked up. kInvalidArgument: it is not of the form host:port.
Result<HostPort> parse_host_port(std::string_view text);

}  // namespace troupe
