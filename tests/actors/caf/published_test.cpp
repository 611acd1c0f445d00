// Actors of an application's own under names of the cluster, and its own message types, with tensors in them.
#include <caf/binary_deserializer.hpp>
#include <caf/binary_serializer.hpp>
#ifdef TROUPE_CAF_IO
#include <caf/io/all.hpp>
#endif

#include <atomic>
#include <string>
#include <vector>

#include "actors/caf/types.hpp"
#include "actors/cluster.hpp"

using namespace troupe;
using namespace troupe::test;
using namespace std::chrono_literals;

namespace {

/// An application with a CAF system of its own, as it comes: with CAF's scheduler and its threads.
struct Application : TestTypes {
  explicit Application(const std::string& name, const std::string& registry = "", bool knows_secret = false) {
    announce_test_types(config, knows_secret);
#ifdef TROUPE_CAF_IO
    config.load<caf::io::middleman>();
#endif
    system = std::make_unique<caf::actor_system>(config);
    auto started = Node::start({.name = name, .registry = registry, .system = system.get()});
    REQUIRE_MESSAGE(started.ok(), text_of(started));
    node = std::move(*started);
  }
  /// The answer to a request, or its error.
  template <class R, class... Args>
  Result<R> ask(const caf::actor& actor, const Args&... args) {
    caf::scoped_actor self(*system);
    Result<R> answer = Error{Code::kUnknown, "nothing came"};
    self->request(actor, 20s, args...)
        .receive([&](const R& value) { answer = value; },
                 [&](const caf::error& error) { answer = from_caf(*system, error); });
    return answer;
  }
  caf::actor_system_config config;
  std::unique_ptr<caf::actor_system> system;
  std::unique_ptr<Node> node;
};

std::atomic<std::int64_t> notes{0};

/// What the application had before: an event-based actor that knows nothing of nodes.
caf::behavior analyst(caf::event_based_actor* self) {
  auto held = std::make_shared<std::vector<caf::response_promise>>();
  return {
      [](mean_atom, const std::string& of, double a, double b) -> caf::result<double> {
        if (of.empty()) return to_caf({Code::kFailedPrecondition, "the mean of what?"});
        return (a + b) / 2;
      },
      [](fail_atom) -> caf::result<double> { return caf::make_error(caf::sec::runtime_error); },
      [=](hold_atom) { held->push_back(self->make_response_promise()); },
      [](note_atom, std::int64_t number) { notes += number; },
      [](kind_atom) { return AtomValue<analyst_atom>(analyst_atom_v); },
      [](both_atom) { return caf::make_message(std::int64_t{1}, std::string("two")); },
      [](Step step) {
        ++step.number;
        step.notes.push_back(std::to_string(reinterpret_cast<std::uintptr_t>(step.gradient.data())));
        return step;
      },
      [](const Secret& secret) { return secret; },
  };
}

struct Published {
  Published() {
    analyst_actor = office.system->spawn(analyst);
    const auto published =
        office.node->publish("analyst", analyst_actor, {"mean", "fail", "hold", "note", "kind", "both"});
    REQUIRE_MESSAGE(published.ok(), text_of(published));
    REQUIRE(caller.node->wait_for_actor("analyst", kPatience).ok());
  }
  /// As an application does: the promises that it holds keep the actor alive.
  ~Published() { caf::anon_send_exit(analyst_actor, caf::exit_reason::user_shutdown); }
  Application office{"office", "", true};
  Application caller{"caller", office.node->address()};
  caf::actor analyst_actor;
};

std::string address_of(const Tensor& tensor) {
  return std::to_string(reinterpret_cast<std::uintptr_t>(tensor.data()));
}

}  // namespace

TEST_CASE_FIXTURE(Published,
                  "published: typed calls reach an application's actor from other nodes and its own") {
  for (Node* node : {caller.node.get(), office.node.get()}) {
    const auto mean = node->rpc_sync<double>("analyst", "mean", std::string("x"), 1.0, 2.0);
    REQUIRE_MESSAGE(mean.ok(), text_of(mean));
    CHECK(*mean == 1.5);
    const auto both = node->rpc_sync<std::pair<std::int64_t, std::string>>("analyst", "both");
    REQUIRE_MESSAGE(both.ok(), text_of(both));
    CHECK(both->second == "two");

    const auto refused = node->rpc_sync<double>("analyst", "mean", std::string(), 1.0, 2.0);
    CHECK(code_of(refused) == Code::kFailedPrecondition);
    CHECK(contains(text_of(refused), "the mean of what?"));
    CHECK(code_of(node->rpc_sync<double>("analyst", "fail")) == Code::kUnknown);
    CHECK(code_of(node->rpc_sync<double>("analyst", "mean", std::string("x"))) == Code::kUnimplemented);
    const auto unknown = node->rpc_sync<double>("analyst", "meen", std::string("x"), 1.0, 2.0);
    CHECK(code_of(unknown) == Code::kUnimplemented);
    CHECK(contains(text_of(unknown), "mean"));

    const auto held = node->rpc_sync_with<void>({.timeout = 100ms}, "analyst", "hold");
    CHECK(code_of(held) == Code::kDeadlineExceeded);
    const std::int64_t before = notes;
    REQUIRE(node->send("analyst", "note", std::int64_t{7}).ok());
    REQUIRE(node->rpc_sync<double>("analyst", "mean", std::string("x"), 1.0, 2.0).ok());  // it comes after
    CHECK(notes == before + 7);
  }
}

TEST_CASE_FIXTURE(Published,
                  "published: CAF applications talk in their own types, and tensors stay where they are") {
  Step step{41, Tensor::of<float>({1, 2, 3}), {"a"}};
  SUBCASE("on another node") {
    const auto answer = caller.ask<Step>(caller.node->actor("analyst").value(), step);
    REQUIRE_MESSAGE(answer.ok(), text_of(answer));
    CHECK(answer->number == 42);
    REQUIRE(answer->notes.size() == 2);
    CHECK(answer->notes[0] == "a");
    REQUIRE(answer->gradient.to_string() == "float32[3]");
    CHECK(answer->gradient.as<float>()[2] == 3);
  }
  SUBCASE("on the same one: the very elements") {
    const auto answer = office.ask<Step>(office.node->actor("analyst").value(), step);
    REQUIRE_MESSAGE(answer.ok(), text_of(answer));
    CHECK(answer->notes.at(1) == address_of(step.gradient));
    CHECK(address_of(answer->gradient) == address_of(step.gradient));
  }
  const caf::actor there = caller.node->actor("analyst").value();
  CHECK(caller.ask<AtomValue<analyst_atom>>(there, kind_atom_v).value() == analyst_atom_v);
  CHECK(caller.ask<double>(there, mean_atom_v, std::string("x"), 3.0, 4.0).value() == 3.5);
  const auto unhandled = caller.ask<double>(there, std::int64_t{5});
  CHECK(code_of(unhandled) == Code::kUnimplemented);
}

// Since 0.18 a type has a number in the whole process or none at all.
#if TROUPE_CAF < 18
TEST_CASE_FIXTURE(Published, "published: a type that one side has not announced is named in the error") {
  const auto unannounced = caller.ask<Secret>(caller.node->actor("analyst").value(), Secret{1});
  CHECK(code_of(unannounced) == Code::kInvalidArgument);
  CHECK(contains(text_of(unannounced), "add_message_type"));
  // The office knows it, and so does its own caller; an actor of the other application does not.
  CHECK(office.ask<Secret>(office.node->actor("analyst").value(), Secret{6}).value().number == 6);
  const caf::actor stranger = caller.system->spawn(
      [](caf::event_based_actor*) -> caf::behavior { return {[](const Step& step) { return step; }}; });
  REQUIRE(caller.node->publish("stranger", stranger).ok());
  REQUIRE(office.node->wait_for_actor("stranger", kPatience).ok());
  const auto unknown = office.ask<Secret>(office.node->actor("stranger").value(), Secret{1});
  CHECK(code_of(unknown) == Code::kUnimplemented);
  CHECK(contains(text_of(unknown), "'Secret'"));
}

#endif

TEST_CASE_FIXTURE(Published, "published: the actor's end, or its node's, is the name's, and is heard of") {
  const caf::actor handle = caller.node->actor("analyst").value();
  caf::scoped_actor self(*caller.system);
  self->monitor(handle);
  auto held = caller.node->rpc_async<void>("analyst", "hold");
  REQUIRE(caller.node->rpc_sync<double>("analyst", "mean", std::string("x"), 1.0, 2.0).ok());  // it holds it
  Changes changes(*caller.node);
  const auto gone = changes.signal(MembershipEvent::kUnpublished, "analyst");
  SUBCASE("the actor's") {
    caf::anon_send_exit(analyst_actor, caf::exit_reason::user_shutdown);
    REQUIRE(gone->wait_for(kPatience));
    CHECK(code_of(caller.node->rpc_sync<double>("analyst", "mean", std::string("x"), 1.0, 2.0)) ==
          Code::kUnavailable);
  }
  SUBCASE("its node's") {
    office.node->shutdown();
  }
  const auto ended = held.get();
  CHECK_MESSAGE(!ended.ok(), "the held call was answered");
  bool heard = false;
  self->receive([&](const caf::down_msg& down) { heard = down.source == handle.address(); },
                caf::after(20s) >> [] {});
  CHECK(heard);
}

TEST_CASE_FIXTURE(Published, "published: a name can be taken once, and again after the actor's end") {
  const caf::actor other = caller.system->spawn(analyst);
  CHECK(code_of(caller.node->publish("analyst", other)) == Code::kAlreadyExists);
  Changes changes(*caller.node);
  caf::anon_send_exit(analyst_actor, caf::exit_reason::user_shutdown);
  REQUIRE(changes.signal(MembershipEvent::kUnpublished, "analyst")->wait_for(kPatience));
  REQUIRE(caller.node->publish("analyst", other, {"mean"}).ok());
  CHECK(caller.node->rpc_sync<double>("analyst", "mean", std::string("x"), 1.0, 2.0).ok());
  CHECK(code_of(caller.node->publish("nobody", caf::actor())) == Code::kInvalidArgument);
  CHECK(code_of(caller.node->publish("twice", other, {"mean", "kind", "mean"})) == Code::kInvalidArgument);
  // One that has ended already is a name that ends at once.
  caf::scoped_actor self(*caller.system);
  self->wait_for(analyst_actor);
  (void)office.node->publish("late", analyst_actor, {"mean"});
  const auto late = office.node->rpc_sync<double>("late", "mean", std::string("x"), 1.0, 2.0);
  CHECK_MESSAGE(!late.ok(), "a dead actor has answered");
  caf::anon_send_exit(other, caf::exit_reason::user_shutdown);
}

TEST_CASE_FIXTURE(Published,
                  "published: tensors pass CAF's own serializers, and what is no tensor is refused") {
  Bytes bytes;
  Tensor tensor(DType::kFloat32, Shape{2, 2}, Shape{1, 2}, Tensor::of<float>({1, 2, 3, 4}).buffer(), 0);
  caf::binary_serializer sink(*office.system, bytes);
  REQUIRE(passes(sink, tensor));
  Tensor read;
  caf::binary_deserializer source(*office.system, bytes);
  REQUIRE(passes(source, read));
  CHECK(read.to_string() == "float32[2, 2]");
  CHECK(read.as<float>()[1] == 3);  // packed
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    CAPTURE(i);
    Bytes cut(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(i));
    caf::binary_deserializer from_cut(*office.system, cut);
    CHECK_FALSE(passes(from_cut, read));
  }
  bytes[0] = Bytes::value_type{77};  // no such dtype
  caf::binary_deserializer from_bad(*office.system, bytes);
  CHECK_FALSE(passes(from_bad, read));
}

#ifdef TROUPE_CAF_IO
TEST_CASE_FIXTURE(Published, "published: CAF's I/O module works beside it, and carries tensors as copies") {
  const auto port = office.system->middleman().publish(analyst_actor, 0, "127.0.0.1");
  REQUIRE(port);
  const auto by_caf = caller.system->middleman().remote_actor("127.0.0.1", *port);
  REQUIRE(by_caf);
  const Step step{1, Tensor::of<float>({4, 5}), {}};
  for (const caf::actor& there : {*by_caf, caller.node->actor("analyst").value()}) {
    const auto answer = caller.ask<Step>(there, step);
    REQUIRE_MESSAGE(answer.ok(), text_of(answer));
    CHECK(answer->number == 2);
    CHECK(answer->gradient.to_string() == "float32[2]");
    CHECK(answer->gradient.as<float>()[1] == 5);
  }
}
#endif
