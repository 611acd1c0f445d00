#pragma once

#include <stdexcept>

namespace troupe::tools {

/// Carries a Problem from deep inside reading to the edge of the API, where it becomes a value.
struct BadInput : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace troupe::tools
