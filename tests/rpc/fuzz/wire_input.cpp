#include "fuzz/wire_input.hpp"

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include <troupe/rpc/endpoint.hpp>
#include <troupe/rpc/methods.hpp>
#include <troupe/runtime/clock.hpp>

#include "fuzz/wire_types.hpp"

namespace troupe::rpc::fuzz {

namespace {

using Bytes = std::span<const std::uint8_t>;

/// Sends nothing anywhere.
class DeafTransport final : public Transport {
 public:
  TransportEvents* events = nullptr;
  bool closed = false;

  int poll() override { return 0; }
  void set_events(TransportEvents& receiver) override { events = &receiver; }
  Limits limits() const override { return {}; }
  void bound_strangers(const StrangerBounds&) override {}
  void admit(LinkId) override {}
  bool is_local(std::string_view) const override { return true; }
  Result<std::string> listen(std::string_view address) override { return std::string(address); }
  Result<LinkId> dial(std::string_view) override { return kLink; }
  void send_control(LinkId, std::span<const std::byte>) override {}
  std::vector<std::byte> data_address(LinkId) override { return std::vector<std::byte>(8); }
  Result<void> open_data(LinkId, std::span<const std::byte>) override { return {}; }
  Result<void> send(LinkId, OutFrame&&) override { return {}; }
  std::size_t bytes_in_flight(LinkId) const override { return 0; }
  void pause(LinkId, bool) override {}
  void close(LinkId) override { closed = true; }

  static constexpr LinkId kLink = 1;
};

/// Decodes each value of a message as everything that C++ signatures can name.
template <class... T>
int decode_as(const InMessage& message) {
  int decoded = 0;
  for (std::uint32_t i = 0; i < message.value_count(); ++i) {
    const auto attempt = [&]<class U>(U&& place) {
      decoded += static_cast<bool>(Codec<std::decay_t<U>>::decode(message.value(i), place));
    };
    (attempt(T{}), ...);
  }
  return decoded;
}

int decode(const InMessage& message) {
  if (message.is_error()) return message.error().message.empty() ? 0 : 1;
  return decode_as<bool, std::int8_t, std::int64_t, std::uint16_t, std::uint64_t, float, double, std::string,
                   std::vector<std::byte>, std::vector<float>, std::vector<std::int64_t>,
                   std::vector<std::string>, std::vector<std::vector<std::string>>, std::optional<double>,
                   std::pair<std::string, std::int64_t>, std::tuple<bool, Tensor, std::string>,
                   std::map<std::string, std::int64_t>, std::map<std::string, Tensor>, Tensor,
                   std::vector<Tensor>, Nested>(message);
}

class Target final : public EndpointEvents, public ReplySink {
 public:
  explicit Target(Reached& reached) : reached_(reached) {
    Methods<Service> methods;
    Service::methods(methods);
    table_ = methods.table();
  }

  void on_call(InboundCallPtr call) override {
    ++reached_.calls;
    reached_.values += decode(call->message());
    table_->invoke(&service_, std::move(call));
  }
  void on_session(SessionId, const Peer&) override { ++reached_.sessions; }
  void on_session_closed(SessionId, const Peer&, const Error&) override {}
  void on_reply(Result<std::unique_ptr<InMessage>> reply) override {
    if (!reply) return;
    ++reached_.replies;
    reached_.values += decode(**reply);
  }

 private:
  Reached& reached_;
  Service service_;
  std::shared_ptr<const MethodTable> table_;
};

std::optional<Bytes> take(Bytes& from, std::size_t count) {
  if (from.size() < count) return std::nullopt;
  const Bytes taken = from.first(count);
  from = from.subspan(count);
  return taken;
}

std::optional<Bytes> take_sized(Bytes& from) {
  const auto size = take(from, 2);
  if (!size) return std::nullopt;
  return take(from, std::min<std::size_t>((*size)[0] | (*size)[1] << 8, from.size()));
}

void give_frame(DeafTransport& transport, Bytes record) {
  const auto head = take_sized(record);
  if (!head || head->empty() || head->size() > transport.limits().max_head_bytes) return;
  Buffer copy = Buffer::copy_of(std::as_bytes(*head));
  std::vector<Buffer> parts;
  if (!record.empty()) {
    const auto given = transport.events->on_parts(DeafTransport::kLink, copy.bytes(), record.size(), parts);
    std::size_t sum = 0;
    for (const Buffer& part : parts) sum += part.size();
    if (!given || sum != record.size()) {
      transport.closed = true;
      return transport.events->on_closed(DeafTransport::kLink, {Code::kDataLoss, "bad parts"});
    }
    const std::uint8_t* from = record.data();
    for (const Buffer& part : parts) {
      std::memcpy(part.data(), from, part.size());
      from += part.size();
    }
  }
  transport.events->on_frame(DeafTransport::kLink, std::move(copy), std::move(parts));
}

/// The peer's side of a meeting.
void meet(TransportEvents& events) {
  static const std::vector<std::vector<std::byte>> said = opening();
  for (const auto& message : said) events.on_control(DeafTransport::kLink, message);
}

}  // namespace

Reached run_wire_input(Bytes input) {
  Reached reached;
  if (input.empty()) return reached;
  const std::uint8_t setting = input[0];
  input = input.subspan(1);

  static SimClock clock;
  static Loop loop(clock);
  const Loop::Turn turn(loop);
  Target target(reached);
  auto owned = std::make_unique<DeafTransport>();
  DeafTransport& transport = *owned;
  EndpointOptions options;
  options.node_id = 1;
  options.node_name = "target";
  if (setting & kSecret) options.secret = "a secret that only tests know";
  options.limits.max_message_bytes = std::size_t{1} << 20;
  Endpoint endpoint(loop, std::move(owned), options, target);
  if (setting & kIncoming) {
    transport.events->on_link(DeafTransport::kLink, "peer", true);
  } else {
    static_cast<void>(endpoint.connect("peer"));
    transport.events->on_link(DeafTransport::kLink, "peer", false);
  }
  if (setting & kMet) meet(*transport.events);
  // The numbers that the answers to these must carry are the same in each run.
  endpoint.call(
      {DeafTransport::kLink, 1}, {fnv1a("any"), 0}, {}, [](OutMessage& out) { out.values(0); }, target);

  auto stream = open_stream<std::int64_t>(endpoint, {DeafTransport::kLink, 1}, "any", "stream", {.items = 4});
  auto item = stream.next_async(std::chrono::seconds(1));

  while (!input.empty() && !transport.closed) {
    const auto kind = take(input, 1);
    const auto record = take_sized(input);
    if (!record) break;
    if ((*kind)[0] % 2 == static_cast<std::uint8_t>(RecordKind::kControl))
      transport.events->on_control(DeafTransport::kLink, std::as_bytes(*record));
    else
      give_frame(transport, *record);
    loop.poll();
    if (!item.ready()) continue;
    const auto next = item.get();
    reached.items += next && next->has_value();
    item = stream.next_async(std::chrono::seconds(1));
  }
  endpoint.shut_down();
  return reached;
}

}  // namespace troupe::rpc::fuzz
