#include "bare_rows.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <span>
#include <thread>

#include <troupe/kernels/hash_index.hpp>

#include "harness.hpp"

namespace troupe::bench {
namespace {

constexpr std::size_t kRecord = 2 * kBareDim;  // weights, and Adagrad's sums

void send_all(int socket, const void* bytes, std::size_t count) {
  for (const char* at = static_cast<const char*>(bytes); count > 0;) {
    const ssize_t sent = ::send(socket, at, count, MSG_NOSIGNAL);
    if (sent <= 0) std::_Exit(1);
    at += sent;
    count -= static_cast<std::size_t>(sent);
  }
}

/// False at the end.
bool receive_all(int socket, void* bytes, std::size_t count) {
  for (char* at = static_cast<char*>(bytes); count > 0;) {
    const ssize_t got = ::recv(socket, at, count, 0);
    if (got <= 0) return false;
    at += got;
    count -= static_cast<std::size_t>(got);
  }
  return true;
}

}  // namespace

std::vector<std::vector<std::uint64_t>> bare_batches(std::uint64_t rows, bool zipf) {
  std::mt19937_64 random(42);
  std::uniform_real_distribution<double> fraction(0, 1);
  constexpr double kPower = 1 - 1.05;
  const double most = std::pow(static_cast<double>(rows), kPower) - 1;
  std::vector<std::vector<std::uint64_t>> batches(32, std::vector<std::uint64_t>(kBareKeys));
  for (auto& batch : batches) {
    for (std::uint64_t& key : batch) {
      key = random() % rows;
      if (!zipf) continue;
      // The continuous law; ranks are spread over the keys, so that frequent ones do not lie together.
      const double rank = std::pow(1 + most * fraction(random), 1 / kPower);
      key = static_cast<std::uint64_t>(rank) * 0x9e3779b1U % rows;
    }
  }
  return batches;
}

/// The server's own.
class BareRows::Server {
 public:
  Server(std::uint64_t rows, Shared* shared) : shared_(shared), index_(static_cast<std::int64_t>(rows)) {
    const std::size_t bytes = rows * kRecord * sizeof(float);
    memory_ =
        static_cast<float*>(std::aligned_alloc(std::size_t{2} << 20, (bytes >> 21U << 21U) + (2U << 20U)));
    if (memory_ == nullptr) std::abort();
    ::madvise(memory_, bytes, MADV_HUGEPAGE);
    std::fill_n(memory_, rows * kRecord, 1.0F);
    std::vector<std::uint64_t> keys(65536), numbers(65536);
    for (std::uint64_t begin = 0; begin < rows; begin += keys.size()) {
      const std::size_t count = std::min<std::uint64_t>(keys.size(), rows - begin);
      std::iota(keys.begin(), keys.end(), begin);
      index_.find_or_insert_batch(std::span(keys).first(count), begin, std::span(numbers).first(count));
    }
  }

  void find(const std::uint64_t* keys, std::size_t count) {
    index_.find_batch({keys, count}, {numbers_.data(), count}, 0);
  }
  /// Of the keys that were looked for last.
  void gather(std::size_t begin, std::size_t end, float* out) const {
    for (std::size_t i = begin; i < end; ++i, out += kBareDim) {
      if (i + kAhead < end) prefetch(i + kAhead, kBareDim);
      std::memcpy(out, memory_ + numbers_[i] * kRecord, kBareDim * sizeof(float));
    }
  }
  void step(std::size_t begin, std::size_t end, const float* gradients) {
    for (std::size_t i = begin; i < end; ++i, gradients += kBareDim) {
      if (i + kAhead < end) prefetch(i + kAhead, kRecord);
      float* const row = memory_ + numbers_[i] * kRecord;
      float* const sums = row + kBareDim;
      for (std::size_t j = 0; j < kBareDim; ++j) {
        sums[j] += gradients[j] * gradients[j];
        row[j] -= 0.1F * gradients[j] / (std::sqrt(sums[j]) + 1e-10F);
      }
    }
  }

  void serve_memory() {
    for (std::uint32_t idle = 0;; ++idle) {
      for (Slot& slot : shared_->slots) {
        const std::uint32_t asked = slot.asked.load(std::memory_order_acquire);
        if (asked == 0 || slot.done.load(std::memory_order_relaxed) != 0) continue;
        idle = 0;
        find(slot.keys, kBareKeys);
        for (std::size_t row = 0; row < kBareKeys; row += kBarePiece) {
          float* const piece = slot.rows + row * kBareDim;
          if (slot.push != 0) {
            while (slot.asked.load(std::memory_order_acquire) <= row / kBarePiece) {
            }
            step(row, row + kBarePiece, piece);
          } else {
            gather(row, row + kBarePiece, piece);
          }
          slot.done.fetch_add(1, std::memory_order_release);
        }
      }
      if (shared_->busy.load(std::memory_order_relaxed) == 0 && idle > 1000)
        std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  }

  void serve_socket(int socket) {
    std::vector<std::uint64_t> head(1 + kBareKeys);
    std::vector<float> piece(kBarePiece * kBareDim);
    while (receive_all(socket, head.data(), head.size() * sizeof(head[0]))) {
      find(head.data() + 1, kBareKeys);
      for (std::size_t row = 0; row < kBareKeys; row += kBarePiece) {
        if (head[0] != 0) {
          if (!receive_all(socket, piece.data(), piece.size() * sizeof(float))) return;
          step(row, row + kBarePiece, piece.data());
        } else {
          gather(row, row + kBarePiece, piece.data());
          send_all(socket, piece.data(), piece.size() * sizeof(float));
        }
      }
      if (head[0] != 0) send_all(socket, head.data(), sizeof(head[0]));
    }
  }

 private:
  static constexpr std::size_t kAhead = 8;
  void prefetch(std::size_t i, std::size_t floats) const {
    for (std::size_t at = 0; at < floats; at += 16) __builtin_prefetch(memory_ + numbers_[i] * kRecord + at);
  }
  Shared* shared_;
  kernels::HashIndex index_;
  float* memory_;
  std::vector<std::uint64_t> numbers_ = std::vector<std::uint64_t>(kBareKeys);
};

BareRows::BareRows(std::uint64_t rows) : rows_(rows) {
  void* const memory =
      ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) std::abort();
  shared_ = static_cast<Shared*>(memory);
}

BareRows::~BareRows() {
  ::munmap(shared_, sizeof(Shared));
}

void BareRows::serve(bool tcp, const std::function<void(const std::string& port)>& ready) {
  Server server(rows_, shared_);
  if (!tcp) {
    ready("shm");
    server.serve_memory();
    return;
  }
  const int listening = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  if (::bind(listening, reinterpret_cast<sockaddr*>(&address), length) != 0 || ::listen(listening, 1) != 0 ||
      ::getsockname(listening, reinterpret_cast<sockaddr*>(&address), &length) != 0)
    std::abort();
  ready(std::to_string(ntohs(address.sin_port)));
  const int socket = ::accept(listening, nullptr, nullptr);
  const int on = 1;
  ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  server.serve_socket(socket);
}

BareClient::BareClient(BareRows& rows, const std::string& port)
    : shared_(rows.shared_),
      out_(kBareSlots, std::vector<float>(kBareKeys * kBareDim)),
      gradients_(kBareKeys * kBareDim, 0.01F) {
  if (port == "shm") return;
  socket_ = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<std::uint16_t>(std::strtoul(port.c_str(), nullptr, 10)));
  if (::connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) std::abort();
  const int on = 1;
  ::setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

BareClient::~BareClient() {
  if (socket_ >= 0) ::close(socket_);
}

void BareClient::ask(std::size_t slot, const std::vector<std::uint64_t>& keys, bool push) {
  if (socket_ >= 0) {
    std::vector<std::uint64_t> head{push ? 1U : 0U};
    head.insert(head.end(), keys.begin(), keys.end());
    send_all(socket_, head.data(), head.size() * sizeof(head[0]));
    if (push) send_all(socket_, gradients_.data(), gradients_.size() * sizeof(float));
    return;
  }
  BareRows::Slot& own = shared_->slots[slot];
  std::copy(keys.begin(), keys.end(), own.keys);
  own.push = push ? 1 : 0;
  own.done.store(0, std::memory_order_relaxed);
  own.asked.store(1, std::memory_order_release);
  if (!push) return;
  for (std::size_t piece = 0; piece * kBarePiece < kBareKeys; ++piece) {
    const std::size_t at = piece * kBarePiece * kBareDim;
    std::memcpy(own.rows + at, gradients_.data() + at, kBarePiece * kBareDim * sizeof(float));
    own.asked.store(static_cast<std::uint32_t>(piece + 1), std::memory_order_release);
  }
}

void BareClient::take(std::size_t slot, bool push) {
  float* const out = out_[slot].data();
  if (socket_ >= 0) {
    std::uint64_t done = 0;
    const bool good = push ? receive_all(socket_, &done, sizeof done)
                           : receive_all(socket_, out, out_[slot].size() * sizeof(float));
    if (!good) std::abort();
    return;
  }
  BareRows::Slot& own = shared_->slots[slot];
  constexpr std::size_t kPieces = kBareKeys / kBarePiece;
  for (std::size_t piece = 0; piece < kPieces; ++piece) {
    while (own.done.load(std::memory_order_acquire) <= piece) {
    }
    const std::size_t at = piece * kBarePiece * kBareDim;
    if (!push) std::memcpy(out + at, own.rows + at, kBarePiece * kBareDim * sizeof(float));
  }
  own.asked.store(0, std::memory_order_release);
}

double BareClient::rows_per_second(const std::vector<std::vector<std::uint64_t>>& batches, std::size_t count,
                                   std::size_t window, bool push) {
  shared_->busy.store(1, std::memory_order_relaxed);
  const auto begin = SteadyClock::now();
  for (std::size_t i = 0; i < count + window; ++i) {
    const std::size_t slot = i % window;
    if (i >= window) take(slot, push);
    if (i < count) ask(slot, batches[i % batches.size()], push);
  }
  const double seconds = seconds_since(begin);
  shared_->busy.store(0, std::memory_order_relaxed);
  return static_cast<double>(count * kBareKeys) / seconds;
}

}  // namespace troupe::bench
