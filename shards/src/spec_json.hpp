#pragma once

#include <string>

#include <troupe/runtime/json.hpp>
#include <troupe/shards/table_spec.hpp>

namespace troupe::shards {

/// A spec as a JSON object, and back; errors as TableSpec::from_json. `what` names the object in them.
Json spec_to_json(const TableSpec& spec);
Result<TableSpec> spec_from_json(const Json& json, const std::string& what, const OptimizerList& known);

}  // namespace troupe::shards
