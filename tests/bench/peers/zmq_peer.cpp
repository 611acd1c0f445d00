// ZeroMQ beside Troupe: see peer.hpp. Calls go between two DEALER sockets. Data goes from a PUSH to a PULL
// socket in messages that point at where it lies (zero copy), with socket buffers of 4 MiB; only the end of
// a stream is answered, not each message.
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>
#include <zmq.hpp>

#include "peer.hpp"

namespace {

using namespace troupe::bench;

constexpr int kSocketBuffer = static_cast<int>(4 * kMiB);
constexpr int kNoBound = 0;

zmq::socket_t calls_socket(zmq::context_t& context) {
  zmq::socket_t socket(context, zmq::socket_type::dealer);
  socket.set(zmq::sockopt::sndhwm, kNoBound);
  socket.set(zmq::sockopt::rcvhwm, kNoBound);
  return socket;
}

zmq::socket_t data_socket(zmq::context_t& context, zmq::socket_type type) {
  zmq::socket_t socket(context, type);
  socket.set(zmq::sockopt::sndhwm, static_cast<int>(kDataWindow));
  socket.set(zmq::sockopt::rcvhwm, static_cast<int>(kDataWindow));
  socket.set(zmq::sockopt::sndbuf, kSocketBuffer);
  socket.set(zmq::sockopt::rcvbuf, kSocketBuffer);
  return socket;
}

void send(zmq::socket_t& socket, zmq::message_t&& message) {
  if (!socket.send(std::move(message), zmq::send_flags::none)) std::abort();
}

std::size_t receive(zmq::socket_t& socket, zmq::message_t& message) {
  if (!socket.recv(message)) std::abort();
  return message.size();
}

/// Echoes texts. A message with only a number says how many pieces of data to take before it is answered.
void serve(const std::string& transport, const Ready& ready) {
  zmq::context_t context(1);
  zmq::socket_t calls = calls_socket(context);
  zmq::socket_t data = data_socket(context, zmq::socket_type::pull);
  // Names in the abstract namespace: no files that stay.
  const std::string name = "ipc://@troupe-peer-zmq-" + std::to_string(::getpid());
  const bool tcp = transport == "tcp";
  calls.bind(tcp ? "tcp://127.0.0.1:*" : name + "-calls");
  data.bind(tcp ? "tcp://127.0.0.1:*" : name + "-data");
  ready(calls.get(zmq::sockopt::last_endpoint) + " " + data.get(zmq::sockopt::last_endpoint));
  zmq::message_t message, piece;
  for (;;) {
    std::size_t count = 0;
    if (receive(calls, message) == sizeof count) {
      std::memcpy(&count, message.data(), sizeof count);
      for (; count > 0; --count) receive(data, piece);
    }
    send(calls, std::move(message));
  }
}

class Client final : public PeerClient {
 public:
  explicit Client(const std::string& addresses)
      : calls_(calls_socket(context_)), data_socket_(data_socket(context_, zmq::socket_type::push)) {
    const auto space = addresses.find(' ');
    calls_.connect(addresses.substr(0, space));
    data_socket_.connect(addresses.substr(space + 1));
    text_.fill('x');
  }

  void calls(std::size_t count) override { windowed(count, 1); }
  void open_calls(std::size_t count, std::size_t window) override { windowed(count, window); }

  void stream(std::size_t bytes, std::size_t count) override {
    if (data_.empty()) data_ = data_to_send(bytes);
    send(calls_, zmq::message_t(&count, sizeof count));
    for (std::size_t i = 0; i < count; ++i) {
      auto& piece = data_[i % kDataWindow];
      send(data_socket_, zmq::message_t(
                             piece.data(), bytes, [](void*, void*) {}, nullptr));
    }
    zmq::message_t taken;
    if (receive(calls_, taken) != sizeof count) std::abort();
  }

 private:
  void windowed(std::size_t count, std::size_t window) {
    zmq::message_t answer;
    std::size_t sent = 0;
    for (std::size_t answered = 0; answered < count; ++answered) {
      for (; sent < count && sent < answered + window; ++sent)
        send(calls_, zmq::message_t(text_.data(), text_.size()));
      if (receive(calls_, answer) != kCallBytes) std::abort();
    }
  }

  zmq::context_t context_{1};
  zmq::socket_t calls_;
  zmq::socket_t data_socket_;
  std::array<char, kCallBytes> text_;
  std::vector<std::vector<char>> data_;
};

}  // namespace

int main(int argc, char** argv) {
  const auto connect = [](const std::string&, const std::string& addresses) {
    return std::make_unique<Client>(addresses);
  };
  return peer_main({"zmq", {"unix", "tcp"}, serve, connect}, argc, argv);
}
