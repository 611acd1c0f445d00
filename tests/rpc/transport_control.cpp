#include <array>
#include <random>

#include "control/link_table.hpp"
#include "transport_contract.hpp"

namespace troupe::rpc::contract {

namespace {

std::vector<std::byte> message_of(std::size_t size, std::size_t seed) {
  std::vector<std::byte> message(size);
  for (std::size_t i = 0; i < size; ++i) message[i] = pattern(seed, 0, i);
  return message;
}

}  // namespace

TEST_CASE_TEMPLATE("transport: dialling a listener gives each side one link", Kind, TROUPE_TRANSPORTS) {
  Pair<Kind> pair;
  REQUIRE(pair.a.links.size() == 1);
  REQUIRE(pair.b.links.size() == 1);
  CHECK_FALSE(pair.a.links.begin()->second.incoming);
  CHECK(pair.b.links.begin()->second.incoming);
  CHECK(pair.a.link() != 0);
  CHECK(pair.address.find(":0") != pair.address.size() - 2);  // the chosen port, not 0
}

TEST_CASE_TEMPLATE("transport: dialling where nobody listens ends in one kUnavailable", Kind,
                   TROUPE_TRANSPORTS) {
  Pair<Kind> pair(false);
  const auto link = pair.ta->dial(Kind::kDeaf);
  REQUIRE(link.ok());
  CHECK(pair.a.links.empty());  // nothing is called from inside dial()
  REQUIRE(pair.until([&] { return pair.a.closed() == 1; }));
  pair.settle();
  const auto& closed = pair.a.links[*link].closed;
  REQUIRE(closed.size() == 1);
  CHECK(closed[0].code == Code::kUnavailable);
  CHECK(closed[0].message.find(Kind::kDeaf) != std::string::npos);
}

TEST_CASE_TEMPLATE("transport: what is no address is refused at once", Kind, TROUPE_TRANSPORTS) {
  Pair<Kind> pair(false);
  for (const char* address :
       {"", "nonsense", ":", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:70000", ":80", "a:-1"}) {
    CAPTURE(address);
    const auto dialled = pair.ta->dial(address);
    REQUIRE_FALSE(dialled.ok());
    CHECK(dialled.error().code == Code::kInvalidArgument);
    const auto listening = pair.ta->listen(address);
    REQUIRE_FALSE(listening.ok());
    CHECK(listening.error().code == Code::kInvalidArgument);
  }
}

TEST_CASE_TEMPLATE("transport: a port in use is an error that names it", Kind, TROUPE_TRANSPORTS) {
  Pair<Kind> pair(false);
  const auto again = pair.ta->listen(pair.address);
  REQUIRE_FALSE(again.ok());
  CHECK(again.error().code == Code::kAlreadyExists);
  CHECK(again.error().message.find(pair.address) != std::string::npos);
}

TEST_CASE_TEMPLATE("transport: control messages arrive whole and in order", Kind, TROUPE_TRANSPORTS) {
  Pair<Kind> pair;
  const std::size_t longest = pair.ta->limits().max_control_bytes;
  std::mt19937 random(17);
  std::vector<std::vector<std::byte>> sent;
  for (std::size_t i = 0; i < 3000; ++i) {
    const std::size_t size = i % 100 == 99 ? longest : i % 7 == 0 ? 0 : random() % 300;
    sent.push_back(message_of(size, i));
    pair.ta->send_control(pair.a.link(), sent.back());
    if (i % 20 == 0) pair.world.b.poll();
  }
  auto& got = pair.b.links[pair.b.link()].control;
  REQUIRE(pair.until([&] { return got.size() >= sent.size(); }));
  CHECK(got == sent);
}

TEST_CASE_TEMPLATE("transport: a message sent just before close() arrives, then the end", Kind,
                   TROUPE_TRANSPORTS) {
  Pair<Kind> pair;
  const auto goodbye = message_of(40, 1);
  // What the closing side has not read must not cost the other side the goodbye.
  pair.tb->send_control(pair.b.link(), message_of(1000, 2));
  pair.ta->send_control(pair.a.link(), goodbye);
  pair.ta->close(pair.a.link());
  REQUIRE(pair.until([&] { return pair.b.closed() == 1; }));
  const auto& seen = pair.b.links[pair.b.link()];
  REQUIRE(seen.control.size() == 1);
  CHECK(seen.control[0] == goodbye);
  CHECK(seen.closed[0].code == Code::kUnavailable);
  CHECK(pair.a.closed() == 0);
}

TEST_CASE_TEMPLATE("transport: a closed link stays silent and refuses sends", Kind, TROUPE_TRANSPORTS) {
  Pair<Kind> pair;
  const LinkId link = pair.a.link();
  pair.ta->close(link);
  pair.ta->close(link);
  pair.ta->close(4711);
  pair.ta->send_control(link, message_of(10, 0));
  const auto sent = pair.ta->send(link, make_frame(0));
  REQUIRE_FALSE(sent.ok());
  CHECK(sent.error().code == Code::kUnavailable);
  CHECK(pair.ta->bytes_in_flight(link) == 0);
  CHECK(pair.ta->data_address(link).empty());
  REQUIRE(pair.until([&] { return pair.b.closed() == 1; }));
  pair.settle();
  CHECK(pair.a.closed() == 0);
  CHECK(pair.b.links[pair.b.link()].closed.size() == 1);
  CHECK(pair.b.frames.empty());
}

TEST_CASE_TEMPLATE("transport: a malformed data address is refused, the link lives on", Kind,
                   TROUPE_TRANSPORTS) {
  Pair<Kind> pair(false);
  std::vector<Error> refused;
  pair.a.link_hook = [&](LinkId link) {
    auto address = pair.ta->data_address(link);
    std::vector<std::vector<std::byte>> wrong{{}, {address.begin(), address.end() - 1}, message_of(200, 3)};
    address[address.size() / 2] ^= std::byte{1};
    wrong.push_back(address);
    for (const auto& candidate : wrong) {
      const auto opened = pair.ta->open_data(link, candidate);
      if (!opened) refused.push_back(opened.error());
    }
  };
  REQUIRE(pair.ta->dial(pair.address).ok());
  REQUIRE(pair.until([&] { return pair.a.open() && pair.b.open(); }));
  REQUIRE(refused.size() == 4);
  for (const Error& error : refused) CHECK(error.code == Code::kInvalidArgument);
}

TEST_CASE_TEMPLATE("transport: a thousand links, opened and closed", Kind, TROUPE_TRANSPORTS) {
  Pair<Kind> pair(false);
  constexpr std::size_t kBatch = 50;
  for (std::size_t round = 1; round <= 1000 / kBatch; ++round) {
    std::vector<LinkId> dialled;
    for (std::size_t i = 0; i < kBatch; ++i) dialled.push_back(pair.ta->dial(pair.address).value());
    REQUIRE(pair.until([&] {
      return std::all_of(dialled.begin(), dialled.end(),
                         [&](LinkId link) { return pair.a.links[link].open; });
    }));
    for (const LinkId link : dialled) CHECK(pair.ta->send(link, make_frame(link)).ok());
    REQUIRE(pair.until([&] { return pair.b.frames.size() == round * kBatch; }));
    for (const LinkId link : dialled) pair.ta->close(link);
    REQUIRE(pair.until([&] { return pair.b.closed() == round * kBatch; }));
  }
  CHECK(pair.a.links.size() == 1000);  // no id was used twice
  CHECK(pair.b.damaged() == 0);
}

TEST_CASE_TEMPLATE("transport: a link may be closed from inside each event", Kind, TROUPE_TRANSPORTS) {
  Pair<Kind> pair(false);
  for (int event = 0; event < 4; ++event) {
    CAPTURE(event);
    const auto close = [&](LinkId link) { pair.tb->close(link); };
    pair.b.link_hook = pair.b.control_hook = pair.b.frame_hook = pair.b.closed_hook = nullptr;
    std::array hooks{&pair.b.link_hook, &pair.b.control_hook, &pair.b.frame_hook, &pair.b.closed_hook};
    *hooks[static_cast<std::size_t>(event)] = close;
    pair.a.frame_hook = nullptr;
    const LinkId link = pair.ta->dial(pair.address).value();
    const std::size_t links_before = pair.b.links.size();
    if (event >= 2) {
      REQUIRE(pair.until([&] { return pair.a.links[link].open; }));
      for (std::uint64_t i = 0; i < 5; ++i) CHECK(pair.ta->send(link, make_frame(i)).ok());
      REQUIRE(pair.until([&] { return !pair.b.frames.empty(); }));
    }
    if (event == 3) pair.ta->close(link);
    REQUIRE(
        pair.until([&] { return event == 3 ? pair.b.closed() == 1 : !pair.a.links[link].closed.empty(); }));
    CHECK(pair.b.links.size() >= links_before);
    if (event == 2) CHECK(pair.b.frames.size() == 1);
    pair.b.frames.clear();
  }
}

TEST_CASE_TEMPLATE(
    "transport: a link that comes while the last messages of another are handled leaves it alone", Kind,
    TROUPE_TRANSPORTS) {
  Pair<Kind> pair;
  // One message each way, so that nothing is half connected.
  REQUIRE(pair.ta->send(pair.a.link(), make_frame(0)).ok());
  REQUIRE(pair.tb->send(pair.b.link(), make_frame(0)).ok());
  REQUIRE(pair.until([&] { return pair.a.frames.size() == 1 && pair.b.frames.size() == 1; }));
  const LinkId ending = pair.b.link();
  constexpr std::size_t kCount = 10;
  pair.tb->pause(ending, true);  // so that its messages are delivered when it ends
  for (std::uint64_t i = 1; i <= kCount; ++i) REQUIRE(pair.ta->send(pair.a.link(), make_frame(i)).ok());
  pair.settle();
  LinkId coming = 0;
  pair.b.frame_hook = [&](LinkId link) {
    if (link != ending || coming != 0) return;
    coming = ending;
    const LinkId dialled = pair.ta->dial(pair.address).value();
    CHECK(pair.until([&] { return pair.a.links[dialled].open; }));
    CHECK(pair.ta->send(dialled, make_frame(100)).ok());
    CHECK(pair.until(
        [&] { return pair.b.frames.back().sequence == 100 || pair.b.frames.size() > kCount + 1; }));
    for (const auto& [id, seen] : pair.b.links)
      if (id != ending) coming = id;
  };
  pair.ta->close(pair.a.link());
  REQUIRE(pair.until([&] { return pair.b.frames.size() == kCount + 2 && pair.b.closed() == 1; }));
  CHECK(pair.b.damaged() == 0);
  CHECK(coming != ending);
  constexpr LinkId kSlot = LinkTable<int>::kMaxLinks - 1;
  CHECK((coming & kSlot) != (ending & kSlot));
  CHECK(pair.b.links[coming].closed.empty());
  pair.a.frames.clear();
  REQUIRE(pair.tb->send(coming, make_frame(0)).ok());
  REQUIRE(pair.until([&] { return pair.a.frames.size() == 1; }));
}

TEST_CASE_TEMPLATE("transport: closing while still dialling", Kind, TROUPE_TRANSPORTS) {
  Pair<Kind> pair(false);
  const LinkId link = pair.ta->dial(pair.address).value();
  pair.ta->close(link);
  pair.settle();
  CHECK(pair.a.links.empty());
  for (const auto& [id, seen] : pair.b.links) CHECK(seen.closed.size() == 1);
}

}  // namespace troupe::rpc::contract
