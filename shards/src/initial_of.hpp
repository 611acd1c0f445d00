#pragma once

#include <troupe/kernels/initial.hpp>
#include <troupe/shards/table_spec.hpp>

namespace troupe::shards {

/// How a table's rows begin, as kernels have it.
kernels::Initial initial_of(const TableSpec& spec);

}  // namespace troupe::shards
