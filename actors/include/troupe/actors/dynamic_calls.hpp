#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include <troupe/actors/node.hpp>
#include <troupe/rpc/any_type.hpp>

namespace troupe {

/// Calls of a node's whose types are known at run time only, as those from other languages are. The arguments
/// are what the caller writes into the message, the answer is the message that came. They are like
/// Node::rpc_sync_with() and its kin in everything else, but are always encoded, also on the same node.
/// Any thread. The node must outlive what was begun.
class DynamicCalls {
 public:
  explicit DynamicCalls(Node& node) : node_(node) {}

  /// What is called. `signature` is compared with the method's, if there is one; else each argument is looked
  /// at.
  struct Method {
    std::string_view actor, name;
    std::shared_ptr<const rpc::AnySignature> signature = nullptr;
    std::uint64_t fingerprint = 0;  ///< of the signature
  };
  /// One value, or none if the result is void. Never an error. May go on any thread.
  using Answer = std::unique_ptr<rpc::InMessage>;
  /// Writes values(count) and each of them. Called once, with the turn.
  using Body = UniqueFunction<void(rpc::OutMessage&)>;

  Result<Answer> call(const rpc::CallOptions& options, const Method& method, const rpc::BodyWriter& body);
  /// `body` owns what it needs: with options.help false, or a loop that is busy, it is run later.
  rpc::Future<Answer> call_async(const rpc::CallOptions& options, const Method& method, Body body);
  Result<void> send(const rpc::CallOptions& options, const Method& method, const rpc::BodyWriter& body);

 private:
  class SyncAnswer;
  class AsyncAnswer;
  Node& node_;
};

}  // namespace troupe
