#pragma once

#include <troupe/actors/node.hpp>
#include <troupe/runtime/config.hpp>
#include <troupe/runtime/log.hpp>

namespace troupe {

/// The settings of a node that belong to the place where it runs rather than to the program: addresses,
/// transport, times, log. Declared as node.*, loop.* and log.*, so a file, the environment
/// (TROUPE_NODE_LISTEN ...) and flags can set them: see Config.
///
///     ConfigSchema schema;
///     add_node_settings(schema);
///     auto config = Config::load(schema, file, environ, flags).value();
///     auto node = Node::start(node_options(config, {.name = "ps-0", .role = "server"})).value();
void add_node_settings(ConfigSchema& schema);

/// `options` with what the configuration says put in. A setting that nobody has set leaves the option as it
/// is; so a program's own default stands unless the place says otherwise. Precondition: `config`'s schema
/// has add_node_settings().
NodeOptions node_options(const Config& config, NodeOptions options);

/// The log that log.level, log.format and log.file ask for. An error if the file cannot be opened.
Result<Logger> open_log(const Config& config);

}  // namespace troupe
