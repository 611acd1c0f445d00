#pragma once

#include <string>
#include <string_view>

#include <troupe/runtime/error.hpp>

namespace troupe::rpc {

/// Errors for the end of a call, which must come: without memory for the text the code alone has to do.
inline Error frugal_error(Code code, std::string_view text) noexcept {
  try {
    return {code, std::string(text)};
  } catch (...) {
    return {code, {}};
  }
}
inline Error frugal_error(const Error& error) noexcept {
  try {
    return error;
  } catch (...) {
    return {error.code, {}};
  }
}

}  // namespace troupe::rpc
