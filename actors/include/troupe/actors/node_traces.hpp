#pragma once

#include <troupe/actors/node.hpp>
#include <troupe/runtime/span_exporter.hpp>

namespace troupe {

/// What a running node says of its traces, and what of them can be changed. Does nothing on a node whose
/// NodeOptions::trace names no place for spans. Any thread, not after the node.
///
///     NodeTraces(*node).set_ratio(1);  // something is odd: look at every call for a while
class NodeTraces {
 public:
  explicit NodeTraces(const Node& node) : node_(node) {}

  /// Spans of this node, since it started.
  SpanExporter::Stats stats() const;
  /// Of the traces that begin here from now on the fraction `ratio`, 0 to 1, is kept. Takes the turn.
  void set_ratio(double ratio) const;

 private:
  const Node& node_;
};

}  // namespace troupe
