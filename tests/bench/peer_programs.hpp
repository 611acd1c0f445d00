#pragma once

#include <optional>
#include <string>
#include <vector>

/// The programs of the peers (tests/bench/peers), run for one figure at a time.
namespace troupe::bench {

class PeerPrograms {
 public:
  /// Those of gRPC, ZeroMQ and TensorPipe that are in `folder`; none for an empty name.
  explicit PeerPrograms(std::string folder);

  /// What the lines for `what` ("rpc_sync_64B", "tensor_1MB") over `tls` ("shm", "tcp") are called, one for
  /// each peer. For shm it is what the peer has best between processes of one machine: a unix socket for
  /// gRPC and ZeroMQ, shared memory for TensorPipe.
  std::vector<std::string> names(const std::string& what, const std::string& tls) const;
  /// The figure of one such line, which takes some seconds; nothing if the program has none to tell.
  std::optional<double> take(const std::string& name) const;

 private:
  std::string folder_;
  std::vector<std::string> peers_;
};

}  // namespace troupe::bench
