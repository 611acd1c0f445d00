#pragma once

#include <cassert>
#include <exception>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>

#include <troupe/runtime/error.hpp>

namespace troupe {

/// Thrown by Result::value() when there is none. Only programs at the API's edge should meet it.
class BadResult : public std::exception {
 public:
  explicit BadResult(Error error) : error_(std::move(error)), text_(error_.to_string()) {}
  const char* what() const noexcept override { return text_.c_str(); }
  const Error& error() const { return error_; }

 private:
  Error error_;
  std::string text_;
};

/// A value or an error.
///
///     Result<int> port = parse_port(text);
///     if (!port) return port.error();
///     listen(*port);
template <class T>
class [[nodiscard]] Result {
 public:
  using value_type = T;

  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}
  template <class U>
  requires(std::is_convertible_v<U&&, T> && !std::is_same_v<std::decay_t<U>, T> &&
           !std::is_same_v<std::decay_t<U>, Error> && !std::is_same_v<std::decay_t<U>, Result>)
      Result(U&& value)
      : state_(std::in_place_index<0>, std::forward<U>(value)) {}

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  /// The value. Precondition: ok().
  T& operator*() & { return assert(ok()), *std::get_if<0>(&state_); }
  const T& operator*() const& { return assert(ok()), *std::get_if<0>(&state_); }
  T&& operator*() && { return assert(ok()), std::move(*std::get_if<0>(&state_)); }
  T* operator->() { return assert(ok()), std::get_if<0>(&state_); }
  const T* operator->() const { return assert(ok()), std::get_if<0>(&state_); }

  /// The value, or BadResult is thrown.
  T& value() & { return check(), *std::get_if<0>(&state_); }
  const T& value() const& { return check(), *std::get_if<0>(&state_); }
  T value() && { return check(), std::move(*std::get_if<0>(&state_)); }

  /// The error. Precondition: !ok().
  const Error& error() const& { return assert(!ok()), *std::get_if<1>(&state_); }
  Error error() && { return assert(!ok()), std::move(*std::get_if<1>(&state_)); }

 private:
  void check() const {
    if (!ok()) throw BadResult(error());
  }

  std::variant<T, Error> state_;
};

/// Success without a value, or an error. `return {};` is success.
template <>
class [[nodiscard]] Result<void> {
 public:
  using value_type = void;

  // Not defaulted: that would have `return {};` write zeros over the whole error first, by an instruction for
  // strings, which waits until all that was stored before has reached the cache: a tenth of a call's time
  // when that lies in another core's.
  Result() {}  // NOLINT(modernize-use-equals-default)
  Result(Error error) : error_(std::move(error)) {}

  bool ok() const { return !error_.has_value(); }
  explicit operator bool() const { return ok(); }

  /// Throws BadResult unless ok().
  void value() const {
    if (error_) throw BadResult(*error_);
  }

  /// The error. Precondition: !ok().
  const Error& error() const& { return assert(!ok()), *error_; }
  Error error() && { return assert(!ok()), std::move(*error_); }

 private:
  std::optional<Error> error_;
};

}  // namespace troupe
