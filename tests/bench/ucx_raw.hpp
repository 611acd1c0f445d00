#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

/// Raw UCX active messages between two processes, without a line of Troupe on their path: what the
/// benchmarks of Troupe divide by. Each function forks a child, pins the two processes to two different
/// cores, measures, and ends the child. UCX does not survive a fork: call them before this process uses
/// it, or from a process that never does.
namespace troupe::bench {

struct RawResult {
  bool ok = false;
  double value = 0;   ///< in the function's unit; a median over repetitions
  std::string error;  ///< if not ok
};

/// Round trip of an active message that is only a header of `bytes`, in microseconds. `tls` as UCX_TLS,
/// or "shm", "tcp", "auto" with the meaning of troupe::rpc::TransportOptions.
RawResult raw_am_rtt(std::size_t bytes, const std::string& tls, std::size_t iterations);
/// Messages of `bytes` a second, one way, `window` of them under way at most.
RawResult raw_am_rate(std::size_t bytes, std::size_t window, const std::string& tls, std::size_t iterations);
/// Payload in GB/s, one way: messages of `bytes`, `window` of them under way at most, received into
/// memory that the receiver uses again for each (rendezvous), or copied there (eager). The receiver reads
/// every byte of each before it takes the next, or none.
enum class Receiver { kReadsNothing, kReadsAll };
RawResult raw_am_bandwidth(std::size_t bytes, std::size_t window, const std::string& tls,
                           Receiver receiver = Receiver::kReadsNothing);

/// Sum of the memory as 64-bit words, read about as fast as memory gives it. Precondition: `bytes` is a
/// multiple of 256.
std::uint64_t sum_of(const void* data, std::size_t bytes);

/// UCX_TLS for "shm", "tcp" and "auto".
std::string raw_tls(const std::string& transports);

}  // namespace troupe::bench
