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

/// Options that were given, as those of this version: what the caller's do not know is zero, and what we do
/// not know has to be.
template <class T>
Result<void> read_struct(const T* given, T& to) {
  static_assert(std::is_trivially_copyable_v<T>);
  const std::size_t size = given->struct_size;
  if (size == sizeof(T)) [[likely]] {
    to = *given;
    return {};
  }
  constexpr std::size_t kLargest = 4096;
  if (size < sizeof(T) || size > kLargest)
    return Error{Code::kInvalidArgument, "a struct of options says that it has " + std::to_string(size) +
                                             " bytes, not " + std::to_string(sizeof(T)) +
                                             ": initialise it with its _INIT"};
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  for (std::size_t i = sizeof(T); i < size; ++i)
    if (bytes[i] != 0)
      return Error{Code::kInvalidArgument, "an option is set that this version of the library does not know"};
  to = *given;
  return {};
}

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
