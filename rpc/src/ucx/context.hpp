#pragma once

#include <ucp/api/ucp.h>

#include <memory>
#include <string>

#include <troupe/rpc/transport.hpp>
#include <troupe/runtime/result.hpp>

namespace troupe::rpc {

/// A configured ucp context: which of UCX's transports and devices may be used, and from which size on
/// large messages go by rendezvous.
class UcxContext {
 public:
  /// kUnavailable: UCX cannot be set up so.
  static Result<std::unique_ptr<UcxContext>> create(const TransportOptions& options);
  ~UcxContext();
  UcxContext(const UcxContext&) = delete;
  UcxContext& operator=(const UcxContext&) = delete;

  ucp_context_h get() const { return context_; }

 private:
  explicit UcxContext(ucp_context_h context) : context_(context) {}
  ucp_context_h context_;
};

/// Whether UCX can do what it alone can: there is a device for RDMA that we may use.
bool has_rdma();
/// Whether peers on this machine, too, are reached over a network: with "ucx", or "tcp" and what follows.
bool uses_network_only(const TransportOptions& options);
/// `status` as an error of ours; `what` says what was attempted.
Error ucx_error(ucs_status_t status, const std::string& what);

}  // namespace troupe::rpc
