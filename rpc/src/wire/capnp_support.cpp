#include "wire/capnp_support.hpp"

namespace troupe::rpc {

void write_error(wire::ErrorInfo::Builder out, const Error& error) {
  out.setCode(static_cast<std::uint16_t>(error.code));
  copy_text(out.initMessage(static_cast<unsigned>(error.message.size())), error.message);
  copy_text(out.initNode(static_cast<unsigned>(error.node.size())), error.node);
  copy_text(out.initCause(static_cast<unsigned>(error.cause.size())), error.cause);
  out.setTraceId(error.trace_id);
  if (!error.exception.empty())
    copy_text(out.initException(static_cast<unsigned>(error.exception.size())), error.exception);
}

Error read_error(wire::ErrorInfo::Reader in) {
  return Error{code_from_wire(in.getCode()),
               std::string(to_view(in.getMessage())),
               std::string(to_view(in.getNode())),
               std::string(to_view(in.getCause())),
               in.getTraceId(),
               std::string(to_view(in.getException()))};
}

}  // namespace troupe::rpc
