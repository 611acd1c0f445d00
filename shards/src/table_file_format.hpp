#pragma once

#include <string>

#include <troupe/shards/table_spec.hpp>

#include "snapshot_format.hpp"

namespace troupe::shards {

// Names in a file of tables; see table_file.hpp.
inline constexpr const char* kSpecPrefix = "spec.";

inline std::string spec_name(const TableSpec& spec) {
  return kSpecPrefix + spec.name;
}
inline std::string keys_name(const TableSpec& spec) {
  return spec.name + "." + kKeysTensor;
}
inline std::string tensor_name(const TableSpec& spec, const Column& column) {
  return spec.name + "." + column.name;
}

}  // namespace troupe::shards
