// Whose silence is noticed, when, and what that costs.
#include <netinet/in.h>
#include <sys/socket.h>

#include "control/socket.hpp"
#include "endpoint_support.hpp"

namespace troupe::rpc::testing {

namespace {

using SimDuo = Duo<contract::Sim>;

constexpr Duration kHeartbeat = 100ms;
constexpr Duration kSilence = 500ms;

EndpointOptions watchful(std::uint64_t id, const std::string& name) {
  auto options = options_of(id, name);
  options.heartbeat_interval = kHeartbeat;
  options.silence_limit = kSilence;
  return options;
}

struct Watched : SimDuo {
  Watched() : SimDuo(watchful(1, "alice"), watchful(2, "bob")) { connect(); }
  TimePoint now() { return world.world.clock().now(); }
  /// Messages in so much time, in both directions.
  std::uint64_t messages_in(Duration time) {
    const std::uint64_t before = world.world.messages();
    settle(time);
    return world.world.messages() - before;
  }
};

}  // namespace

TEST_CASE("liveness: a link on which nothing is open rests") {
  Watched duo;
  CHECK(duo.call<std::int64_t>("add", 1, 1).value() == 2);
  duo.settle(2 * kHeartbeat);
  CHECK(duo.messages_in(60s) == 0);
  CHECK(duo.a.closed.empty());
  CHECK(duo.call<std::int64_t>("add", 1, 1).value() == 2);
}

TEST_CASE("liveness: a peer whose answer is waited for is asked, and may take its time") {
  Watched duo;
  Answer& answer = duo.answer();
  start_call(*duo.a.endpoint, {duo.ab, Side::kKeeper}, "k", 60s, answer);
  REQUIRE(duo.until([&] { return duo.b.service.kept.size() == 1; }));
  const auto messages = duo.messages_in(10s);
  CHECK(messages >= 180);  // a question and an answer in each interval
  CHECK(messages <= 220);
  CHECK(answer.count == 0);
  duo.b.service.kept[0]->reply(std::int64_t{7});
  REQUIRE(duo.until([&] { return answer.count == 1; }));
  CHECK(answer.code() == Code::kOk);
}

TEST_CASE("liveness: a call over a link that has rested for long is no reason to judge the peer at once") {
  Watched duo;
  duo.settle(600s);
  Answer& answer = duo.answer();
  duo.world.world.stop("b");
  start_call(*duo.a.endpoint, {duo.ab, 1}, "add", 60s, answer, 1, 2);
  duo.settle(kSilence - kHeartbeat);
  CHECK(answer.count == 0);
  duo.world.world.resume("b");
  REQUIRE(duo.until([&] { return answer.count == 1; }));
  CHECK(answer.code() == Code::kOk);
}

TEST_CASE(
    "liveness: a watched peer is asked though nothing is open; its silence is told, then ends the session") {
  Watched duo;
  duo.a.own_news = 7;
  duo.b.own_news = 8;
  duo.a.endpoint->keep_watch(duo.ab, true);
  duo.settle(10s);
  CHECK(duo.a.quiet.empty());
  CHECK(duo.b.heard_news == 7);
  CHECK(duo.a.heard_news == 8);
  const TimePoint stopped = duo.now();
  duo.world.world.stop("b");
  REQUIRE(duo.until([&] { return !duo.a.quiet.empty(); }));
  CHECK(duo.a.quiet[0].second >= kSilence / 2);
  CHECK(duo.now() - stopped <= kSilence / 2 + kHeartbeat + 1ms);
  REQUIRE(duo.until([&] { return !duo.a.closed.empty(); }));
  CHECK(duo.now() - stopped <= kSilence + 1ms);
  CHECK(duo.now() - stopped >= kSilence - kHeartbeat);
  CHECK(duo.a.closed[0].second.code == Code::kUnavailable);
}

TEST_CASE("liveness: a peer that is watched no more is left alone") {
  Watched duo;
  duo.a.endpoint->keep_watch(duo.ab, true);
  duo.settle(1s);
  duo.a.endpoint->keep_watch(duo.ab, false);
  duo.settle(2 * kHeartbeat);
  CHECK(duo.messages_in(10s) == 0);
}

TEST_CASE("liveness: a suspected peer that lives clears itself with one answer") {
  Watched duo;
  duo.settle(10s);
  duo.a.endpoint->suspect(duo.ab, kSilence);
  CHECK(duo.messages_in(10s) <= 4);
  CHECK(duo.a.closed.empty());
}

TEST_CASE("liveness: a suspected peer that is silent ends when both have heard nothing for the limit") {
  for (const Duration told : {Duration{0}, kSilence / 2, 10 * kSilence}) {
    CAPTURE(told.count());
    Watched duo;
    duo.settle(10s);
    duo.world.world.stop("b");
    const TimePoint suspected = duo.now();
    duo.a.endpoint->suspect(duo.ab, told);
    REQUIRE(duo.until([&] { return !duo.a.closed.empty(); }));
    // A quarter of the limit is for its answer, whatever was told.
    const Duration left = std::max<Duration>(kSilence - told, kSilence / 4);
    CHECK(duo.now() - suspected >= left);
    CHECK(duo.now() - suspected <= left + 1ms);
  }
}

TEST_CASE("liveness: connections on one machine are not probed by the kernel, however many rest") {
  auto address = SocketAddress::parse("127.0.0.1:0");
  REQUIRE(address.ok());
  auto listening = listen_socket(*address);
  REQUIRE(listening.ok());
  auto dialled = connecting_socket(SocketAddress::local_of(listening->get()));
  REQUIRE(dialled.ok());
  const UniqueFd accepted(::accept(listening->get(), nullptr, nullptr));
  REQUIRE(accepted);
  for (const int fd : {dialled->get(), accepted.get()}) {
    tune_stream(fd);
    int probed = -1;
    socklen_t size = sizeof probed;
    REQUIRE(::getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &probed, &size) == 0);
    CHECK(probed == 0);
  }
}

TEST_CASE("liveness: who was stopped himself does not take others for dead") {
  Watched duo;
  duo.a.endpoint->keep_watch(duo.ab, true);
  for (int i = 0; i < 5; ++i) {
    duo.world.world.stop("a");
    duo.settle(3 * kSilence);
    duo.world.world.resume("a");
    duo.settle(Duration(50ms));
  }
  duo.settle(10s);
  CHECK(duo.a.closed.empty());
  CHECK(duo.a.quiet.empty());
}

}  // namespace troupe::rpc::testing
