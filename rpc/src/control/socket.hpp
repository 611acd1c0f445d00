#pragma once

#include <sys/types.h>

#include <cstddef>
#include <span>
#include <string>

#include <troupe/runtime/result.hpp>
#include <troupe/runtime/unique_fd.hpp>

#include "control/address.hpp"

namespace troupe::rpc {

/// A non-blocking listening socket, with SO_REUSEADDR. A unix socket whose owner has died is replaced.
/// kAlreadyExists: the address is in use. kPermissionDenied, kInvalidArgument.
Result<UniqueFd> listen_socket(const SocketAddress& address);
/// A non-blocking socket that has begun to connect; writable when that has ended.
Result<UniqueFd> connecting_socket(const SocketAddress& address);
/// How connecting to `address` ended; says what may be done about it.
Result<void> connect_result(int fd, const SocketAddress& address);
/// The error of who has waited for `time`.
Error no_answer(const SocketAddress& address, const std::string& time);
/// Sends what the kernel takes at once; returns how much, or -1 when the stream is broken.
ssize_t send_some(int fd, std::span<const std::byte> bytes);
/// Low latency, and probes for a peer on another machine, which may have gone silently: a link may rest for
/// days.
void tune_stream(int fd);

}  // namespace troupe::rpc
