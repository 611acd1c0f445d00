// Streams: items in order, within the reader's window, until one side ends them.
#include <memory>
#include <random>

#include <troupe/rpc/stream.hpp>

#include "endpoint_support.hpp"
#include "forger.hpp"
#include "support/seed.hpp"
#include "wire/envelope_patch.hpp"

namespace troupe::rpc::testing {

namespace {

/// Writes what it is told to.
struct Source {
  std::vector<StreamWriter<std::int64_t>> writers;
  std::vector<StreamWriter<Tensor>> tensors;
  std::function<void()> meanwhile;  // in the middle of "look"
  std::string seen;
  Endpoint* endpoint = nullptr;  // its own

  static void methods(Methods<Source>& methods) {
    methods
        .add("open",
             [](Source& self, StreamWriter<std::int64_t> out) { self.writers.push_back(std::move(out)); })
        .add("tensors",
             [](Source& self, StreamWriter<Tensor> out) { self.tensors.push_back(std::move(out)); })
        .add("range",
             [](Source& self, const CallContext& context, StreamWriter<std::int64_t> out, std::int64_t from,
                std::int64_t to) {
               CHECK(context.deadline > TimePoint{});
               if (from > to) throw std::runtime_error("no such range");
               self.writers.push_back(std::move(out));
               pour(self.writers.back(), from, to);
             })
        .add("whose",
             [](Source&, const CallContext& context, StreamWriter<std::string> out) {
               std::string all;
               for (const MetadataPair& pair : context.metadata.pairs())
                 all += pair.key + "=" + pair.value + (pair.pass_on ? "+ " : " ");
               CHECK(out.write(all).ok());
               out.end();
             })
        .add("outer",
             [](Source& self) {
               auto reader = std::make_shared<StreamReader<std::string>>(open_stream<std::string>(
                   *self.endpoint, {kLocal, 1}, "whose", "whose", {.metadata = {{"try", "3"}}}));
               return reader->next_async(10s).then(
                   [reader](Result<std::optional<std::string>> item) -> Result<std::string> {
                     return item ? Result<std::string>(item->value_or("")) : item.error();
                   });
             })
        .add("plain", [](Source&, std::int64_t a) { return a; })
        .add("look",
             [](Source& self, StreamWriter<std::int64_t> out, std::string_view text) {
               self.writers.push_back(std::move(out));
               self.meanwhile();
               self.seen = text;
             })
        .add("length", [](Source&, std::string_view text) { return static_cast<std::int64_t>(text.size()); });
  }
  /// Writes from..to-1 as there is room, then ends the stream.
  static void pour(StreamWriter<std::int64_t>& out, std::int64_t from, std::int64_t to) {
    while (from < to) {
      const auto room = out.write(from++);
      if (!room) return;
      if (*room) continue;
      return out.room().then([&out, from, to](const Result<void>& ready) {
        if (ready) pour(out, from, to);
      });
    }
    out.end();
  }
};

template <class Kind>
struct StreamDuo : Duo<Kind> {
  template <class... Args>
  explicit StreamDuo(Args&&... args)
      : Duo<Kind>(options_of(1, "alice"), options_of(2, "bob"), std::forward<Args>(args)...) {
    Methods<Source> methods;
    Source::methods(methods);
    source.writers.reserve(8);
    this->b.handler = [this, table = methods.table()](InboundCallPtr call) {
      table->invoke(&source, std::move(call));
    };
    this->connect();
    source.endpoint = this->b.endpoint.get();
  }
  ~StreamDuo() {
    source.writers.clear();
    source.tensors.clear();
  }
  template <class T, class... Args>
  StreamReader<T> open(std::string_view method, const StreamOptions& options, const Args&... args) {
    return open_stream<T>(*this->a.endpoint, {this->ab, 1}, method, std::string(method), options, args...);
  }
  template <class T>
  Result<std::optional<T>> next(StreamReader<T>& reader, Duration timeout = 10s) {
    auto future = reader.next_async(timeout);
    REQUIRE(this->until([&] { return future.ready(); }));
    return future.get();
  }
  Source source;
};

}  // namespace

TEST_CASE_TEMPLATE("streams: items come in order, then the end", Kind, TROUPE_ENDPOINT_TRANSPORTS) {
  StreamDuo<Kind> duo;
  auto reader = duo.template open<std::int64_t>("range", {.items = 8}, std::int64_t{5}, std::int64_t{1005});
  for (std::int64_t expected = 5; expected < 1005; ++expected) {
    const auto item = duo.next(reader);
    REQUIRE(item.ok());
    REQUIRE(item->has_value());
    REQUIRE(**item == expected);
  }
  for (int i = 0; i < 2; ++i) CHECK_FALSE(duo.next(reader).value().has_value());
  CHECK(duo.a.endpoint->open_calls() == 0);
  CHECK(duo.source.writers[0].ended());
}

TEST_CASE_TEMPLATE("streams: a writer has room for a window of items", Kind, TROUPE_ENDPOINT_TRANSPORTS) {
  StreamDuo<Kind> duo;
  auto reader = duo.template open<std::int64_t>("open", {.items = 4});
  REQUIRE(duo.until([&] { return duo.source.writers.size() == 1; }));
  auto& writer = duo.source.writers[0];
  for (std::int64_t i = 0; i < 3; ++i) CHECK(writer.write(i).value());
  CHECK_FALSE(writer.write(3).value());
  auto room = writer.room();
  duo.settle();
  CHECK_FALSE(room.ready());
  CHECK_FALSE(writer.write(4).value());  // it waits at the writer
  for (std::int64_t i = 0; i < 5; ++i) CHECK(*duo.next(reader).value() == i);
  REQUIRE(duo.until([&] { return room.ready(); }));
  CHECK(room.get().ok());
  CHECK(writer.write(5).value());
  // What nobody reads is not written without bound.
  Result<bool> more = true;
  int written = 0;
  for (; more && written < 1000; ++written) more = writer.write(6);
  CHECK(more.error().code == Code::kResourceExhausted);
  CHECK(written < 100);
}

TEST_CASE_TEMPLATE("streams: a window is one of bytes, too, and one item may be longer", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  StreamDuo<Kind> duo;
  auto reader = duo.template open<Tensor>("tensors", {.items = 100, .bytes = 100'000});
  REQUIRE(duo.until([&] { return duo.source.tensors.size() == 1; }));
  auto& writer = duo.source.tensors[0];
  const auto tensor = [](std::int64_t size) { return Tensor::zeros(DType::kUInt8, Shape({size})); };
  CHECK(writer.write(tensor(60'000)).value());
  CHECK_FALSE(writer.write(tensor(60'000)).value());
  CHECK_FALSE(writer.write(tensor(500'000)).value());
  CHECK_FALSE(writer.write(tensor(1)).value());
  writer.end();
  std::vector<std::size_t> sizes;
  while (auto item = duo.next(reader).value()) sizes.push_back(item->bytes());
  CHECK(sizes == std::vector<std::size_t>{60'000, 60'000, 500'000, 1});
}

TEST_CASE_TEMPLATE("streams: long items keep their place among short ones", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  StreamDuo<Kind> duo;
  auto reader = duo.template open<Tensor>("tensors", {.items = 200, .bytes = 1 << 30});
  REQUIRE(duo.until([&] { return duo.source.tensors.size() == 1; }));
  auto& writer = duo.source.tensors[0];
  constexpr int kItems = 60;
  for (int i = 0; i < kItems; ++i) {
    Tensor tensor = Tensor::zeros(DType::kUInt8, Shape({i % 3 == 0 ? 400'000 : 10}));
    tensor.as<std::uint8_t>()[9] = static_cast<std::uint8_t>(i);
    REQUIRE(writer.write(tensor).ok());
  }
  writer.end();  // the end, too, may overtake items
  for (int i = 0; i < kItems; ++i) {
    auto item = duo.next(reader).value();
    REQUIRE(item.has_value());
    CHECK(item->bytes() == (i % 3 == 0 ? 400'000 : 10));
    CHECK(item->template as<std::uint8_t>()[9] == i);
  }
  CHECK_FALSE(duo.next(reader).value().has_value());
}

TEST_CASE_TEMPLATE("streams: cancelling reaches the writer", Kind, TROUPE_ENDPOINT_TRANSPORTS) {
  StreamDuo<Kind> duo;
  auto reader = duo.template open<std::int64_t>("open", {.items = 1});
  auto dropped = std::make_unique<StreamReader<std::int64_t>>(duo.template open<std::int64_t>("open", {}));
  REQUIRE(duo.until([&] { return duo.source.writers.size() == 2; }));
  auto& writer = duo.source.writers[0];
  CHECK_FALSE(writer.write(1).value());
  auto room = writer.room();
  reader.cancel();
  dropped.reset();
  CHECK(duo.next(reader).error().code == Code::kCancelled);
  CHECK(duo.a.endpoint->open_calls() == 0);
  REQUIRE(duo.until([&] { return writer.ended() && duo.source.writers[1].ended(); }));
  CHECK(room.get().error().code == Code::kCancelled);
  CHECK(writer.write(2).error().code == Code::kCancelled);
  CHECK(writer.room().get().error().code == Code::kCancelled);
}

TEST_CASE_TEMPLATE("streams: the writer's error comes after its items", Kind, TROUPE_ENDPOINT_TRANSPORTS) {
  StreamDuo<Kind> duo;
  auto reader = duo.template open<std::int64_t>("open", {.items = 2});
  REQUIRE(duo.until([&] { return duo.source.writers.size() == 1; }));
  auto& writer = duo.source.writers[0];
  for (std::int64_t i = 0; i < 5; ++i) REQUIRE(writer.write(i).ok());
  writer.end(Error{Code::kAborted, "enough"});
  CHECK(writer.write(9).error().code == Code::kAborted);
  for (std::int64_t i = 0; i < 5; ++i) CHECK(*duo.next(reader).value() == i);
  const auto end = duo.next(reader);
  CHECK(end.error().code == Code::kAborted);
  CHECK(end.error().message == "open: enough");
  CHECK(end.error().node == "bob");

  auto second = duo.template open<std::int64_t>("open", {});
  REQUIRE(duo.until([&] { return duo.source.writers.size() == 2; }));
  duo.source.writers.pop_back();
  CHECK(duo.next(second).error().code == Code::kInternal);

  auto third = duo.template open<std::int64_t>("range", {}, std::int64_t{2}, std::int64_t{1});
  CHECK(duo.next(third).error().message.find("no such range") != std::string::npos);
}

TEST_CASE_TEMPLATE("streams: nothing in time is no end", Kind, TROUPE_ENDPOINT_TRANSPORTS) {
  StreamDuo<Kind> duo;
  auto reader = duo.template open<std::int64_t>("open", {});
  CHECK(duo.next(reader, 10ms).error().code == Code::kDeadlineExceeded);
  CHECK(reader.next(5ms).error().code == Code::kDeadlineExceeded);
  REQUIRE(duo.until([&] { return duo.source.writers.size() == 1; }));
  CHECK(duo.source.writers[0].write(3).ok());
  CHECK(*duo.next(reader).value() == 3);
  auto waiting = reader.next_async(10s);
  CHECK(reader.next_async(10s).get().error().code == Code::kFailedPrecondition);
  CHECK(duo.source.writers[0].write(4).ok());
  REQUIRE(duo.until([&] { return waiting.ready(); }));
  CHECK(*waiting.get().value() == 4);
}

TEST_CASE_TEMPLATE("streams: a stream and a plain method are not each other", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  StreamDuo<Kind> duo;
  auto plain = duo.template open<std::int64_t>("plain", {}, std::int64_t{1});
  CHECK(duo.next(plain).error().code == Code::kInvalidArgument);
  auto wrong = duo.template open<std::string>("open", {});
  const auto refused = duo.next(wrong);
  CHECK(refused.error().code == Code::kInvalidArgument);
  CHECK(refused.error().message.find("() -> stream of int64") != std::string::npos);
  CHECK(duo.template call<std::int64_t>("open").error().code == Code::kInvalidArgument);
  Answer& untyped = duo.answer();
  start_call(*duo.a.endpoint, {duo.ab, 1}, "open", 1s, untyped);
  REQUIRE(duo.until([&] { return untyped.count == 1; }));
  CHECK(untyped.code() == Code::kInvalidArgument);
}

TEST_CASE_TEMPLATE("streams: the end of a session ends both ends", Kind, TROUPE_ENDPOINT_TRANSPORTS) {
  StreamDuo<Kind> duo;
  auto reader = duo.template open<std::int64_t>("open", {});
  REQUIRE(duo.until([&] { return duo.source.writers.size() == 1; }));
  auto& writer = duo.source.writers[0];
  REQUIRE(writer.write(1).ok());
  REQUIRE(writer.write(2).ok());
  CHECK(*duo.next(reader).value() == 1);
  duo.settle();
  SUBCASE("the writer's node goes") {
    duo.b.endpoint->shut_down();
    REQUIRE(duo.until([&] { return duo.a.closed.size() == 1; }));
    CHECK(*duo.next(reader).value() == 2);  // it had come
    CHECK(duo.next(reader).error().code == Code::kUnavailable);
    CHECK(writer.write(3).error().code == Code::kCancelled);
  }
  SUBCASE("the reader's node goes") {
    duo.a.endpoint->shut_down();
    REQUIRE(duo.until([&] { return duo.b.closed.size() == 1; }));
    CHECK(writer.write(3).error().code == Code::kUnavailable);
    CHECK(*reader.next(1s).value() == 2);
    CHECK(reader.next(1s).error().code == Code::kCancelled);
  }
}

TEST_CASE_TEMPLATE("streams: metadata go with it, and those that an outer call passes on", Kind,
                   TROUPE_ENDPOINT_TRANSPORTS) {
  StreamDuo<Kind> duo;
  auto reader = duo.template open<std::string>(
      "whose", {.items = 2, .metadata = {{"tenant", "a", kPassOn}, {"try", "2"}}});
  CHECK(duo.next(reader).value() == "tenant=a+ try=2 ");
  const auto nested = duo.template call_with<std::string>(
      {.metadata = {{"tenant", "b", kPassOn}, {"request", "7"}}}, "outer");
  REQUIRE(nested.ok());
  CHECK(*nested == "try=3 tenant=b+ ");
}

TEST_CASE("streams: on one node") {
  StreamDuo<contract::Sim> duo;
  auto reader = open_stream<std::int64_t>(*duo.b.endpoint, {kLocal, 1}, "range", "range", {.items = 3},
                                          std::int64_t{0}, std::int64_t{100});
  for (std::int64_t i = 0; i < 100; ++i) REQUIRE(*reader.next(1s).value() == i);
  CHECK_FALSE(reader.next(1s).value().has_value());
  auto cancelled = open_stream<std::int64_t>(*duo.b.endpoint, {kLocal, 1}, "open", "open", {});
  cancelled.cancel();
  CHECK(duo.source.writers.back().ended());
}

TEST_CASE("streams: a peer that dies ends them") {
  StreamDuo<contract::Sim> duo;
  auto reader = duo.open<std::int64_t>("open", {});
  REQUIRE(duo.until([&] { return duo.source.writers.size() == 1; }));
  REQUIRE(duo.source.writers[0].write(1).ok());
  duo.settle(1ms);
  duo.world.world.kill("b");
  CHECK(*duo.next(reader).value() == 1);
  CHECK(duo.next(reader).error().code == Code::kUnavailable);
}

TEST_CASE_TEMPLATE("streams: what a method looks at stays while it runs, though its stream ends meanwhile",
                   Kind, TROUPE_ENDPOINT_TRANSPORTS) {
  const std::string text(200, 'a');
  for (const bool by_reader : {true, false}) {
    CAPTURE(by_reader);
    StreamDuo<Kind> duo;
    std::optional<StreamReader<std::int64_t>> reader;
    duo.source.meanwhile = [&] {
      if (by_reader)
        reader->cancel();
      else
        duo.source.writers[0].end();
      REQUIRE(duo.until([&] { return duo.source.writers[0].ended(); }));
      // Memory that is free would be used again by these.
      for (int i = 0; i < 20; ++i)
        CHECK(duo.template call<std::int64_t>("length", std::string(text.size(), 'b')).ok());
    };
    reader.emplace(duo.template open<std::int64_t>("look", {}, text));
    REQUIRE(duo.until([&] { return !duo.source.seen.empty(); }));
    CHECK(duo.source.seen == text);
    CHECK(duo.b.endpoint->inbound_calls() == 0);
    const auto last = duo.next(*reader);
    CHECK(
        (by_reader ? !last.ok() && last.error().code == Code::kCancelled : last.ok() && !last->has_value()));
  }
}

TEST_CASE("streams: items that nobody knows are not answered without end if their sender does not read") {
  contract::Shm world;
  Side a, b;
  std::uint64_t forged = 0;  // all that b sends goes under this id, once it is set
  int cancels = 0;
  auto options = options_of(1, "alice");
  options.limits.max_answer_bytes = 1 << 16;
  a.endpoint = std::make_unique<Endpoint>(
      world.a, std::make_unique<Forger>(world.make(world.a, "a"), [&](OutFrame&) { ++cancels; }), options, a);
  b.endpoint = std::make_unique<Endpoint>(world.b,
                                          std::make_unique<Forger>(world.make(world.b, "b"),
                                                                   [&](OutFrame& frame) {
                                                                     if (forged != 0)
                                                                       patch_call_id(frame.head, forged);
                                                                   }),
                                          options_of(2, "bob"), b);
  Methods<Source> methods;
  Source::methods(methods);
  Source source;
  b.handler = [&, table = methods.table()](InboundCallPtr call) { table->invoke(&source, std::move(call)); };
  const SessionId to_b = a.endpoint->connect(b.endpoint->listen(contract::Shm::kAnyPort).value()).value();
  REQUIRE(world.run_until([&] { return a.endpoint->ready(to_b) && b.sessions.size() == 1; }, 10s));
  auto reader = open_stream<std::int64_t>(*a.endpoint, {to_b, 1}, "open", "open",
                                          {.items = 1 << 20, .bytes = std::uint64_t{1} << 40});
  REQUIRE(world.run_until([&] { return source.writers.size() == 1; }, 10s));
  cancels = 0;
  forged = 4711;
  constexpr int kItems = 200'000;
  for (int i = 0; i < kItems; ++i) {
    REQUIRE(source.writers[0].write(i).ok());
    if (i % 64 == 0) world.a.poll();
  }
  for (int idle = 0; idle < 100;) idle = world.a.poll() == 0 ? idle + 1 : 0;
  CHECK(a.endpoint->stats().replies_late == kItems);
  CHECK(cancels > 0);
  CHECK(cancels < kItems / 4);  // a ring full, and a little
  source.writers.clear();
}

TEST_CASE("streams: repeated and reordered messages change nothing") {
  StreamDuo<contract::Sim> duo(SimOptions{.seed = test::test_seed()});
  duo.world.world.options().duplication = 0.3;
  duo.world.world.options().reordering = 0.3;
  auto reader = duo.open<std::int64_t>("range", {.items = 16}, std::int64_t{0}, std::int64_t{2000});
  for (std::int64_t i = 0; i < 2000; ++i) REQUIRE(*duo.next(reader).value() == i);
  CHECK_FALSE(duo.next(reader).value().has_value());
}

TEST_CASE("streams: lost items leave a reader its deadline, not a hole") {
  StreamDuo<contract::Sim> duo(SimOptions{.seed = test::test_seed()});
  duo.source.writers.clear();
  auto reader = duo.open<std::int64_t>("open", {.items = 1000});
  REQUIRE(duo.until([&] { return duo.source.writers.size() == 1; }));
  duo.world.world.options().loss = 0.05;
  for (std::int64_t i = 0; i < 500; ++i) REQUIRE(duo.source.writers[0].write(i).ok());
  duo.source.writers[0].end();
  duo.settle(1s);
  std::int64_t expected = 0;
  auto item = duo.next(reader, 1s);
  for (; item && *item; item = duo.next(reader, 1s)) REQUIRE(**item == expected++);
  CHECK(expected < 500);
  CHECK(item.error().code == Code::kDeadlineExceeded);
  reader.cancel();
}

TEST_CASE(
    "streams: a second request under the first one's call id leaves nothing behind, whatever its token") {
  contract::Shm world;
  Side a, b;
  std::uint64_t forged = 0;  // all that a calls goes under this id, once it is set
  const auto meddle = [&](OutFrame& frame) {
    if (forged != 0) patch_call_id(frame.head, forged);
  };
  a.endpoint = std::make_unique<Endpoint>(world.a, std::make_unique<Forger>(world.make(world.a, "a"), meddle),
                                          options_of(1, "alice"), a);
  b.endpoint = std::make_unique<Endpoint>(world.b, world.make(world.b, "b"), options_of(2, "bob"), b);
  Methods<Source> methods;
  Source::methods(methods);
  Source source;
  int begun = 0;
  b.handler = [&, table = methods.table()](InboundCallPtr call) {
    ++begun;
    table->invoke(&source, std::move(call));
  };
  const SessionId to_b = a.endpoint->connect(b.endpoint->listen(contract::Shm::kAnyPort).value()).value();
  REQUIRE(world.run_until([&] { return a.endpoint->ready(to_b) && b.sessions.size() == 1; }, 10s));

  std::vector<Answer> answers(4);
  const MethodId method{fnv1a("open"), signature_fingerprint<Stream<std::int64_t>>()};
  const auto open = [&](std::uint64_t token, Answer& answer) {
    return a.endpoint->call(
        {to_b, 1}, method, {.timeout = 10s, .token = token},
        [](OutMessage& out) {
          out.values(2);
          out.value(0).unsigned_integer(64, DType::kUInt64);
          out.value(1).unsigned_integer(1 << 20, DType::kUInt64);
        },
        answer);
  };
  forged = open(71, answers[0]);
  REQUIRE(world.run_until([&] { return begun == 1; }, 10s));
  open(72, answers[1]);
  REQUIRE(world.run_until([&] { return begun == 2; }, 10s));
  CHECK(source.writers.size() == 1);
  // A repeat, and a cancellation of what the second one was: both look for the call that has gone.
  open(72, answers[2]);
  REQUIRE(world.run_until([&] { return begun == 3; }, 10s));
  open(71, answers[3]);
  a.endpoint->cancel(forged);
  REQUIRE(world.run_until([&] { return source.writers[0].ended(); }, 10s));
  source.writers.clear();
  a.endpoint->shut_down();
  REQUIRE(world.run_until([&] { return b.closed.size() == 1; }, 10s));
}

}  // namespace troupe::rpc::testing
