#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <troupe/runtime/clock.hpp>
#include <troupe/runtime/gpu.hpp>
#include <troupe/runtime/result.hpp>
#include <troupe/shards/communicator.hpp>

namespace troupe {

class Node;

/// Which nodes form a communicator. All of them give the same.
struct CollectiveGroup {
  std::string name;
  std::vector<std::string> members;  ///< names of nodes, each once; a node's place is its rank
  /// Whoever forms the group anew, without one that has died for example, gives the next number.
  std::uint64_t round = 0;
};

/// A node's part in communicators: tells the others where its sockets are, by an actor named
/// "<node>.collectives", and ends communicators whose members die or leave. One for each node, which must
/// outlive it. Communicators that it has formed may outlive both. Any thread, but form() not the loop's.
class Collectives {
 public:
  /// kAlreadyExists: the node has one.
  static Result<std::unique_ptr<Collectives>> on(Node& node);
  ~Collectives();
  Collectives(const Collectives&) = delete;
  Collectives& operator=(const Collectives&) = delete;

  struct Options {
    Duration timeout = std::chrono::seconds(30);  ///< for forming it, and for each collective
    /// This machine's address, in numbers, that the others can reach; empty: that at which the node itself is
    /// reached.
    std::string address = {};
    bool check_calls = true;
    /// For tensors in this GPU's memory, by NCCL; none: in host memory, by Gloo. All members do the same,
    /// each with a GPU of its own.
    std::optional<Gpu> gpu = {};
    std::string nccl_library = "libnccl.so.2";  ///< see shards::NcclOptions
  };
  /// Waits until all members of the group have called it. kUnavailable soon after one of them dies or leaves;
  /// kDeadlineExceeded names one who did not come; kInvalidArgument: this node is not among the members, a
  /// name comes twice, or others form the group of this name and round with other members.
  Result<std::shared_ptr<shards::Communicator>> form(const CollectiveGroup& group, const Options& options);
  Result<std::shared_ptr<shards::Communicator>> form(const CollectiveGroup& group) {
    return form(group, Options());
  }

 private:
  struct Shared;
  class AddressBook;
  explicit Collectives(Node& node);
  /// The members' addresses, by rank.
  Result<std::vector<std::string>> tell_addresses(const CollectiveGroup& group, const std::string& mine,
                                                  Duration timeout, int rank,
                                                  const std::function<std::optional<Error>()>& given_up);

  Node& node_;
  std::shared_ptr<Shared> shared_;
  std::uint64_t watch_ = 0;
};

}  // namespace troupe
