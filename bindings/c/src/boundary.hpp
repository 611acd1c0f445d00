#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <troupe/troupe.h>
#include <troupe/rpc/scope.hpp>
#include <troupe/runtime/clock.hpp>
#include <troupe/runtime/result.hpp>

#include "structs.hpp"

/// What every function of the C library has around it: no exception leaves it, and an error becomes a status
/// and this thread's text.
namespace troupe::c {

/// Keeps the error for troupe_last_error(); returns its status.
troupe_status fail(const Error& error) noexcept;
/// The same for what is being caught.
troupe_status fail_with_exception() noexcept;

inline Error null_argument(const char* name) {
  return {Code::kInvalidArgument, std::string(name) + " is NULL"};
}

/// Runs the body of a function, which returns a Result<void>.
template <class Body>
troupe_status guard(Body&& body) noexcept {
  try {
    if (const Result<void> result = body(); !result) [[unlikely]]
      return fail(result.error());
    return TROUPE_OK;
  } catch (...) {
    return fail_with_exception();
  }
}

/// The same for a function that returns something else: `otherwise` if there is an error.
template <class T, class Body>
T guard_value(T otherwise, Body&& body) noexcept {
  try {
    return body();
  } catch (...) {
    fail_with_exception();
    return otherwise;
  }
}

/// Marks a thread that runs a handler of C, while it lives. Nests.
class HandlerMark {
 public:
  HandlerMark() { ++depth_; }
  ~HandlerMark() { --depth_; }
  HandlerMark(const HandlerMark&) = delete;
  HandlerMark& operator=(const HandlerMark&) = delete;
  static bool here() { return depth_ > 0; }

 private:
  static inline constinit thread_local int depth_ = 0;
};

inline Result<void> with_text(Result<void> result, const char* context) {
  return result ? result : with_context(result.error(), context);
}

inline std::string text_of(const char* text) {
  return text ? text : "";
}

/// An array of texts; kInvalidArgument if one is NULL.
inline Result<std::vector<std::string>> texts_of(const char* const* texts, std::size_t count,
                                                 const char* name) {
  if (!texts && count > 0) return null_argument(name);
  std::vector<std::string> all;
  for (std::size_t i = 0; i < count; ++i) {
    if (!texts[i]) return null_argument((std::string("one of ") + name).c_str());
    all.emplace_back(texts[i]);
  }
  return all;
}

/// A timeout as it was given; `usual` for 0.
inline Duration timeout_of(std::int64_t given, Duration usual) {
  return given == 0 ? usual : Duration(given);
}

/// A timeout for functions that take no "none".
inline constexpr Duration kUsualPatience{std::chrono::seconds(60)};

}  // namespace troupe::c
