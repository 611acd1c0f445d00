#include "node_tracing.hpp"

#include <unistd.h>

#include <array>

#include <troupe/actors/node_traces.hpp>

#include "node_impl.hpp"

namespace troupe {

namespace {

std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "unknown";
}

/// By OpenTelemetry's conventions for resources; what these do not know begins with "troupe.".
std::vector<TraceResource> resource_of(const NodeOptions& options) {
  return {{"service.name", options.name},   {"service.instance.id", span_id_text(options.node_id)},
          {"host.name", host_name()},       {"process.pid", std::int64_t{::getpid()}},
          {"telemetry.sdk.name", "troupe"}, {"telemetry.sdk.language", "cpp"},
          {"troupe.role", options.role}};
}

}  // namespace

Result<void> begin_tracing(NodeImpl& node, rpc::EndpointOptions& endpoint) {
  const NodeOptions& options = node.options;
  if (!options.trace.on()) return {};
  const std::string what = "node '" + options.name + "' cannot write traces";
  if (!(options.trace.ratio >= 0 && options.trace.ratio <= 1))
    return Error{Code::kInvalidArgument, what + ": the ratio of traces that are kept lies between 0 and 1"};
  SpanExportOptions exported;
  exported.file = options.trace.file;
  exported.endpoint = options.trace.endpoint;
  exported.resource = resource_of(options);
  // Virtual time begins in 1970.
  if (!options.clock) exported.clock_offset = offset_to_system_time(*node.clock);
  exported.log = options.log;
  auto exporter = SpanExporter::open(std::move(exported));
  if (!exporter) return with_context(exporter.error(), what);
  node.tracing = std::make_unique<NodeTracing>(std::move(*exporter), *node.clock,
                                               options.node_id ^ 0x7472616365, options.trace.ratio);
  endpoint.tracer = &node.tracing->tracer();
  return {};
}

SpanExporter::Stats NodeTraces::stats() const {
  const auto& tracing = node_.impl_->tracing;
  return tracing ? tracing->exporter().stats() : SpanExporter::Stats{};
}

void NodeTraces::set_ratio(double ratio) const {
  NodeImpl& node = *node_.impl_;
  const Loop::Turn turn(*node.loop);
  if (node.tracing) node.tracing->tracer().set_ratio(ratio);
}

rpc::CallNames NodeImpl::names_of(const rpc::CallTarget& target, std::uint64_t method) {
  rpc::CallNames names;
  if (target.actor == kRegistryActor)
    names.actor = "registry";
  else if (target.actor == kNodeActor)
    names.actor = "node";
  else if (target.actor == kObjectsActor)
    names.actor = "objects";
  else if (target.session != rpc::kLocal)
    names.actor = directory.name_of_actor(target.actor);
  if (target.session != rpc::kLocal) return names;
  const auto found = actors.find(target.actor);
  if (found == actors.end()) return names;
  if (!found->second.name.empty()) names.actor = found->second.name;
  if (const auto* entry = found->second.worker->methods().find(method)) names.method = entry->name;
  return names;
}

}  // namespace troupe
