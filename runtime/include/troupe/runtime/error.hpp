#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace troupe {

/// What went wrong, named by what the caller should do about it: gRPC's canonical codes and their
/// numbers, which also go over the wire.
enum class Code : std::uint8_t {
  kOk = 0,
  kCancelled = 1,           ///< the caller cancelled
  kUnknown = 2,             ///< an error of unknown kind
  kInvalidArgument = 3,     ///< the request can never succeed as it is: mend it
  kDeadlineExceeded = 4,    ///< no answer in time; the work may or may not have been done
  kNotFound = 5,            ///< no such name, table, method or file
  kAlreadyExists = 6,       ///< the name is taken
  kPermissionDenied = 7,    ///< identified, but not allowed
  kResourceExhausted = 8,   ///< a bound was reached: slow down and try again
  kFailedPrecondition = 9,  ///< not possible in the present state: change the state first
  kAborted = 10,            ///< lost against something concurrent: start again from reading
  kOutOfRange = 11,         ///< past the end
  kUnimplemented = 12,      ///< no such method or feature
  kInternal = 13,           ///< a fault of the callee
  kUnavailable = 14,        ///< the peer is dead or cannot be reached
  kDataLoss = 15,           ///< stored or received bytes are corrupt
  kUnauthenticated = 16,    ///< not identified
};

/// The canonical spelling of a code, "DEADLINE_EXCEEDED" for instance.
std::string_view to_string(Code code);

/// An error as a value; it crosses nodes unchanged. `message` says what happened and what to do.
/// `node` is the node where it happened (empty: here) and `cause` the error that led to it, already
/// rendered, if there was one. `trace_id` joins it to the logs (0: none). `exception` is the type of what was
/// thrown, as "std::out_of_range"; empty: the error was a value from the beginning.
struct [[nodiscard]] Error {
  Code code = Code::kUnknown;
  std::string message;
  std::string node = {};
  std::string cause = {};
  std::uint64_t trace_id = 0;
  std::string exception = {};

  /// One line for a person: "UNAVAILABLE: node ps-1 is dead (at worker-0; caused by ...)".
  std::string to_string() const;
};

/// The same error with `context` put before its message: "loading table 'entity': <message>".
Error with_context(Error error, std::string_view context);

/// The error for a failed system call, its code chosen by errno; `what` says what was attempted.
Error errno_error(int errno_value, std::string_view what);

}  // namespace troupe
