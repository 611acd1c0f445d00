#pragma once

#include <cstdint>
#include <string>

namespace troupe {
class Node;
}

namespace troupe::training {

/// The actor of a stream's publisher, where readers join.
inline std::string publisher_actor(const std::string& stream) {
  return stream + ".weights";
}
/// Of the publisher and of each reader, where versions are fetched.
inline std::string source_actor(const std::string& stream, const std::string& node) {
  return stream + ".weights." + node;
}
/// What processes have in common that can map each other's memory: the machine since it was started, the
/// space of process ids, and the user. The node's name where that cannot be told.
std::string own_place(const Node& node);

}  // namespace troupe::training
