// Calls over ZeroMQ beside Troupe: see peer.hpp. What a program has to add to its messages in order to have
// calls, and no more: a server that can answer more than one caller (ROUTER), an id with each call, which
// finds the call again when the answer comes, and the number of a method, which the server looks up. No
// deadlines, types, errors or names. zmq_peer.cpp beside it has the messages alone: there the n-th answer is
// the n-th call's.
#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>
#include <zmq.hpp>

#include "peer.hpp"

namespace {

using namespace troupe::bench;

constexpr int kNoBound = 0;
constexpr std::uint64_t kEcho = 0x65636f;

/// Before the text of a call, and of an answer.
struct Head {
  std::uint64_t id = 0;
  std::uint64_t method = 0;
};

zmq::socket_t socket_of(zmq::context_t& context, zmq::socket_type type) {
  zmq::socket_t socket(context, type);
  socket.set(zmq::sockopt::sndhwm, kNoBound);
  socket.set(zmq::sockopt::rcvhwm, kNoBound);
  return socket;
}

zmq::message_t message_of(const Head& head, std::string_view text) {
  zmq::message_t message(sizeof head + text.size());
  std::memcpy(message.data(), &head, sizeof head);
  std::memcpy(static_cast<char*>(message.data()) + sizeof head, text.data(), text.size());
  return message;
}

std::string_view text_of(const zmq::message_t& message, Head& head) {
  if (message.size() < sizeof head) std::abort();
  std::memcpy(&head, message.data(), sizeof head);
  return {static_cast<const char*>(message.data()) + sizeof head, message.size() - sizeof head};
}

void serve(const std::string&, const Ready& ready) {
  zmq::context_t context(1);
  zmq::socket_t calls = socket_of(context, zmq::socket_type::router);
  calls.bind("tcp://127.0.0.1:*");
  ready(calls.get(zmq::sockopt::last_endpoint));
  const std::unordered_map<std::uint64_t, std::function<std::string(std::string_view)>> methods{
      {kEcho, [](std::string_view text) { return std::string(text); }}};
  zmq::message_t caller, message;
  for (;;) {
    if (!calls.recv(caller) || !calls.recv(message)) std::abort();
    Head head;
    const std::string_view text = text_of(message, head);
    const std::string answer = methods.at(head.method)(text);
    if (!calls.send(std::move(caller), zmq::send_flags::sndmore)) std::abort();
    if (!calls.send(message_of(head, answer), zmq::send_flags::none)) std::abort();
  }
}

class Client final : public PeerClient {
 public:
  explicit Client(const std::string& address) : calls_(socket_of(context_, zmq::socket_type::dealer)) {
    calls_.connect(address);
    text_.fill('x');
  }

  void calls(std::size_t count) override { open_calls(count, 1); }
  void open_calls(std::size_t count, std::size_t window) override {
    open_.resize(window);
    zmq::message_t message;
    std::size_t begun = 0;
    for (std::size_t answered = 0; answered < count; ++answered) {
      for (; begun < count && begun < answered + window; ++begun) begin();
      if (!calls_.recv(message)) std::abort();
      Head head;
      const std::string_view text = text_of(message, head);
      Open& call = open_[head.id % open_.size()];
      if (call.id != head.id) std::abort();
      call.answer = std::string(text);
      if (call.answer.size() != kCallBytes) std::abort();
    }
  }
  void stream(std::size_t, std::size_t) override { std::abort(); }

 private:
  struct Open {
    std::uint64_t id = 0;
    std::string answer;
  };
  void begin() {
    Open& call = open_[++last_id_ % open_.size()];
    call.id = last_id_;
    if (!calls_.send(message_of({call.id, kEcho}, {text_.data(), text_.size()}), zmq::send_flags::none))
      std::abort();
  }

  zmq::context_t context_{1};
  zmq::socket_t calls_;
  std::array<char, kCallBytes> text_{};
  std::vector<Open> open_;
  std::uint64_t last_id_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  const auto connect = [](const std::string&, const std::string& address) {
    return std::make_unique<Client>(address);
  };
  return peer_main({"zmqcalls", {"tcp"}, serve, connect, false}, argc, argv);
}
