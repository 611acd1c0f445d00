#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <troupe/actors/node.hpp>
#include <troupe/rpc/call.hpp>
#include <troupe/rpc/future.hpp>

#include "value.hpp"
#include "waits.hpp"

namespace troupe::python {

using Reply = std::unique_ptr<rpc::InMessage>;

/// What is called, and with what: all of it taken out of Python.
struct Request {
  std::string actor, method;
  std::uint64_t signature = 0;  ///< 0: the callee looks at each argument
  std::string types;            ///< the caller's, for errors
  rpc::CallOptions options;
  std::vector<Value> arguments;
};

/// One call, and the future of its answer. Once begun it keeps itself alive until the answer has come. Its
/// node's loop outlives it, or has ended it.
class Call final : public rpc::detail::FutureState<Reply>, public rpc::ReplySink {
 public:
  Call(Node& node, Request request);

  /// With the turn; unless it has ended already.
  static void begin(const std::shared_ptr<Call>& call);
  /// Any thread, without the GIL: now if the turn is free, else soon. `help` false: soon.
  static void begin_soon(const std::shared_ptr<Call>& call, bool help);
  Duration timeout() const { return timeout_; }
  void cancel() override;

 private:
  void on_reply(Result<Reply> reply) override;
  std::string called() const override { return what(); }
  std::string what() const { return request_.actor + "." + request_.method; }
  Error explained(Error error) const;

  Node& node_;
  Request request_;
  Duration timeout_;
  std::uint64_t call_id_ = 0;
  std::shared_ptr<Call> self_;
};

/// A call as Python has it.
struct PendingCall {
  std::shared_ptr<Node> node;
  std::shared_ptr<Call> call;
  TypePtr result;
};

/// Calls and waits. With the GIL.
nb::object call_and_wait(const std::shared_ptr<Node>& node, Request request, const Type& result);
void bind_calls(nb::module_& module);

}  // namespace troupe::python
