#pragma once

#include <new>
#include <stdexcept>
#include <string>

#include <troupe/runtime/result.hpp>
#include <troupe/shards/table_spec.hpp>

namespace troupe::shards {

/// Runs `body`, which returns a Result, and makes an error of memory that could not be had.
template <class Body>
auto with_memory_errors(const TableSpec& spec, Body&& body) -> decltype(body()) {
  const auto exhausted = [&] {
    return Error{Code::kResourceExhausted, "table '" + spec.name + "': no memory for more rows"};
  };
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return exhausted();
  } catch (const std::length_error&) {
    return exhausted();
  }
}

}  // namespace troupe::shards
