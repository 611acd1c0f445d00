#include <troupe/runtime/error.hpp>

#include <cerrno>
#include <memory>
#include <string>

#include <doctest/doctest.h>
#include <troupe/runtime/result.hpp>

using namespace troupe;

TEST_CASE("codes have gRPC's spelling, and an unknown number is UNKNOWN") {
  CHECK(to_string(Code::kDeadlineExceeded) == "DEADLINE_EXCEEDED");
  CHECK(to_string(Code::kUnauthenticated) == "UNAUTHENTICATED");
  CHECK(to_string(static_cast<Code>(200)) == "UNKNOWN");
}

TEST_CASE("an error reads as one line with node and cause where it has them") {
  Error error{Code::kUnavailable, "node ps-1 is dead"};
  CHECK(error.to_string() == "UNAVAILABLE: node ps-1 is dead");
  error.node = "worker-0";
  CHECK(error.to_string() == "UNAVAILABLE: node ps-1 is dead (at worker-0)");
  error.cause = "socket closed";
  CHECK(error.to_string() == "UNAVAILABLE: node ps-1 is dead (at worker-0; caused by socket closed)");
  error.node.clear();
  CHECK(with_context(error, "pull").to_string() ==
        "UNAVAILABLE: pull: node ps-1 is dead (caused by socket closed)");
}

TEST_CASE("errno chooses the code") {
  CHECK(errno_error(ENOENT, "open").code == Code::kNotFound);
  CHECK(errno_error(EACCES, "open").code == Code::kPermissionDenied);
  CHECK(errno_error(ECONNREFUSED, "connect").code == Code::kUnavailable);
  CHECK(errno_error(EADDRINUSE, "listen").code == Code::kAlreadyExists);
  CHECK(errno_error(ENOENT, "cannot open 'x'").message == "cannot open 'x': No such file or directory");
}

TEST_CASE("a result holds a value or an error, and value() throws the error") {
  Result<int> good = 3;
  CHECK(good.ok());
  CHECK(*good == 3);
  CHECK(good.value() == 3);
  const Result<int> bad = Error{Code::kNotFound, "no such table"};
  CHECK_FALSE(bad.ok());
  CHECK(bad.error().code == Code::kNotFound);
  CHECK_THROWS_WITH_AS(static_cast<void>(bad.value()), "NOT_FOUND: no such table", BadResult);
}

TEST_CASE("a result moves what cannot be copied, and converts what can be") {
  Result<std::unique_ptr<int>> owner = std::make_unique<int>(5);
  const std::unique_ptr<int> taken = *std::move(owner);
  CHECK(*taken == 5);
  const Result<std::string> text = "literal";
  CHECK(*text == "literal");
  CHECK(text->size() == 7);
}

TEST_CASE("a result without value is success or an error") {
  const Result<void> good;
  CHECK(good.ok());
  good.value();
  const Result<void> bad = Error{Code::kInternal, "x"};
  CHECK_FALSE(bad);
  CHECK_THROWS_AS(bad.value(), BadResult);
}
