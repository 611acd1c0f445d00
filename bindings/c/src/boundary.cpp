#include "boundary.hpp"

#include <new>

#include <troupe/runtime/error.hpp>

namespace troupe::c {

namespace {

struct LastError {
  Error error{Code::kOk, ""};
  std::string text;
  bool no_memory = false;  // there was none for the text either
};
thread_local LastError last;

constexpr const char* kNoMemory = "RESOURCE_EXHAUSTED: no memory is left";

}  // namespace

troupe_status fail(const Error& error) noexcept {
  try {
    last.error = error;
    last.text = error.to_string();
    last.no_memory = false;
    return static_cast<troupe_status>(error.code == Code::kOk ? Code::kUnknown : error.code);
  } catch (...) {
    last.no_memory = true;
    return TROUPE_RESOURCE_EXHAUSTED;
  }
}

troupe_status fail_with_exception() noexcept {
  try {
    return fail(rpc::detail::current_exception_error("the library"));
  } catch (...) {
    last.no_memory = true;
    return TROUPE_RESOURCE_EXHAUSTED;
  }
}

}  // namespace troupe::c

using namespace troupe;
using namespace troupe::c;

int troupe_abi_version(void) {
  return TROUPE_ABI_MAJOR * 1000 + TROUPE_ABI_MINOR;
}

const char* troupe_status_name(troupe_status status) {
  if (status < TROUPE_OK || status > TROUPE_UNAUTHENTICATED) return "UNKNOWN";
  return to_string(static_cast<Code>(status)).data();  // literals
}

const char* troupe_last_error(void) {
  return last.no_memory ? kNoMemory : last.text.c_str();
}

troupe_status troupe_last_error_parts(troupe_error* error) {
  // Not by guard(): it would be the last error.
  if (!error || !is_known(error)) return TROUPE_INVALID_ARGUMENT;
  const auto code = last.no_memory ? Code::kResourceExhausted : last.error.code;
  troupe_error filled = TROUPE_ERROR_INIT;
  filled.status = static_cast<troupe_status>(code);
  filled.message = last.no_memory ? kNoMemory : last.error.message.c_str();
  filled.node = last.error.node.c_str();
  filled.cause = last.error.cause.c_str();
  filled.exception = last.error.exception.c_str();
  filled.trace_id = last.error.trace_id;
  write_struct(filled, error);
  return TROUPE_OK;
}
