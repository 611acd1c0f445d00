// gRPC beside Troupe: see peer.hpp. The callback interface on both sides, which gRPC's performance guide
// recommends; one channel, no bound on the length of a message, no compression (the default), and messages
// that are used again. Data goes as raw buffers: sent from where it lies, taken as the slices in which it
// came, without Protobuf's copies.
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <cstdlib>
#include <iostream>
#include <memory>
#include <semaphore>
#include <string>
#include <vector>

#include "peer.grpc.pb.h"
#include "peer.hpp"

namespace {

using namespace troupe::bench;

constexpr int kUnlimited = -1;

void check(const grpc::Status& status) {
  if (status.ok()) return;
  std::cerr << "gRPC: " << status.error_message() << "\n";
  std::abort();
}

using Service =
    proto::Peer::WithCallbackMethod_Echo<proto::Peer::WithRawCallbackMethod_Take<proto::Peer::Service>>;

class Server final : public Service {
 public:
  grpc::ServerUnaryReactor* Echo(grpc::CallbackServerContext* context, const proto::Bytes* text,
                                 proto::Bytes* answer) override {
    answer->set_data(text->data());
    return answered(context);
  }
  grpc::ServerUnaryReactor* Take(grpc::CallbackServerContext* context, const grpc::ByteBuffer*,
                                 grpc::ByteBuffer* answer) override {
    const grpc::Slice nothing;
    *answer = grpc::ByteBuffer(&nothing, 1);
    return answered(context);
  }

 private:
  static grpc::ServerUnaryReactor* answered(grpc::CallbackServerContext* context) {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
};

void serve(const std::string& transport, const Ready& ready) {
  Server service;
  grpc::ServerBuilder builder;
  builder.SetMaxReceiveMessageSize(kUnlimited);
  builder.SetMaxSendMessageSize(kUnlimited);
  builder.RegisterService(&service);
  const bool tcp = transport == "tcp";
  // A name in the abstract namespace: no file that stays.
  const std::string name = "unix-abstract:troupe-peer-grpc-" + std::to_string(::getpid());
  int port = 0;
  builder.AddListeningPort(tcp ? "127.0.0.1:0" : name, grpc::InsecureServerCredentials(), &port);
  const auto server = builder.BuildAndStart();
  if (!server) return;
  ready(tcp ? "127.0.0.1:" + std::to_string(port) : name);
  server->Wait();
}

class Client final : public PeerClient {
 public:
  explicit Client(const std::string& address) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(kUnlimited);
    arguments.SetMaxSendMessageSize(kUnlimited);
    const auto channel = grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
    stub_ = proto::Peer::NewStub(channel);
    raw_stub_ = std::make_unique<grpc::GenericStub>(channel);
    text_.set_data(std::string(kCallBytes, 'x'));
  }

  void calls(std::size_t count) override {
    proto::Bytes answer;
    std::binary_semaphore answered(0);
    for (std::size_t i = 0; i < count; ++i) {
      grpc::ClientContext context;
      stub_->async()->Echo(&context, &text_, &answer, [&](const grpc::Status& status) {
        check(status);
        answered.release();
      });
      answered.acquire();
      if (answer.data().size() != kCallBytes) std::abort();
    }
  }

  void open_calls(std::size_t count, std::size_t window) override {
    windowed<proto::Bytes>(count, window, [&](std::size_t, auto& call, auto done) {
      stub_->async()->Echo(&call.context, &text_, &call.answer, std::move(done));
    });
  }

  void stream(std::size_t bytes, std::size_t count) override {
    if (data_.empty()) data_ = data_to_send(bytes);
    std::vector<grpc::ByteBuffer> messages;
    for (const auto& data : data_) {
      const grpc::Slice slice(data.data(), data.size(), grpc::Slice::STATIC_SLICE);
      messages.emplace_back(&slice, 1);
    }
    windowed<grpc::ByteBuffer>(count, kDataWindow, [&](std::size_t i, auto& call, auto done) {
      raw_stub_->UnaryCall(&call.context, "/troupe.bench.proto.Peer/Take", grpc::StubOptions(),
                           &messages[i % kDataWindow], &call.answer, std::move(done));
    });
  }

 private:
  template <class Answer>
  struct Call {
    grpc::ClientContext context;
    Answer answer;
  };

  /// Makes calls by start(i, call, done), `window` of them open at most, and waits for all.
  template <class Answer, class Start>
  static void windowed(std::size_t count, std::size_t window, const Start& start) {
    std::counting_semaphore<> free(static_cast<std::ptrdiff_t>(window));
    for (std::size_t i = 0; i < count; ++i) {
      free.acquire();
      const auto call = std::make_shared<Call<Answer>>();
      start(i, *call, [call, &free](const grpc::Status& status) {
        check(status);
        free.release();
      });
    }
    for (std::size_t i = 0; i < window; ++i) free.acquire();
  }

  std::unique_ptr<proto::Peer::Stub> stub_;
  std::unique_ptr<grpc::GenericStub> raw_stub_;
  proto::Bytes text_;
  std::vector<std::vector<char>> data_;
};

}  // namespace

int main(int argc, char** argv) {
  const auto connect = [](const std::string&, const std::string& address) {
    return std::make_unique<Client>(address);
  };
  return peer_main({"grpc", {"unix", "tcp"}, serve, connect}, argc, argv);
}
