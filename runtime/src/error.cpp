#include <troupe/runtime/error.hpp>

#include <array>
#include <cerrno>
#include <system_error>
#include <utility>

namespace troupe {
namespace {

constexpr std::array<std::string_view, 17> kNames{
    "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
    "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
    "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
    "DATA_LOSS", "UNAUTHENTICATED"};

Code code_of_errno(int errno_value) {
  switch (errno_value) {
    case ENOENT:
    case ENOTDIR:
    case ENODEV:
    case ESRCH:
    case ENXIO:
      return Code::kNotFound;
    case EEXIST:
    case EADDRINUSE:
      return Code::kAlreadyExists;
    case EACCES:
    case EPERM:
    case EROFS:
      return Code::kPermissionDenied;
    case EINVAL:
    case EBADF:
    case ENAMETOOLONG:
    case EAFNOSUPPORT:
    case EADDRNOTAVAIL:
      return Code::kInvalidArgument;
    case ENOMEM:
    case ENOSPC:
    case EMFILE:
    case ENFILE:
    case EDQUOT:
    case ENOBUFS:
    case EAGAIN:
      return Code::kResourceExhausted;
    case ECONNREFUSED:
    case ECONNRESET:
    case ECONNABORTED:
    case EPIPE:
    case ENETUNREACH:
    case EHOSTUNREACH:
    case ENOTCONN:
    case ENETDOWN:
    case EHOSTDOWN:
      return Code::kUnavailable;
    case ETIMEDOUT:
      return Code::kDeadlineExceeded;
    case EISDIR:
    case ENOTEMPTY:
    case EBUSY:
    case EISCONN:
    case ETXTBSY:
      return Code::kFailedPrecondition;
    case ENOSYS:
    case EOPNOTSUPP:
      return Code::kUnimplemented;
    case ECANCELED:
      return Code::kCancelled;
    case EIO:
      return Code::kDataLoss;
    case EFBIG:
    case ERANGE:
    case EOVERFLOW:
      return Code::kOutOfRange;
    default:
      return Code::kUnknown;
  }
}

}  // namespace

std::string_view to_string(Code code) {
  const auto index = static_cast<std::size_t>(code);
  return index < kNames.size() ? kNames[index] : "UNKNOWN";  // a newer peer may send a code we lack
}

std::string Error::to_string() const {
  std::string text(troupe::to_string(code));
  text += ": ";
  text += message;
  std::string more;
  const auto add = [&](std::string_view what, const std::string& value) {
    if (value.empty()) return;
    more += more.empty() ? " (" : "; ";
    more += what;
    more += value;
  };
  add("at ", node);
  add("thrown as ", exception);
  add("caused by ", cause);
  return more.empty() ? text : text + more + ")";
}

Error with_context(Error error, std::string_view context) {
  error.message = std::string(context) + ": " + error.message;
  return error;
}

Error errno_error(int errno_value, std::string_view what) {
  return {code_of_errno(errno_value),
          std::string(what) + ": " + std::generic_category().message(errno_value)};
}

}  // namespace troupe
