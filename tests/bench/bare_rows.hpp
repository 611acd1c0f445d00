#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

/// The least that a server of rows in another process has to do: an index, rows, and bytes that go across.
namespace troupe::bench {

inline constexpr std::size_t kBareKeys = 4096;  // a batch
inline constexpr std::size_t kBareDim = 64;
inline constexpr std::size_t kBareSlots = 4;    // batches in flight
inline constexpr std::size_t kBarePiece = 256;  // rows that go at once

/// Batches of keys below `rows`, evenly spread or by Zipf's law with the exponent 1.05.
std::vector<std::vector<std::uint64_t>> bare_batches(std::uint64_t rows, bool zipf);

/// The server, and the memory through which it and its client speak; made before the processes part.
class BareRows {
 public:
  explicit BareRows(std::uint64_t rows);
  BareRows(const BareRows&) = delete;
  BareRows& operator=(const BareRows&) = delete;
  ~BareRows();

  /// Makes the rows, says the port (or "shm"), and serves for ever.
  void serve(bool tcp, const std::function<void(const std::string& port)>& ready);

 private:
  friend class BareClient;
  struct Slot {
    std::atomic<std::uint32_t> asked;  // pieces, by the client
    std::atomic<std::uint32_t> done;   // by the server
    std::uint32_t push;
    std::uint64_t keys[kBareKeys];
    float rows[kBareKeys * kBareDim];  // or gradients
  };
  struct Shared {
    std::atomic<std::uint32_t> busy;  // somebody measures
    Slot slots[kBareSlots];
  };
  class Server;
  std::uint64_t rows_;
  Shared* shared_;
};

class BareClient {
 public:
  /// `port`: what the server has said.
  BareClient(BareRows& rows, const std::string& port);
  BareClient(const BareClient&) = delete;
  BareClient& operator=(const BareClient&) = delete;
  ~BareClient();
  /// Rows a second of `count` batches with `window` of them in flight.
  double rows_per_second(const std::vector<std::vector<std::uint64_t>>& batches, std::size_t count,
                         std::size_t window, bool push);

 private:
  void ask(std::size_t slot, const std::vector<std::uint64_t>& keys, bool push);
  void take(std::size_t slot, bool push);
  BareRows::Shared* shared_;
  int socket_ = -1;
  std::vector<std::vector<float>> out_;
  std::vector<float> gradients_;
};

}  // namespace troupe::bench
