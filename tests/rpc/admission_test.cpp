// Who does not know the shared secret learns nothing, holds up nobody, and never reaches the data way.
#include <malloc.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include <capnp/message.h>
#include <capnp/serialize.h>

#include "control/address.hpp"
#include "control/proof.hpp"
#include "endpoint_support.hpp"
#include "schema/wire.capnp.h"

namespace troupe::rpc::testing {

namespace {

const std::string kSecret = "a secret that only tests know";

EndpointOptions knowing(std::uint64_t id, const std::string& name, const std::string& secret = kSecret) {
  auto options = options_of(id, name);
  options.secret = secret;
  return options;
}

using Bytes = std::vector<std::byte>;

template <class F>
Bytes control_message(F&& write) {
  capnp::MallocMessageBuilder builder;
  write(builder.initRoot<wire::Control>());
  const auto words = capnp::messageToFlatArray(builder);
  const auto bytes = words.asBytes();
  const auto* begin = reinterpret_cast<const std::byte*>(bytes.begin());
  return {begin, begin + bytes.size()};
}

void write_greeting(wire::Greeting::Builder greeting, std::uint64_t node_id, const Nonce& nonce) {
  greeting.setScheme(kHmacSha256);
  greeting.setNodeId(node_id);
  greeting.setNonce(capnp::Data::Reader(reinterpret_cast<const capnp::byte*>(nonce.data()), nonce.size()));
}

Bytes proof_message(const Proof& proof) {
  return control_message([&](wire::Control::Builder control) {
    control.setProof(capnp::Data::Reader(reinterpret_cast<const capnp::byte*>(proof.data()), proof.size()));
  });
}

wire::Control::Which kind_of(const Bytes& message) {
  auto words = kj::heapArray<capnp::word>(message.size() / sizeof(capnp::word));
  std::memcpy(words.begin(), message.data(), message.size());
  capnp::FlatArrayMessageReader reader(words);
  return reader.getRoot<wire::Control>().which();
}

bool mentions(const Bytes& message, std::string_view text) {
  const std::string_view all(reinterpret_cast<const char*>(message.data()), message.size());
  return all.find(text) != std::string_view::npos;
}

/// Between two endpoints that believe to talk to each other: hands greetings and proofs on, and keeps all
/// control messages.
class Between final : public TransportEvents {
 public:
  Between(std::unique_ptr<Transport> transport, std::string onward)
      : transport_(std::move(transport)), onward_(std::move(onward)) {
    transport_->set_events(*this);
  }
  std::string listen(const char* at) { return transport_->listen(at).value(); }

  std::vector<Bytes> from_dialler, from_listener;

 private:
  void on_link(LinkId link, std::string_view, bool incoming) override {
    if (incoming) {
      dialler_ = link;
      static_cast<void>(transport_->dial(onward_).value());
      return;
    }
    listener_ = link;
    for (const Bytes& message : from_dialler) transport_->send_control(listener_, message);
  }
  void on_control(LinkId link, std::span<const std::byte> message) override {
    auto& seen = link == dialler_ ? from_dialler : from_listener;
    seen.emplace_back(message.begin(), message.end());
    if (seen.size() > 2) return;
    if (listener_ != 0) transport_->send_control(link == dialler_ ? listener_ : dialler_, message);
  }
  Result<void> on_parts(LinkId, std::span<const std::byte>, std::size_t, std::vector<Buffer>&) override {
    return {};
  }
  void on_frame(LinkId, Buffer&&, std::vector<Buffer>&&) override {}
  void on_closed(LinkId, Error) override {}

  std::unique_ptr<Transport> transport_;
  std::string onward_;
  LinkId dialler_ = 0, listener_ = 0;
};

/// A stranger that has dialled `duo`'s listener.
template <class Kind>
std::unique_ptr<Stranger> visit(Duo<Kind>& duo) {
  auto stranger = std::make_unique<Stranger>(duo.world.make(duo.world.a, "stranger"));
  static_cast<void>(stranger->transport->dial(duo.address).value());
  REQUIRE(duo.until([&] { return stranger->links.size() == 1; }));
  return stranger;
}

}  // namespace

TEST_CASE_TEMPLATE("admission: with one secret on both sides everything works", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo(knowing(1, "alice"), knowing(2, "bob"));
  Answer& early = duo.answer();
  duo.ab = duo.a.endpoint->connect(duo.address).value();
  start_call(*duo.a.endpoint, {duo.ab, 1}, "add", 10s, early, 2, 3);  // waits for the proofs, too
  REQUIRE(duo.until([&] { return early.count == 1 && duo.b.sessions.size() == 1; }));
  CHECK(early.code() == Code::kOk);
  CHECK(duo.template call<std::string>("echo", std::string(20'000, 'x')).value().size() == 20'000);
  Answer& back = duo.answer();
  start_call(*duo.b.endpoint, {duo.b.sessions[0].first, 1}, "add", 10s, back, 2, 3);
  REQUIRE(duo.until([&] { return back.count == 1; }));
  CHECK(back.code() == Code::kOk);
}

TEST_CASE_TEMPLATE("admission: another secret, or none on one side, is refused on both", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  const std::array<std::pair<std::string, std::string>, 4> secrets{
      {{kSecret, "another secret of the tests"}, {kSecret, kSecret + "!"}, {kSecret, ""}, {"", kSecret}}};
  for (const auto& pair : secrets) {
    const std::string& ours = pair.first;
    const std::string& theirs = pair.second;
    CAPTURE(ours);
    CAPTURE(theirs);
    Duo<Kind> duo(knowing(1, "alice", ours), knowing(2, "bob", theirs));
    const SessionId session = duo.a.endpoint->connect(duo.address).value();
    Answer& answer = duo.answer();
    start_call(*duo.a.endpoint, {session, 1}, "add", 10s, answer, 1, 2);
    REQUIRE(duo.until([&] { return !duo.a.closed.empty() && !duo.b.closed.empty(); }));
    CHECK(answer.count == 1);
    CHECK(answer.code() == Code::kUnauthenticated);
    CHECK(answer.error->message.find("secret") != std::string::npos);
    CHECK(duo.a.closed[0].second.code == Code::kUnauthenticated);
    CHECK(duo.b.closed[0].second.code == Code::kUnauthenticated);
    CHECK(duo.a.sessions.empty());
    CHECK(duo.b.sessions.empty());
    CHECK(duo.b.service.begun == 0);
  }
}

TEST_CASE_TEMPLATE("admission: one that says hello, or anything but a greeting, gets a refusal and no name",
                   Kind, TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo(knowing(1, "alice"), knowing(2, "bob"));
  const std::vector<Bytes> openings{
      control_message([](wire::Control::Builder control) {
        auto hello = control.initHello();
        hello.setProtocolVersion(wire::PROTOCOL_VERSION);
        hello.setNodeId(77);
        hello.setNodeName("mallory");
      }),
      control_message([](wire::Control::Builder control) { control.setReady(); }),
      control_message([](wire::Control::Builder control) { control.setHeartbeat(1); }),
      control_message([](wire::Control::Builder control) { control.setGoodbye("so long"); }),
      proof_message(Proof{}),
      control_message([](wire::Control::Builder control) { control.initChallenge().setNodeId(5); }),
      control_message([](wire::Control::Builder control) { control.initGreeting().setScheme(9); }),
      control_message([](wire::Control::Builder control) { control.initGreeting().setScheme(kHmacSha256); }),
  };
  for (std::size_t i = 0; i < openings.size(); ++i) {
    CAPTURE(i);
    auto stranger = visit(duo);
    stranger->transport->send_control(stranger->links[0], openings[i]);
    REQUIRE(duo.until([&] { return stranger->closed.size() == 1; }));
    REQUIRE(stranger->control.size() == 1);
    CHECK(kind_of(stranger->control[0]) == wire::Control::REFUSAL);
    CHECK_FALSE(mentions(stranger->control[0], "bob"));
  }
  CHECK(duo.b.sessions.empty());
}

TEST_CASE_TEMPLATE("admission: a right proof that is sent again, or back to its maker, opens nothing", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo(knowing(1, "alice"), knowing(2, "bob"));
  Between between(duo.world.make(duo.world.a, "between"), duo.address);
  const std::string there =
      between.listen(Kind::kAnyPort == std::string("b:0") ? "between:0" : Kind::kAnyPort);
  static_cast<void>(duo.a.endpoint->connect(there).value());
  REQUIRE(duo.until([&] { return between.from_dialler.size() >= 2 && between.from_listener.size() >= 2; }));
  REQUIRE(kind_of(between.from_dialler[0]) == wire::Control::GREETING);
  REQUIRE(kind_of(between.from_dialler[1]) == wire::Control::PROOF);
  CHECK(kind_of(between.from_listener[1]) == wire::Control::PROOF);  // it was right

  auto again = visit(duo);
  again->transport->send_control(again->links[0], between.from_dialler[0]);
  again->transport->send_control(again->links[0], between.from_dialler[1]);
  REQUIRE(duo.until([&] { return again->closed.size() == 1; }));
  REQUIRE(again->control.size() == 2);
  CHECK(kind_of(again->control[0]) == wire::Control::CHALLENGE);
  CHECK(kind_of(again->control[1]) == wire::Control::REFUSAL);

  // A listener that gives the dialling side its own proof back.
  Stranger mirror(duo.world.make(duo.world.b, "mirror"));
  const std::string mirrored =
      mirror.transport->listen(Kind::kAnyPort == std::string("b:0") ? "mirror:0" : Kind::kAnyPort).value();
  static_cast<void>(duo.a.endpoint->connect(mirrored).value());
  REQUIRE(duo.until([&] { return mirror.control.size() == 1; }));
  mirror.transport->send_control(mirror.links[0], control_message([](wire::Control::Builder control) {
                                   write_greeting(control.initChallenge(), 1, Nonce{});
                                 }));
  REQUIRE(duo.until([&] { return mirror.control.size() == 2; }));
  mirror.transport->send_control(mirror.links[0], mirror.control[1]);
  REQUIRE(duo.until([&] { return !duo.a.closed.empty(); }));
  CHECK(duo.a.closed[0].second.code == Code::kUnauthenticated);
  CHECK(duo.a.sessions.empty());
  // It was told neither name nor address.
  for (const Bytes& message : mirror.control) CHECK_FALSE(mentions(message, "alice"));
}

TEST_CASE_TEMPLATE("admission: a hello under another id than the proof's is refused", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  Duo<Kind> duo(knowing(1, "alice"), knowing(2, "bob"));
  auto insider = visit(duo);
  const LinkId link = insider->links[0];
  insider->transport->send_control(link, control_message([](wire::Control::Builder control) {
                                     write_greeting(control.initGreeting(), 5, Nonce{});
                                   }));
  REQUIRE(duo.until([&] { return insider->control.size() == 1; }));
  MeetingTerms terms{5, 2, {}, {}};
  const Bytes& challenge = insider->control[0];
  // The number stands at the message's end.
  std::memcpy(terms.listening_nonce.data(), challenge.data() + challenge.size() - kNonceBytes, kNonceBytes);
  insider->transport->send_control(link,
                                   proof_message(prove(kSecret, MeetingRole::kDialling, terms).value()));
  REQUIRE(duo.until([&] { return insider->control.size() == 2; }));
  REQUIRE(kind_of(insider->control[1]) == wire::Control::PROOF);
  insider->transport->send_control(link, control_message([](wire::Control::Builder control) {
                                     auto hello = control.initHello();
                                     hello.setProtocolVersion(wire::PROTOCOL_VERSION);
                                     hello.setNodeId(6);
                                   }));
  REQUIRE(duo.until([&] { return duo.b.closed.size() == 1; }));
  CHECK(duo.b.closed[0].second.code == Code::kUnauthenticated);
}

TEST_CASE_TEMPLATE("admission: before the proof messages are short, and time is", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  auto hasty = knowing(2, "bob");
  hasty.handshake_timeout = 200ms;
  Duo<Kind> duo(knowing(1, "alice"), hasty);
  auto wordy = visit(duo);
  wordy->transport->send_control(wordy->links[0], Bytes(1032));
  REQUIRE(duo.until([&] { return duo.b.closed.size() == 1; }));
  CHECK(duo.b.closed[0].second.code == Code::kDataLoss);

  auto silent = visit(duo);
  const TimePoint begun = duo.world.b.clock().now();
  REQUIRE(duo.until([&] { return silent->closed.size() == 1; }));
  CHECK(silent->control.empty());
  CHECK(duo.world.b.clock().now() - begun < Duration(3s));
}

TEST_CASE_TEMPLATE("admission: texts of control messages are bounded on both sides", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  const std::string endless(70'000, 'n');
  Duo<Kind> duo(options_of(1, endless), options_of(2, "bob"));
  duo.connect();
  CHECK(duo.template call<std::int64_t>("add", 1, 1).value() == 2);
  CHECK(duo.b.endpoint->peer(duo.b.sessions[0].first)->node_name == std::string(255, 'n'));
  duo.a.endpoint->close(duo.ab, {Code::kUnavailable, endless});
  REQUIRE(duo.until([&] { return duo.b.closed.size() == 1; }));
  CHECK(duo.b.closed[0].second.code == Code::kUnavailable);
  CHECK(duo.b.closed[0].second.message.find("nnn") != std::string::npos);

  auto wordy = visit(duo);
  wordy->transport->send_control(wordy->links[0], control_message([](wire::Control::Builder control) {
                                   auto hello = control.initHello();
                                   hello.setProtocolVersion(wire::PROTOCOL_VERSION);
                                   hello.setNodeId(77);
                                   hello.setNodeName(std::string(256, 'm'));
                                 }));
  REQUIRE(duo.until([&] { return wordy->closed.size() == 1; }));
  REQUIRE(wordy->control.size() == 1);
  CHECK(kind_of(wordy->control[0]) == wire::Control::REFUSAL);
  CHECK(mentions(wordy->control[0], "at most 255 bytes"));
}

TEST_CASE("admission: what comes on the data way before the meeting ends the link") {
  Duo<contract::Sim> duo(knowing(1, "alice"), knowing(2, "bob"));
  auto stranger = visit(duo);
  // The simulated network has no secrets of its own: a stranger finds bob's data address by trying all.
  bool open = false;
  for (std::uint64_t node = 1; node < 8 && !open; ++node)
    for (std::uint64_t serial = 1; serial < 4 && !open; ++serial)
      for (std::uint64_t slot = 0; slot < 4 && !open; ++slot) {
        const std::array<std::uint64_t, 3> address{0x316d6953, node, serial << 20 | slot};
        open = stranger->transport->open_data(stranger->links[0], std::as_bytes(std::span(address))).ok();
      }
  REQUIRE(open);
  SUBCASE("a head") {
    REQUIRE(stranger->transport->send(stranger->links[0], contract::make_frame(1)).ok());
  }
  SUBCASE("parts") {
    REQUIRE(stranger->transport->send(stranger->links[0], contract::make_frame(1, {1'000'000})).ok());
  }
  REQUIRE(duo.until([&] { return duo.b.closed.size() == 1; }));
  CHECK(duo.b.closed[0].second.code == Code::kUnauthenticated);
  CHECK(duo.b.service.begun == 0);
}

TEST_CASE("admission: other machines are reached with a secret only, and not with a short one") {
  Duo<contract::UcxTcp> open(options_of(1, "alice"), options_of(2, "bob"));
  for (const char* address : {"0.0.0.0:0", "[::]:0", "192.0.2.1:4000"}) {
    CAPTURE(address);
    const auto listening = open.a.endpoint->listen(address);
    REQUIRE_FALSE(listening.ok());
    CHECK(listening.error().code == Code::kFailedPrecondition);
    CHECK(listening.error().message.find("TROUPE_NODE_SECRET") != std::string::npos);
    const auto dialled = open.a.endpoint->connect(address);
    REQUIRE_FALSE(dialled.ok());
    CHECK(dialled.error().code == Code::kFailedPrecondition);
  }
  Duo<contract::UcxTcp> closed(knowing(1, "alice"), knowing(2, "bob"));
  CHECK(closed.a.endpoint->listen("0.0.0.0:0").ok());
  Side hasty;
  Endpoint guessable(closed.world.a, closed.world.make(closed.world.a, "c"), knowing(3, "carol", "short"),
                     hasty);
  CHECK(guessable.listen("127.0.0.1:0").error().code == Code::kInvalidArgument);
  guessable.shut_down();
}

// ---- Raw sockets ----------------------------------------------------------------------------------

namespace {

/// A connection to `address` that nobody has taught anything.
class RawSocket {
 public:
  explicit RawSocket(const std::string& address) {
    const auto parsed = SocketAddress::parse(address).value();
    fd_ = ::socket(parsed.family(), SOCK_STREAM | SOCK_CLOEXEC, 0);
    connected_ = fd_ >= 0 && ::connect(fd_, parsed.get(), parsed.size()) == 0;
  }
  ~RawSocket() {
    if (fd_ >= 0) ::close(fd_);
  }
  RawSocket(RawSocket&& other) noexcept : fd_(std::exchange(other.fd_, -1)), connected_(other.connected_) {}
  RawSocket& operator=(RawSocket&&) = delete;

  bool connected() const { return connected_; }
  void send(std::span<const std::byte> bytes) {
    static_cast<void>(::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT));
  }
  /// Everything that has come back until the end; whether that has come.
  bool ended() {
    std::array<std::byte, 4096> bytes;
    for (;;) {
      const ssize_t n = ::recv(fd_, bytes.data(), bytes.size(), MSG_DONTWAIT);
      if (n > 0) got_.insert(got_.end(), bytes.begin(), bytes.begin() + n);
      if (n <= 0) return n == 0 || (errno != EAGAIN && errno != EINTR);
    }
  }
  const Bytes& got() const { return got_; }

 private:
  int fd_ = -1;
  bool connected_ = false;
  Bytes got_;
};

Bytes framed(std::uint32_t length, const Bytes& content) {
  Bytes frame(sizeof length + content.size());
  std::memcpy(frame.data(), &length, sizeof length);
  std::ranges::copy(content, frame.begin() + sizeof length);
  return frame;
}

Bytes greeting_frame() {
  const Bytes greeting = control_message(
      [](wire::Control::Builder control) { write_greeting(control.initGreeting(), 9, Nonce{}); });
  return framed(static_cast<std::uint32_t>(greeting.size()), greeting);
}

}  // namespace

TEST_CASE("admission: raw sockets that talk garbage get nothing back, and are gone in time") {
  auto hasty = knowing(2, "bob");
  hasty.handshake_timeout = 300ms;
  Duo<contract::Shm> duo(knowing(1, "alice"), hasty);
  Bytes half = greeting_frame();
  half.resize(half.size() / 2);
  const std::string_view http = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
  const auto http_bytes = std::as_bytes(std::span(http));
  const std::vector<Bytes> talks{Bytes(http_bytes.begin(), http_bytes.end()),
                                 half,
                                 framed(0xffffffff, {}),
                                 framed(1025, Bytes(1025)),
                                 framed(1024, Bytes(100)),
                                 framed(64, Bytes(64, std::byte{0xff})),
                                 Bytes(1 << 20, std::byte{0x16}),
                                 {}};
  std::vector<RawSocket> sockets;
  for (const Bytes& talk : talks) {
    sockets.emplace_back(duo.address);
    REQUIRE(sockets.back().connected());
    sockets.back().send(talk);
  }
  for (std::size_t i = 0; i < sockets.size(); ++i) {
    CAPTURE(i);
    REQUIRE(duo.until([&] { return sockets[i].ended(); }, 5s));
    CHECK(sockets[i].got().empty());
  }
  CHECK(duo.b.closed.size() == talks.size() - 1);  // of who says nothing nobody hears
  duo.connect();
  CHECK(duo.call<std::int64_t>("add", 1, 1).value() == 2);
}

TEST_CASE("admission: thousands of strangers hold little memory and keep nobody out") {
  constexpr std::size_t kThousands = 3000;
  rlimit limit{};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &limit) == 0);
  const rlimit before = limit;
  limit.rlim_cur = limit.rlim_max;
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &limit) == 0);
  const std::size_t count = std::min<std::size_t>(kThousands, limit.rlim_max / 2);
  {
    Duo<contract::Shm> duo(knowing(1, "alice"), knowing(2, "bob"));
    duo.settle();
    std::vector<RawSocket> sockets;
    sockets.reserve(count);
    const auto heap_before = mallinfo2().uordblks;
    const Bytes greeting = greeting_frame();
    for (std::size_t i = 0; i < count; ++i) {
      sockets.emplace_back(duo.address);
      if (!sockets.back().connected()) break;
      sockets.back().send(greeting);                   // gets a challenge
      sockets.back().send(framed(1024, Bytes(1000)));  // and ends in the middle of a message
    }
    duo.settle(50ms);
    const auto held = mallinfo2().uordblks - heap_before;
    MESSAGE(sockets.size() << " strangers, " << held << " bytes held");
#ifndef TROUPE_SANITIZER
    CHECK(held < 256 * 5120);  // 256 is the bound on strangers
#endif
    // One who knows the secret gets in all the same.
    const TimePoint begun = duo.world.a.clock().now();
    duo.connect();
    MESSAGE("met after " << (duo.world.a.clock().now() - begun).count() / 1'000'000 << " ms");
    CHECK(duo.call<std::int64_t>("add", 1, 1).value() == 2);
  }
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &before) == 0);
}

TEST_CASE("admission: the proof is HMAC-SHA-256 of what the protocol says") {
  // Made with Python's hmac and hashlib, from wire.capnp's description.
  MeetingTerms terms{0x0102030405060708, 0x1112131415161718, {}, {}};
  terms.dialling_nonce.fill(std::byte{0xaa});
  terms.listening_nonce.fill(std::byte{0xbb});
  const auto hex = [](const Proof& proof) {
    std::string text;
    for (const std::byte byte : proof) {
      constexpr std::string_view kDigits = "0123456789abcdef";
      text += kDigits[static_cast<std::size_t>(byte) >> 4];
      text += kDigits[static_cast<std::size_t>(byte) & 15];
    }
    return text;
  };
  CHECK(hex(prove(kSecret, MeetingRole::kDialling, terms).value()) ==
        "b114efc44b42c9569710b48bb8bd83dd021e09d98b9c73bf54bc7bcc5266aa63");
  CHECK(hex(prove(kSecret, MeetingRole::kListening, terms).value()) ==
        "269c49baf0c3178be40a3de46d1ed6508bf2c2674c06f5bd7eab5563ef4860ba");
}

}  // namespace troupe::rpc::testing
