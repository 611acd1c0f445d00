#include <capnp/message.h>
#include <capnp/serialize.h>

#include <troupe/rpc/message.hpp>
#include <troupe/runtime/memory_pool.hpp>

#include "fuzz/wire_input.hpp"
#include "fuzz/wire_types.hpp"
#include "schema/wire.capnp.h"

namespace troupe::rpc::fuzz {

namespace {

using Bytes = std::vector<std::uint8_t>;

constexpr std::size_t kMaxHead = 4096;
/// The id of the one call that the target has open: slot 0, first generation.
constexpr std::uint64_t kOpenCall = std::uint64_t{1} << 32;

template <class F>
Bytes control(F&& write) {
  capnp::MallocMessageBuilder builder;
  write(builder.initRoot<wire::Control>());
  const auto words = capnp::messageToFlatArray(builder);
  const auto bytes = words.asBytes();
  return {bytes.begin(), bytes.end()};
}

void append_sized(Bytes& to, const Bytes& what) {
  to.push_back(static_cast<std::uint8_t>(what.size()));
  to.push_back(static_cast<std::uint8_t>(what.size() >> 8));
  to.insert(to.end(), what.begin(), what.end());
}

void add_control(Bytes& input, const Bytes& message) {
  input.push_back(static_cast<std::uint8_t>(RecordKind::kControl));
  append_sized(input, message);
}

void add_frame(Bytes& input, const OutFrame& frame) {
  const auto bytes_of = [](const Buffer& buffer) {
    const auto* begin = reinterpret_cast<const std::uint8_t*>(buffer.data());
    return Bytes(begin, begin + buffer.size());
  };
  Bytes record;
  append_sized(record, bytes_of(frame.head));
  for (const Buffer& part : frame.parts) {
    const Bytes bytes = bytes_of(part);
    record.insert(record.end(), bytes.begin(), bytes.end());
  }
  input.push_back(static_cast<std::uint8_t>(RecordKind::kFrame));
  append_sized(input, record);
}

Bytes hello(bool incoming) {
  return control([&](wire::Control::Builder out) {
    auto said = out.initHello();
    said.setProtocolVersion(wire::PROTOCOL_VERSION);
    said.setNodeId(incoming ? 2 : 3);
    said.setNodeName("seed");
    said.initDataAddress(8);
  });
}
Bytes ready() {
  return control([](wire::Control::Builder out) { out.setReady(); });
}
Bytes greeting(bool challenge) {
  return control([&](wire::Control::Builder out) {
    auto said = challenge ? out.initChallenge() : out.initGreeting();
    said.setScheme(1);
    said.setNodeId(2);
    said.initNonce(32);
  });
}

/// A message with these values, to a link that is ready for it.
template <class... T>
Bytes message(const MessageHeader& header, const T&... values) {
  MemoryPool pool;
  OutMessage out(pool, header);
  out.values(sizeof...(T));
  [[maybe_unused]] std::uint32_t i = 0;
  (Codec<T>::encode(out.value(i++), values), ...);
  Bytes input{kIncoming | kMet};
  add_frame(input, out.finish(kMaxHead).value());
  return input;
}

template <class... T>
Bytes request(std::string_view method, const T&... values) {
  return message({MessageKind::kRequest, 5, 1, fnv1a(method), 0, std::chrono::seconds(1), {}}, values...);
}
template <class... T>
Bytes reply(const T&... values) {
  return message({MessageKind::kReply, kOpenCall, 0, 0, 0, Duration{0}, {}}, values...);
}

/// Items 0 to 2 of the stream that the target reads, the second one late, then its end.
Bytes stream_items() {
  constexpr std::uint64_t kStream = kOpenCall | 1;
  MemoryPool pool;
  Bytes input{kIncoming | kMet};
  for (const std::uint64_t number : {0, 2, 1}) {
    OutMessage out(pool, {MessageKind::kItem, kStream, number, 0, 0, Duration{0}});
    out.values(1);
    Codec<std::int64_t>::encode(out.value(0), static_cast<std::int64_t>(number));
    add_frame(input, out.finish(kMaxHead).value());
  }
  OutMessage end(pool, {MessageKind::kReply, kStream, 3, 0, 0, Duration{0}});
  end.values(0);
  add_frame(input, end.finish(kMaxHead).value());
  return input;
}

/// A stream that the target writes, and more room for it.
Bytes stream_request() {
  Bytes input = request("watch", std::uint64_t{2}, std::uint64_t{1000}, std::int64_t{10});
  const Bytes credit = message({MessageKind::kCredit, 5, 8, 4000, 0, Duration{0}});
  input.insert(input.end(), credit.begin() + 1, credit.end());
  return input;
}

Bytes error_reply() {
  MemoryPool pool;
  OutMessage out(pool, {MessageKind::kReply, kOpenCall, 0, 0, 0, Duration{0}, {}});
  out.error({Code::kAborted, "no", "there", "because", 42});
  Bytes input{kIncoming | kMet};
  add_frame(input, out.finish(kMaxHead).value());
  return input;
}

/// A tensor that nobody here has agreed to map.
Bytes shared_request() {
  MemoryPool pool;
  SharedPool shared;
  std::uint64_t lease = 1;
  OutMessage out(pool, {MessageKind::kRequest, 5, 1, fnv1a("tensor"), 0, std::chrono::seconds(1), {}});
  out.share(lease);
  out.values(1);
  out.value(0).tensor(Tensor::empty(DType::kFloat32, Shape{1 << 15}, shared));
  Bytes input{kIncoming | kMet};
  add_frame(input, out.finish(kMaxHead).value());
  return input;
}

Nested nested() {
  Nested made;
  made.number = -5;
  made.names = {"a", "", "something longer than the others"};
  made.tensor = Tensor::zeros(DType::kFloat32, Shape({2, 3}));
  made.rows = {{"x", {1.0F, 2.0F}}, {"y", {}}};
  return made;
}

void add_meetings(std::vector<Seed>& seeds) {
  for (const bool incoming : {false, true}) {
    const std::string side = incoming ? "incoming" : "dialled";
    const std::uint8_t setting = incoming ? kIncoming : 0;
    Bytes open{setting};
    add_control(open, hello(incoming));
    add_control(open, ready());
    add_control(open, control([](wire::Control::Builder out) { out.setHeartbeat(7); }));
    add_control(open, control([](wire::Control::Builder out) { out.setGoodbye("so long"); }));
    seeds.push_back({"meeting_" + side, open});
    Bytes secret{static_cast<std::uint8_t>(setting | kSecret)};
    add_control(secret, greeting(!incoming));
    add_control(secret, control([](wire::Control::Builder out) { out.initProof(32); }));
    seeds.push_back({"proof_" + side, secret});
  }
  Bytes refused{0};
  add_control(refused, control([](wire::Control::Builder out) {
                auto error = out.initRefusal();
                error.setCode(9);
                error.setMessage("no");
                error.setNode("there");
              }));
  seeds.push_back({"refusal", refused});
}

}  // namespace

std::vector<std::vector<std::byte>> opening() {
  std::vector<std::vector<std::byte>> said;
  for (const Bytes& message : {hello(true), ready()}) {
    const auto bytes = std::as_bytes(std::span(message));
    said.emplace_back(bytes.begin(), bytes.end());
  }
  return said;
}

std::vector<Seed> wire_seeds() {
  std::vector<Seed> seeds;
  add_meetings(seeds);
  const Tensor tensor = Tensor::zeros(DType::kFloat32, Shape({3, 2}));
  const Tensor empty = Tensor::zeros(DType::kInt64, Shape({0, 2}));
  seeds.push_back({"request_numbers", request("add", std::int64_t{1}, std::int64_t{-2})});
  seeds.push_back({"request_text", request("text", std::string("hello"))});
  seeds.push_back({"request_tensor", request("tensor", tensor)});
  seeds.push_back({"request_tensors", request("tensors", std::vector<Tensor>{tensor, empty, tensor})});
  seeds.push_back({"request_rows", request("rows", nested().rows)});
  seeds.push_back({"request_nested", request("nested", std::vector<Nested>{nested(), nested()})});
  seeds.push_back({"request_apart", request("text", std::string(5000, 'x'))});
  seeds.push_back({"request_many_tensors", request("tensors", std::vector<Tensor>(300, tensor))});
  seeds.push_back({"request_unknown", request("no such method", true, 1.5)});
  seeds.push_back({"reply_value", reply(std::pair(std::string("x"), std::int64_t{1}))});
  seeds.push_back({"reply_void", reply()});
  seeds.push_back({"reply_scalars", reply(true, std::int8_t{-1}, std::uint64_t{1} << 63, 0.5F, 1e300)});
  seeds.push_back({"reply_containers", reply(std::vector<float>(20), std::vector<std::string>{"a", "b"},
                                             std::optional<double>(2.0), std::vector<std::byte>(9))});
  seeds.push_back({"reply_error", error_reply()});
  seeds.push_back({"stream_items", stream_items()});
  seeds.push_back({"request_stream", stream_request()});
  seeds.push_back({"request_token",
                   message({MessageKind::kRequest, 5, 1, fnv1a("text"), 0, std::chrono::seconds(1), {}, 77},
                           std::string("once"))});
  seeds.push_back({"shared_tensor", shared_request()});
  seeds.push_back({"release", message({MessageKind::kRelease, 0, 0, 0, 0, Duration{0}},
                                      std::vector<std::uint64_t>{1, 2, UINT64_MAX})});
  seeds.push_back({"release_malformed",
                   message({MessageKind::kRelease, 0, 0, 0, 0, Duration{0}}, std::string("no leases"))});
  seeds.push_back({"ask_done", message({MessageKind::kAskDone, 0, 1, 0, 0, Duration{0}})});
  seeds.push_back({"done", message({MessageKind::kDone, 0, 0, 0, 0, Duration{0}})});
  seeds.push_back({"done_too_much", message({MessageKind::kDone, 0, UINT64_MAX, 0, 0, Duration{0}})});
  seeds.push_back({"cancel", message({MessageKind::kCancel, 5, 1, 0, 0, Duration{0}, {}})});
  seeds.push_back(
      {"one_way",
       message({MessageKind::kOneWay, 0, 1, fnv1a("text"), 0, std::chrono::seconds(1), {1, 2, 3, 1}},
               std::string("traced"))});
  return seeds;
}

}  // namespace troupe::rpc::fuzz
