#pragma once

#include <cstddef>
#include <string>

#include "ucx_raw.hpp"

/// The same measurements as in ucx_raw.hpp, through troupe::rpc's UCX transport: what the layer costs.
namespace troupe::bench {

/// Round trip of a message with a head of `bytes`, in microseconds; the transport is polled directly.
RawResult transport_rtt(std::size_t bytes, const std::string& transports, std::size_t iterations);
/// Payload in GB/s of messages with one part of `bytes` (or that many bytes cut into `parts` parts).
RawResult transport_bandwidth(std::size_t bytes, std::size_t parts, std::size_t window,
                              const std::string& transports);

}  // namespace troupe::bench
