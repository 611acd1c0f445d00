// TensorPipe beside Troupe: see peer.hpp. On one machine its shared-memory transport, with data over the
// channel that copies straight from the other process (cma); over TCP its transport on libuv with the basic
// channel. Calls are a message's metadata, which travels with the descriptor and needs no second read. The
// next call is made from the callback of the answer, without a waiting thread between them: the interface
// has no other kind of call.
#include <tensorpipe/tensorpipe.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <future>
#include <iostream>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "peer.hpp"

namespace {

using namespace troupe::bench;

void check(const tensorpipe::Error& error) {
  if (!error) return;
  std::cerr << "TensorPipe: " << error.what() << "\n";
  std::abort();
}

void check_later(const std::shared_ptr<tensorpipe::Pipe>& pipe, tensorpipe::Message message) {
  pipe->write(std::move(message), [](const tensorpipe::Error& error) { check(error); });
}

void join(tensorpipe::Context& context, const std::string& transport) {
  if (transport == "tcp") {
    context.registerTransport(1, "uv", tensorpipe::transport::uv::create());
    context.registerChannel(1, "basic", tensorpipe::channel::basic::create());
    return;
  }
  context.registerTransport(1, "shm", tensorpipe::transport::shm::create());
  const auto cma = tensorpipe::channel::cma::create();
  context.registerChannel(0, "basic", tensorpipe::channel::basic::create());
  // Not allowed in some containers, whose data then goes through the ring of the transport.
  if (cma->isViable()) context.registerChannel(1, "cma", cma);
}

/// Answers texts with themselves and data with nothing, in the order in which they come.
class Server {
 public:
  explicit Server(std::shared_ptr<tensorpipe::Pipe> pipe) : pipe_(std::move(pipe)), sinks_(kDataWindow) {
    next();
  }

 private:
  void next() {
    pipe_->readDescriptor([this](const tensorpipe::Error& error, tensorpipe::Descriptor descriptor) {
      if (error) return;  // the client has gone
      take(std::move(descriptor));
      next();
    });
  }

  void take(tensorpipe::Descriptor descriptor) {
    tensorpipe::Allocation allocation;
    for (const auto& tensor : descriptor.tensors) {
      auto& sink = sinks_[turn_++ % kDataWindow];
      if (sink.size() < tensor.length) sink.resize(tensor.length);
      allocation.tensors.push_back({tensorpipe::CpuBuffer{sink.data()}});
    }
    pipe_->read(std::move(allocation),
                [this, text = std::move(descriptor.metadata)](const tensorpipe::Error& error) {
                  check(error);
                  tensorpipe::Message answer;
                  answer.metadata = text;
                  check_later(pipe_, std::move(answer));
                });
  }

  std::shared_ptr<tensorpipe::Pipe> pipe_;
  std::vector<std::vector<char>> sinks_;
  std::size_t turn_ = 0;
};

void serve(const std::string& transport, const Ready& ready) {
  tensorpipe::Context context;
  join(context, transport);
  const bool tcp = transport == "tcp";
  const auto listener =
      context.listen({tcp ? "uv://127.0.0.1" : "shm://troupe-peer-" + std::to_string(::getpid())});
  std::promise<std::shared_ptr<tensorpipe::Pipe>> accepted;
  listener->accept([&](const tensorpipe::Error& error, std::shared_ptr<tensorpipe::Pipe> pipe) {
    check(error);
    accepted.set_value(std::move(pipe));
  });
  ready(listener->url(tcp ? "uv" : "shm"));
  const Server server(accepted.get_future().get());
  std::promise<void>().get_future().wait();  // until it is killed
}

class Client final : public PeerClient {
 public:
  Client(const std::string& transport, const std::string& address) {
    join(context_, transport);
    pipe_ = context_.connect(address);
  }

  void calls(std::size_t count) override { run(0, count, 1); }
  void open_calls(std::size_t count, std::size_t window) override { run(0, count, window); }
  void stream(std::size_t bytes, std::size_t count) override {
    if (data_.empty()) data_ = data_to_send(bytes);
    run(bytes, count, kDataWindow);
  }

 private:
  /// Sends `count` messages (of data, or texts for no bytes), `window` of them unanswered at most.
  void run(std::size_t bytes, std::size_t count, std::size_t window) {
    std::promise<void> done;
    {
      const std::lock_guard lock(mutex_);
      bytes_ = bytes;
      to_send_ = to_receive_ = count;
      done_ = &done;
      for (std::size_t i = 0; i < std::min(window, count); ++i) send_one();
    }
    done.get_future().wait();
  }

  /// With the lock.
  void send_one() {
    tensorpipe::Message message;
    if (bytes_ > 0) {
      message.tensors.push_back(
          {tensorpipe::CpuBuffer{data_[to_send_ % kDataWindow].data()}, bytes_, {}, ""});
    } else {
      message.metadata.assign(kCallBytes, 'x');
    }
    --to_send_;
    check_later(pipe_, std::move(message));
    pipe_->readDescriptor([this](const tensorpipe::Error& error, const tensorpipe::Descriptor& descriptor) {
      check(error);
      pipe_->read({}, [](const tensorpipe::Error& e) { check(e); });
      if (descriptor.metadata.size() != (bytes_ > 0 ? 0 : kCallBytes)) std::abort();
      answered();
    });
  }

  void answered() {
    const std::lock_guard lock(mutex_);
    if (to_send_ > 0) send_one();
    if (--to_receive_ == 0) done_->set_value();
  }

  tensorpipe::Context context_;
  std::shared_ptr<tensorpipe::Pipe> pipe_;
  std::vector<std::vector<char>> data_;
  std::mutex mutex_;  ///< callbacks are on the context's thread, the first messages of a run on ours
  std::size_t bytes_ = 0;
  std::size_t to_send_ = 0;
  std::size_t to_receive_ = 0;
  std::promise<void>* done_ = nullptr;
};

}  // namespace

int main(int argc, char** argv) {
  const auto connect = [](const std::string& transport, const std::string& address) {
    return std::make_unique<Client>(transport, address);
  };
  return peer_main({"tensorpipe", {"shm", "tcp"}, serve, connect}, argc, argv);
}
