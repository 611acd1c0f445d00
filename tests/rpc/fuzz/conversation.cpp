#include "fuzz/conversation.hpp"

#include <sched.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <optional>
#include <sstream>

#include <troupe/rpc/client.hpp>
#include <troupe/rpc/endpoint.hpp>
#include <troupe/rpc/methods.hpp>
#include <troupe/rpc/stream.hpp>
#include <troupe/runtime/clock.hpp>

#include "fuzz/tamper.hpp"

namespace troupe::rpc::conversation {

namespace {

constexpr Duration kStep = std::chrono::microseconds(250);  // of time, in a round in which nothing happened
constexpr int kMostRounds = 60'000;
constexpr Duration kTimeout = std::chrono::milliseconds(400);
constexpr Duration kSilence = std::chrono::seconds(2);
constexpr std::int64_t kSmall = 300, kLong = 40'000, kBulk = 400'000;  // floats of a tensor

struct Service {
  static void methods(Methods<Service>& methods) {
    methods.add("add", [](Service&, std::int64_t a, std::int64_t b) { return a + b; })
        .add("text", [](Service&, std::string_view text) { return std::string(text); })
        .add("tensor", [](Service&, Tensor tensor) { return tensor; })
        .add("watch", [](Service&, StreamWriter<std::int64_t> out, std::int64_t count) {
          for (std::int64_t i = 0; i < count; ++i)
            if (!out.write(i)) return;
          out.end();
        });
  }
};

/// An endpoint with a loop of its own, in the time of both.
class Side final : public EndpointEvents {
 public:
  Side(SimClock& clock, std::uint64_t id, const std::string& transports) : loop(clock) {
    Methods<Service> methods;
    Service::methods(methods);
    table_ = methods.table();
    const Loop::Turn turn(loop);
    TransportOptions how;
    how.transports = transports;
    auto transport = make_process_transport(loop, how);
    if (!transport) fail(transport.error());
    EndpointOptions options;
    options.node_id = id;
    options.node_name = "side " + std::to_string(id);
    options.secret = "a secret that only tests know";
    options.default_timeout = kTimeout;
    options.silence_limit = kSilence;
    options.heartbeat_interval = kSilence / 4;
    options.limits.max_message_bytes = std::size_t{16} << 20;
    endpoint = std::make_unique<Endpoint>(loop, std::move(*transport), options, *this);
  }
  ~Side() override {
    const Loop::Turn turn(loop);
    endpoint.reset();
  }
  Side(const Side&) = delete;
  Side& operator=(const Side&) = delete;

  void on_call(InboundCallPtr call) override { table_->invoke(&service_, std::move(call)); }
  void on_session(SessionId session, const Peer&) override { peer = session; }
  void on_session_closed(SessionId, const Peer&, const Error&) override { closed = true; }
  int poll() {
    const Loop::Turn turn(loop);
    return loop.poll();
  }
  [[noreturn]] static void fail(const Error& error) {
    std::fprintf(stderr, "a conversation cannot begin: %s\n", error.to_string().c_str());
    std::abort();
  }

  Loop loop;
  std::unique_ptr<Endpoint> endpoint;
  std::optional<SessionId> peer;
  bool closed = false;

 private:
  Service service_;
  std::shared_ptr<const MethodTable> table_;
};

/// The calls of one conversation, and how they end.
class Calls {
 public:
  explicit Calls(Reached& reached) : reached_(reached) {}

  template <class R, class... Args>
  void make(Side& from, std::string_view method, const CallOptions& options, const Args&... args) {
    const Loop::Turn turn(from.loop);
    ++made_;
    call_async<R>(*from.endpoint, {*from.peer, 1}, method, std::string(method), options, args...)
        .then([this](const Result<R>& answer) {
          ++ended_;
          ++(answer ? reached_.answered : reached_.failed);
        });
  }
  void read(Side& from) {
    const Loop::Turn turn(from.loop);
    ++made_;
    reader_.emplace(open_stream<std::int64_t>(*from.endpoint, {*from.peer, 1}, "watch", "watch", {.items = 4},
                                              std::int64_t{kItems}));
    next();
  }
  bool all_ended() const { return ended_ == made_; }
  int made() const { return made_; }
  int ended() const { return ended_; }
  void drop_reader() { reader_.reset(); }

 private:
  void next() {
    reader_->next_async(kTimeout).then([this](const Result<std::optional<std::int64_t>>& item) {
      if (item && *item) {
        ++reached_.items;
        return next();
      }
      ++ended_;
      ++(item ? reached_.answered : reached_.failed);
    });
  }
  Reached& reached_;
  std::optional<StreamReader<std::int64_t>> reader_;
  int made_ = 0, ended_ = 0;
};

/// Changes the shared memory that the two have mapped to be written. `gap` is a place, in units of 8 bytes: a
/// quarter of all are in the first 384 bytes, where counters lie, half in the first 16 KiB, among the first
/// messages, and the others all over it.
class Memory {
 public:
  int apply(const Edit& edit) {
    const auto all = regions();
    if (all.empty()) return 0;
    const Region& region = all[(edit.value / 8 + edit.gap) % all.size()];
    const std::size_t words = region.size / 8;
    const std::size_t stride = std::max<std::size_t>(1, words / 4096);
    const std::size_t number_of = edit.gap / 4;
    const std::size_t word = edit.gap % 4 == 0   ? number_of % 48
                             : edit.gap % 4 == 3 ? number_of * stride % words
                                                 : number_of % std::min<std::size_t>(words, 2048);
    std::uint8_t* at = region.begin + 8 * word;
    std::uint64_t number = 0;
    std::memcpy(&number, at, 8);
    switch (edit.what) {
      case Edit::What::kFlip:
        number ^= std::uint64_t{1} << edit.value % 64;
        break;
      case Edit::What::kSet:
        number = (number & ~std::uint64_t{0xff}) | edit.value;
        break;
      case Edit::What::kDrop:
        number = 0;
        break;
      case Edit::What::kShort:
        number = edit.value;
        break;
      case Edit::What::kEnd:
        number += edit.value;
        break;
      case Edit::What::kLong:
        number = ~std::uint64_t{edit.value};
        break;
    }
    std::memcpy(at, &number, 8);
    return 1;
  }

 private:
  struct Region {
    std::uint8_t* begin = nullptr;
    std::size_t size = 0;
  };
  static std::vector<Region> regions() {
    std::vector<Region> found;
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) {
      if (line.find("/memfd:troupe") == std::string::npos || line.find(" rw") == std::string::npos) continue;
      unsigned long begin = 0, end = 0;
      if (std::sscanf(line.c_str(), "%lx-%lx", &begin, &end) == 2)
        found.push_back({reinterpret_cast<std::uint8_t*>(begin), end - begin});
    }
    return found;
  }
};

class Conversation {
 public:
  Conversation(Kind kind, std::span<const std::uint8_t> input)
      : kind_(kind),
        edits_(read_edits(input)),
        tamper_(edits_, kind != Kind::kRing),
        one_(clock_, 1, kind == Kind::kTcp ? "tcp" : "auto"),
        other_(clock_, 2, kind == Kind::kTcp ? "tcp" : "auto"),
        calls_(reached_) {}

  Reached run() {
    if (kind_ == Kind::kMeeting) tamper_.begin();
    meet();
    if (reached_.met) talk();
    finish();
    reached_.changed += tamper_.changed();
    reached_.bytes = tamper_.bytes();
    return reached_;
  }

 private:
  template <class Done>
  void drive(Done done) {
    for (int round = 0; round < kMostRounds && !done(); ++round) {
      if (one_.poll() + other_.poll() > 0) continue;
      sched_yield();
      clock_.advance_to(clock_.now() + kStep);
    }
  }
  void meet() {
    {
      const Loop::Turn turn(other_.loop);
      auto address = other_.endpoint->listen("127.0.0.1:0");
      if (!address) Side::fail(address.error());
      address_ = *address;
    }
    const Loop::Turn turn(one_.loop);
    auto dialled = one_.endpoint->connect(address_);
    if (!dialled) Side::fail(dialled.error());
    session_ = *dialled;
    drive([&] {
      const bool ready =
          one_.endpoint->ready(session_) && other_.peer && other_.endpoint->ready(*other_.peer);
      return ready || one_.closed || other_.closed;
    });
    reached_.met = one_.peer && other_.peer;
  }
  static Tensor tensor(std::int64_t size) { return Tensor::zeros(DType::kFloat32, Shape({size})); }
  void talk() {
    tamper_.begin();
    next_edit();
    calls_.make<std::int64_t>(one_, "add", {}, std::int64_t{1}, std::int64_t{2});
    calls_.make<std::string>(other_, "text", {}, std::string(200, 'x'));
    calls_.make<Tensor>(one_, "tensor", {}, tensor(kSmall));
    calls_.read(one_);
    drive([&] { return next_edit(), calls_.all_ended(); });
    calls_.make<Tensor>(one_, "tensor", {}, tensor(kLong));
    calls_.make<Tensor>(other_, "tensor", {}, tensor(kBulk));
    Tensor shared = Tensor::empty(DType::kFloat32, Shape({kLong}), one_.endpoint->shared_pool());
    calls_.make<Tensor>(one_, "tensor", {}, shared);
    calls_.make<std::int64_t>(one_, "add", {.token = 77}, std::int64_t{1}, std::int64_t{2});
    calls_.make<std::int64_t>(one_, "no such method", {});
    drive([&] { return next_edit(), calls_.all_ended(); });
  }
  /// One in a round, or some rounds later, so that both sides go on with what they have read before.
  void next_edit() {
    if (kind_ != Kind::kRing || edited_ >= edits_.size() || ++waited_ <= edits_[edited_].gap % 16) return;
    waited_ = 0;
    reached_.changed += memory_.apply(edits_[edited_++]);
  }
  void finish() {
    for (Side* side : {&one_, &other_}) {
      const Loop::Turn turn(side->loop);
      side->endpoint->shut_down();
    }
    drive([&, rounds = 0]() mutable { return ++rounds > 8; });
    calls_.drop_reader();
    if (calls_.all_ended()) return;
    std::fprintf(stderr, "of %d calls %d ended\n", calls_.made(), calls_.ended());
    std::abort();
  }

  const Kind kind_;
  const std::vector<Edit> edits_;
  std::size_t edited_ = 0;
  int waited_ = 0;
  SimClock clock_;
  Reached reached_;
  Tamper tamper_;
  Side one_, other_;
  Memory memory_;
  Calls calls_;
  std::string address_;
  SessionId session_ = kLocal;
};

}  // namespace

const char* name_of(Kind kind) {
  switch (kind) {
    case Kind::kMeeting:
      return "meeting";
    case Kind::kTcp:
      return "tcp";
    case Kind::kRing:
      return "ring";
  }
  return "?";
}

std::vector<Edit> read_edits(std::span<const std::uint8_t> input) {
  std::vector<Edit> edits;
  for (; input.size() >= 4; input = input.subspan(4))
    edits.push_back({static_cast<std::uint16_t>(input[0] | input[1] << 8),
                     static_cast<Edit::What>(input[2] % 6), input[3]});
  return edits;
}

std::vector<std::uint8_t> write_edits(std::span<const Edit> edits) {
  std::vector<std::uint8_t> bytes;
  for (const Edit& edit : edits)
    for (const int byte : {edit.gap & 0xff, edit.gap >> 8, static_cast<int>(edit.what), int{edit.value}})
      bytes.push_back(static_cast<std::uint8_t>(byte));
  return bytes;
}

Reached converse(Kind kind, std::span<const std::uint8_t> input) {
  return Conversation(kind, input).run();
}

std::vector<Seed> seeds(Kind kind) {
  using What = Edit::What;
  std::vector<Seed> all{{"untouched", {}}};
  const auto add = [&](const std::string& name, std::vector<Edit> edits) {
    all.push_back({name, write_edits(edits)});
  };
  const std::pair<What, const char*> kinds[] = {{What::kFlip, "flip"}, {What::kSet, "set"},
                                                {What::kDrop, "drop"}, {What::kShort, "short"},
                                                {What::kEnd, "end"},   {What::kLong, "long"}};
  for (const auto& [what, name] : kinds)
    for (const std::uint16_t place : {0, 24, 200, 1500, 40000})
      add(std::string(name) + "_" + std::to_string(place), {{place, what, 7}});
  if (kind != Kind::kRing) add("every_receive_short", std::vector<Edit>(200, {3, What::kShort, 0}));
  add("far", {{600, What::kLong, 0}, {17, What::kFlip, 128}, {1000, What::kDrop, 9}});
  return all;
}

}  // namespace troupe::rpc::conversation
