// Streams in clusters of threads, over shared memory, TCP and in virtual time.
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>
#include <actors/cluster.hpp>

#include <troupe/runtime/shared_pool.hpp>

#include "stream.hpp"

using namespace troupe;
using namespace troupe::test;
using namespace std::chrono_literals;

namespace {

std::unique_ptr<WeightPublisher> publisher_on(Node& node, std::vector<WeightSpec> specs,
                                              WeightPublisherOptions options = {}) {
  auto made = WeightPublisher::on(node, "policy", std::move(specs), std::move(options));
  REQUIRE_MESSAGE(made.ok(), text_of(made));
  return std::move(*made);
}

std::unique_ptr<WeightReader> reader_on(Node& node, WeightReaderOptions options = {}) {
  auto made = WeightReader::on(node, "policy", std::move(options));
  REQUIRE_MESSAGE(made.ok(), text_of(made));
  return std::move(*made);
}

/// The reader's version `number`, once it is there.
std::shared_ptr<const Weights> wait_for(WeightReader& reader, std::uint64_t number) {
  std::shared_ptr<const Weights> last;
  while (!last || last->version() < number) {
    auto next = reader.wait_for_next(last, kPatience);
    REQUIRE_MESSAGE(next.ok(), text_of(next));
    last = *next;
  }
  CHECK(last->version() == number);
  return last;
}

}  // namespace

TEST_CASE_TEMPLATE("weights: readers before and after the publisher have each version whole", C,
                   TROUPE_CLUSTERS) {
  C cluster;
  Node& trainer = cluster.add("trainer");
  Node& early_node = cluster.add("early");
  const auto early = reader_on(early_node);
  CHECK(early->newest() == nullptr);
  const auto specs = weight_specs(300'000);  // worth mapping
  const auto publisher = publisher_on(trainer, specs);
  CHECK(publisher->newest() == nullptr);
  CHECK(publisher->publish(make_weights(specs, 7), {{"step", "100"}}).value() == 1);
  const auto first = wait_for(*early, 1);
  CHECK(fault_of(*first, 7) == "");
  CHECK(first->metadata().at("step") == "100");
  CHECK(first->specs().size() == 4);
  CHECK(first->tensor("scale").value().shape() == Shape{5});
  CHECK(code_of(first->tensor("none")) == Code::kNotFound);
  CHECK_THROWS_AS(first->tensor(4), BadTensor);

  Node& late_node = cluster.add("late");
  const auto late = reader_on(late_node);
  wait_for(*late, 1);
  CHECK(publisher->publish(make_weights(specs, 8)).value() == 2);
  CHECK(fault_of(*wait_for(*early, 2), 8) == "");
  CHECK(fault_of(*wait_for(*late, 2), 8) == "");
  CHECK(fault_of(*first, 7) == "");  // who has kept it still has it
  CHECK(fault_of(*publisher->newest(), 8) == "");
  CHECK(publisher->stats().readers == 2);
  CHECK(publisher->stats().published == 2);
}

TEST_CASE("weights: on one machine nothing is copied, and a draft is not even copied by the publisher") {
  RealCluster cluster;
  Node& trainer = cluster.add("trainer");
  Node& node = cluster.add("reader");
  const auto specs = weight_specs(100'000);
  const auto publisher = publisher_on(trainer, specs);
  const auto reader = reader_on(node);
  auto draft = publisher->draft();
  REQUIRE(draft.ok());
  std::vector<Tensor> tensors;
  for (std::size_t i = 0; i < specs.size(); ++i) tensors.push_back(draft->tensor(i));
  CHECK(draft->tensor("layer.bias").value().shape() == Shape{3});
  fill_weights(tensors, 3, 0);
  const std::byte* const where = tensors[0].data();
  tensors.clear();
  CHECK(publisher->publish(std::move(*draft)).value() == 1);
  CHECK(publisher->newest()->tensor(0).data() == where);
  const auto weights = wait_for(*reader, 1);
  CHECK(fault_of(*weights, 3) == "");
  const auto stats = reader->stats();
  REQUIRE(SharedPool().probe().has_value());
  CHECK(weights->tensor(0).read_only());
  CHECK(stats.bytes_mapped > 400'000);
  CHECK(stats.bytes_received == 0);
  CHECK(publisher->stats().bytes_out == 0);
}

TEST_CASE_TEMPLATE("weights: other places get them through one reader each, in parts", C, TROUPE_CLUSTERS) {
  C cluster;
  Node& trainer = cluster.add("trainer");
  const auto specs = weight_specs(50'000);
  const auto publisher = publisher_on(trainer, specs, {.fan_out = 1, .part_bytes = 16 << 10, .place = "p0"});
  std::vector<std::unique_ptr<WeightReader>> readers;
  for (int i = 0; i < 6; ++i) {
    Node& node = cluster.add("r" + std::to_string(i));
    readers.push_back(reader_on(node, {.place = "p" + std::to_string(1 + i / 2)}));
    // One after the other, so that the first of each place is its head.
    const TimePoint deadline = node.loop().clock().now() + kPatience;
    REQUIRE(node.loop().wait_until([&] { return !readers.back()->stats().parent.empty(); }, deadline));
  }
  CHECK(readers[0]->stats().parent == "policy.weights.trainer");
  CHECK(readers[1]->stats().parent == "policy.weights.r0");
  CHECK(readers[2]->stats().parent == "policy.weights.r0");
  CHECK(readers[4]->stats().parent == "policy.weights.r2");
  for (std::uint64_t version = 1; version <= 3; ++version) {
    REQUIRE(publisher->publish(make_weights(specs, version)).ok());
    for (const auto& reader : readers) CHECK(fault_of(*wait_for(*reader, version), version) == "");
  }
  CHECK(publisher->stats().direct == 1);
  CHECK(publisher->stats().bytes_out < 4 * 200'128);  // once for each version
  CHECK(readers[0]->stats().bytes_received >= 3 * 200'000);
}

TEST_CASE("weights: a reader that asks for changes gets these alone, and the rest from what it has") {
  TcpCluster cluster;
  Node& trainer = cluster.add("trainer");
  Node& node = cluster.add("reader");
  const auto specs = weight_specs(100'000);
  const std::int64_t fixed = 90'000;  // elements that never change
  const auto publisher = publisher_on(
      trainer, specs, {.find_changes = true, .piece_bytes = 4096, .part_bytes = 10'000, .place = "a"});
  const auto reader = reader_on(node, {.only_changes = true, .place = "b"});
  REQUIRE(publisher->publish(make_weights(specs, 1, fixed)).ok());
  CHECK(fault_of(*wait_for(*reader, 1), 1, fixed) == "");
  const auto whole = reader->stats();
  CHECK(whole.bytes_kept == 0);
  REQUIRE(publisher->publish(make_weights(specs, 2, fixed)).ok());
  CHECK(fault_of(*wait_for(*reader, 2), 2, fixed) == "");
  const auto changed = reader->stats();
  CHECK(changed.bytes_kept >= 350'000);
  CHECK(changed.bytes_received - whole.bytes_received <= 50'000);
  // The same again: nothing has changed, and it is a version all the same.
  REQUIRE(publisher->publish(make_weights(specs, 2, fixed)).ok());
  CHECK(fault_of(*wait_for(*reader, 3), 2, fixed) == "");
  CHECK(reader->stats().bytes_received == changed.bytes_received);
}

TEST_CASE_TEMPLATE("weights: refresh() brings the newest that there is, to one that does not follow", C,
                   RealCluster, TcpCluster) {
  C cluster;
  Node& trainer = cluster.add("trainer");
  Node& node = cluster.add("reader");
  const auto specs = weight_specs(1000);
  const auto reader = reader_on(node, {.follow = false, .place = "elsewhere"});
  CHECK(code_of(reader->refresh(200ms)) == Code::kNotFound);
  const auto publisher = publisher_on(trainer, specs);
  REQUIRE(node.wait_for_actor("policy.weights", kPatience).ok());
  CHECK(code_of(reader->refresh(kPatience)) == Code::kNotFound);
  for (std::uint64_t version = 1; version <= 3; ++version) {
    REQUIRE(publisher->publish(make_weights(specs, version)).ok());
    auto fresh = reader->refresh(kPatience);
    REQUIRE_MESSAGE(fresh.ok(), text_of(fresh));
    CHECK((*fresh)->version() == version);
    CHECK(fault_of(**fresh, version) == "");
    CHECK(reader->refresh(kPatience).value() == *fresh);
  }
  CHECK(reader->stats().taken == 3);
  const Loop::Turn turn(node.loop());
  CHECK(code_of(reader->refresh(1s)) == Code::kFailedPrecondition);
}

TEST_CASE_TEMPLATE("weights: refresh() does not fail because a parent has ended, and hears of its deadline",
                   C, RealCluster, TcpCluster) {
  C cluster;
  Node& trainer = cluster.add("trainer");
  const auto specs = weight_specs(1000);
  const auto publisher = publisher_on(trainer, specs, {.place = "p0"});
  auto head = reader_on(cluster.add("head"), {.place = "p1"});
  REQUIRE(publisher->publish(make_weights(specs, 1)).ok());
  wait_for(*head, 1);
  const auto reader = reader_on(cluster.add("reader"), {.follow = false, .place = "p1"});
  REQUIRE(reader->refresh(kPatience).ok());
  CHECK(reader->stats().parent == "policy.weights.head");
  head.reset();
  REQUIRE(publisher->publish(make_weights(specs, 2)).ok());
  auto fresh = reader->refresh(kPatience);
  REQUIRE_MESSAGE(fresh.ok(), text_of(fresh));
  CHECK(fault_of(**fresh, 2) == "");
}

TEST_CASE("weights: what is not the stream's is refused, and the newest version stays") {
  RealCluster cluster;
  Node& trainer = cluster.add("trainer");
  const auto specs = weight_specs(10);
  const auto refused = [&](std::vector<WeightSpec> bad, WeightPublisherOptions options = {}) {
    return code_of(WeightPublisher::on(trainer, "policy", std::move(bad), std::move(options)));
  };
  CHECK(refused({}) == Code::kInvalidArgument);
  CHECK(refused({{"", DType::kFloat32, Shape{1}}}) == Code::kInvalidArgument);
  CHECK(refused({{"a", DType::kFloat32, Shape{0}}}) == Code::kInvalidArgument);
  CHECK(refused({{"a", DType::kFloat32, Shape{1}}, {"a", DType::kFloat32, Shape{1}}}) ==
        Code::kInvalidArgument);
  CHECK(refused({{"a", DType::kFloat32, Shape{1LL << 39}}}) == Code::kInvalidArgument);
  CHECK(refused({{"a", DType::kFloat32, Shape{1LL << 40, 1LL << 40}}}) == Code::kInvalidArgument);
  CHECK(refused(specs, {.max_versions = 1}) == Code::kInvalidArgument);
  CHECK(refused(specs, {.fan_out = 0}) == Code::kInvalidArgument);
  CHECK(refused(specs, {.piece_bytes = 0}) == Code::kInvalidArgument);
  const auto publisher = publisher_on(trainer, specs);
  CHECK(refused(specs) == Code::kAlreadyExists);
  auto tensors = make_weights(specs, 1);
  REQUIRE(publisher->publish(tensors).ok());
  CHECK(code_of(publisher->publish(std::span(tensors).first(2))) == Code::kInvalidArgument);
  tensors[0] = Tensor::empty(DType::kFloat32, Shape{11, 1});
  CHECK(code_of(publisher->publish(tensors)) == Code::kInvalidArgument);
  tensors[0] = Tensor::empty(DType::kFloat64, Shape{10, 1});
  CHECK(code_of(publisher->publish(tensors)) == Code::kInvalidArgument);
  tensors[0] = Tensor(DType::kFloat32, Shape{10, 1}, Shape{2, 1}, Buffer::allocate(80), 0);
  CHECK(code_of(publisher->publish(tensors)) == Code::kInvalidArgument);
  CHECK(publisher->newest()->version() == 1);
  {
    auto held = publisher->draft();
    REQUIRE(held.ok());
    const Tensor tensor = held->tensor(0);
    CHECK(code_of(publisher->publish(std::move(*held))) == Code::kFailedPrecondition);
  }
  auto draft = publisher->draft();
  REQUIRE(draft.ok());
  WeightDraft moved = std::move(*draft);
  CHECK(code_of(publisher->publish(std::move(*draft))) == Code::kInvalidArgument);
  CHECK(publisher->publish(std::move(moved)).ok());
  CHECK(code_of(WeightReader::on(trainer, "policy")) == Code::kAlreadyExists);
  CHECK(code_of(WeightReader::on(trainer, "")) == Code::kInvalidArgument);
  CHECK(code_of(WeightReader::on(trainer, "other", {.part_timeout = 0s})) == Code::kInvalidArgument);
}

TEST_CASE("weights: while old versions are kept nothing is published beyond the bound, and nothing is lost") {
  RealCluster cluster;
  Node& trainer = cluster.add("trainer");
  const auto specs = weight_specs(100);
  const auto publisher = publisher_on(trainer, specs, {.max_versions = 3});
  std::vector<std::shared_ptr<const Weights>> kept;
  for (std::uint64_t version = 1; version <= 3; ++version) {
    REQUIRE(publisher->publish(make_weights(specs, version)).ok());
    kept.push_back(publisher->newest());
  }
  CHECK(publisher->stats().versions == 3);
  const auto full = publisher->publish(make_weights(specs, 4));
  CHECK(code_of(full) == Code::kResourceExhausted);
  CHECK(contains(text_of(full), "max_versions"));
  CHECK(publisher->newest()->version() == 3);
  kept.erase(kept.begin());
  CHECK(publisher->publish(make_weights(specs, 4)).value() == 4);
  kept.clear();
  {
    const auto draft = publisher->draft();
    const auto second = publisher->draft();
    REQUIRE(draft.ok());
    REQUIRE(second.ok());
    CHECK(code_of(publisher->draft()) == Code::kResourceExhausted);
  }
  CHECK(publisher->draft().ok());
}

TEST_CASE("weights: a version that another process's reader has mapped counts until that lets go of it") {
  RealCluster cluster;
  Node& trainer = cluster.add("trainer");
  const auto specs = weight_specs(100'000);
  const auto publisher = publisher_on(trainer, specs, {.max_versions = 3});
  const auto reader = reader_on(cluster.add("reader"));
  std::vector<std::shared_ptr<const Weights>> kept;
  for (std::uint64_t version = 1; version <= 3; ++version) {
    REQUIRE(publisher->publish(make_weights(specs, version)).ok());
    kept.push_back(wait_for(*reader, version));
  }
  CHECK(code_of(publisher->publish(make_weights(specs, 4))) == Code::kResourceExhausted);
  for (std::uint64_t version = 1; version <= 3; ++version) CHECK(fault_of(*kept[version - 1], version) == "");
  kept.clear();
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!publisher->publish(make_weights(specs, 4)).ok()) {
    REQUIRE(std::chrono::steady_clock::now() < deadline);
    std::this_thread::yield();
  }
  CHECK(fault_of(*wait_for(*reader, 4), 4) == "");
}

TEST_CASE_TEMPLATE("weights: readers outlive their parents and their publisher, and follow the next one", C,
                   TROUPE_CLUSTERS) {
  C cluster;
  cluster.add("registry");
  const auto specs = weight_specs(2000);
  const WeightPublisherOptions options{.fan_out = 1, .part_bytes = 1000, .place = "p0"};
  auto publisher = publisher_on(cluster.add("trainer"), specs, options);
  auto a = reader_on(cluster.add("a"), {.place = "p1"});
  Node& b_node = cluster.add("b");
  REQUIRE(publisher->publish(make_weights(specs, 1)).ok());
  wait_for(*a, 1);
  auto b = reader_on(b_node, {.place = "p2"});
  wait_for(*b, 1);
  CHECK(b->stats().parent == "policy.weights.a");
  a.reset();
  cluster.end("a");
  REQUIRE(publisher->publish(make_weights(specs, 2)).ok());
  CHECK(fault_of(*wait_for(*b, 2), 2) == "");
  CHECK(b->stats().parent == "policy.weights.trainer");
  const auto old = b->newest();
  publisher.reset();
  cluster.end("trainer");
  const auto nothing = b->wait_for_next(old, 300ms);
  CHECK(code_of(nothing) == Code::kDeadlineExceeded);
  CHECK(b->newest() == old);
  // Of another shape, too.
  const auto others = weight_specs(777);
  publisher = publisher_on(cluster.add("trainer2"), others, options);
  REQUIRE(publisher->publish(make_weights(others, 9)).ok());
  auto next = b->wait_for_next(old, kPatience);
  REQUIRE_MESSAGE(next.ok(), text_of(next));
  CHECK((*next)->version() == 1);
  CHECK((*next)->generation() != old->generation());
  CHECK((*next)->specs()[0].shape == Shape{777, 1});
  CHECK(fault_of(**next, 9) == "");
  CHECK(fault_of(*old, 2) == "");
}

TEST_CASE(
    "weights: a trainer that publishes without pause, readers that only look: none sees two versions mixed") {
  RealCluster cluster;
  Node& trainer = cluster.add("trainer");
  const auto specs = weight_specs(40'000);
  const auto publisher = publisher_on(trainer, specs, {.max_versions = 8});
  std::vector<std::unique_ptr<WeightReader>> readers;
  for (int i = 0; i < 3; ++i)
    readers.push_back(reader_on(cluster.add("r" + std::to_string(i)), {.place = i == 2 ? "far" : ""}));
  std::atomic<bool> done{false};
  std::atomic<int> looked{0}, faults{0};
  std::vector<std::thread> lookers;
  for (auto& reader : readers)
    lookers.emplace_back([&, last = std::uint64_t{0}]() mutable {
      while (!done) {
        const auto weights = reader->newest();
        if (!weights || weights->version() == last) {
          std::this_thread::yield();
          continue;
        }
        if (weights->version() < last || fault_of(*weights, weights->version()) != "") ++faults;
        last = weights->version();
        ++looked;
      }
    });
  std::uint64_t published = 0;
  for (int i = 0; i < 200; ++i) {
    auto version = publisher->publish(make_weights(specs, published + 1));
    if (version) published = *version;
  }
  for (auto& reader : readers) {
    std::shared_ptr<const Weights> last = reader->newest();
    while (!last || last->version() < published) {
      auto next = reader->wait_for_next(last, kPatience);
      REQUIRE_MESSAGE(next.ok(), text_of(next));
      last = *next;
    }
  }
  done = true;
  for (std::thread& looker : lookers) looker.join();
  CHECK(faults == 0);
  CHECK(looked > 0);
  CHECK(published > 0);
}
