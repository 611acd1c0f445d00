#pragma once

#include <memory>

#include <troupe/rpc/endpoint.hpp>
#include <troupe/runtime/span_exporter.hpp>

namespace troupe {

struct NodeImpl;

/// What a node has for its traces: decides, collects, exports. Outlives the node's endpoint.
class NodeTracing {
 public:
  NodeTracing(std::unique_ptr<SpanExporter> exporter, const Clock& clock, std::uint64_t seed, double ratio)
      : exporter_(std::move(exporter)), tracer_(exporter_->spans(), clock, seed, ratio) {}

  rpc::Tracer& tracer() { return tracer_; }
  SpanExporter& exporter() { return *exporter_; }
  /// Exports what is there; within a bounded time.
  void close() { exporter_->close(); }

 private:
  std::unique_ptr<SpanExporter> exporter_;
  rpc::Tracer tracer_;
};

/// Makes the node's tracing and tells the endpoint of it, if the node's options ask for it. kInvalidArgument:
/// they cannot be understood. Errors of opening the file.
Result<void> begin_tracing(NodeImpl& node, rpc::EndpointOptions& endpoint);

}  // namespace troupe
