// A stream of weights from one trainer to four readers, each a process: how fast a version of 1 GiB is
// everybody's, beside one bare copy of it in the trainer's process; and what readers and publishing cost the
// trainer's steps.
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <troupe/training/weight_stream.hpp>

#include "harness.hpp"

using namespace troupe;
using namespace troupe::bench;
using namespace troupe::training;
using namespace std::chrono_literals;

namespace {

constexpr std::int64_t kFloats = std::int64_t{1} << 28;  // 1 GiB
constexpr double kBytes = static_cast<double>(kFloats) * sizeof(float);
constexpr int kReaders = 4;
constexpr auto kPatience = 60s;

std::vector<WeightSpec> specs() {
  return {{"weights", DType::kFloat32, Shape{kFloats}}};
}

/// Takes versions and says the number of each to its parent, having read a number of every page's.
void read_versions(int fd, const std::string& address, int index, bool far) {
  auto node = Node::start({.name = "reader-" + std::to_string(index), .registry = address}).value();
  auto reader = WeightReader::on(*node, "bench", {.place = far ? "far" : ""}).value();
  std::shared_ptr<const Weights> last;
  say(fd, "ready");
  for (;;) {
    auto next = reader->wait_for_next(last, kPatience);
    if (!next) return;
    last = *next;
    const auto weights = last->tensor(0).as<const float>();
    const auto number = static_cast<float>(last->version());
    say(fd,
        weights.front() == number && weights.back() == number ? std::to_string(last->version()) : "mixed");
  }
}

class Stream {
 public:
  Stream(const std::vector<std::unique_ptr<Child>>& readers, const std::string& address, int to)
      : readers_(readers), node_(Node::start({.name = "trainer", .registry = address}).value()) {
    publisher_ = WeightPublisher::on(*node_, "bench", specs()).value();
    for (int i = 0; i < to; ++i) readers_[static_cast<std::size_t>(i)]->line();
  }
  /// Seconds until all have it; of which `publishing`.
  double publish(const Tensor& weights) {
    weights.as<float>().front() = weights.as<float>().back() = static_cast<float>(++version_);
    const auto begin = SteadyClock::now();
    const std::uint64_t number = publisher_->publish(std::vector<Tensor>{weights}).value();
    for (const auto& reader : readers_)
      while (reader->line() != std::to_string(number)) {
      }
    return seconds_since(begin);
  }
  double publish_draft(float* written) {
    WeightDraft draft = publisher_->draft().value();
    const auto weights = draft.tensor(0).as<float>();
    weights.front() = weights.back() = static_cast<float>(++version_);
    *written = weights.front();
    const auto begin = SteadyClock::now();
    const std::uint64_t number = publisher_->publish(std::move(draft)).value();
    for (const auto& reader : readers_)
      while (reader->line() != std::to_string(number)) {
      }
    return seconds_since(begin);
  }

 private:
  const std::vector<std::unique_ptr<Child>>& readers_;
  std::unique_ptr<Node> node_;
  std::unique_ptr<WeightPublisher> publisher_;
  std::uint64_t version_ = 0;
};

double copy_rate(const Tensor& weights) {
  const Tensor to = Tensor::empty(weights.dtype(), weights.shape());
  std::vector<double> seconds;
  for (int i = 0; i <= kRepetitions; ++i) {
    const auto begin = SteadyClock::now();
    std::memcpy(to.data(), weights.data(), weights.bytes());
    if (i > 0) seconds.push_back(seconds_since(begin));
  }
  return kBytes / 1e9 / median(seconds);
}

/// Steps of a few milliseconds each, on memory that stays in the cache.
double steps_per_second(const std::function<void()>& meanwhile) {
  std::atomic<bool> done{false};
  std::thread beside([&] {
    while (!done) meanwhile();
  });
  std::vector<float> values(4096, 1.0F);
  int steps = 0;
  const auto begin = SteadyClock::now();
  for (; seconds_since(begin) < 6; ++steps)
    for (int round = 0; round < 8000; ++round)
      for (float& value : values) value = value * 0.999F + 0.001F;
  const double rate = steps / seconds_since(begin);
  done = true;
  beside.join();
  if (values.front() < 0) std::abort();
  return rate;
}

void measure(bool far) {
  const std::string where = far ? "other_place" : "one_machine";
  // Children first, then threads: the registry is one, too.
  std::string address;
  const Child registry([](int fd) {
    auto node = Node::start({.name = "registry"}).value();
    say(fd, node->address());
    (void)node->run();
  });
  address = registry.line();
  std::vector<std::unique_ptr<Child>> readers;
  for (int i = 0; i < kReaders; ++i)
    readers.push_back(std::make_unique<Child>([&, i](int fd) { read_versions(fd, address, i, far); }));
  const Child trainer([&](int) {
    Stream stream(readers, address, kReaders);
    const Tensor weights = Tensor::empty(DType::kFloat32, Shape{kFloats});
    std::memset(weights.data(), 0, weights.bytes());
    std::vector<double> seconds;
    for (int i = 0; i < kRepetitions + 3; ++i) {
      const double took = stream.publish(weights);
      if (i >= 3) seconds.push_back(took);
    }
    const double copy = copy_rate(weights);
    print_json("weights_1GiB_4_readers_" + where, kBytes / 1e9 / median(seconds), "GB/s",
               "memcpy_1GiB in the trainer's process", copy);
    if (far) return;
    float written = 0;
    std::vector<double> drafts;
    for (int i = 0; i < kRepetitions; ++i) drafts.push_back(stream.publish_draft(&written));
    print_json("weights_1GiB_4_readers_draft_until_all_have_it", median(drafts) * 1e6, "us");
    const double alone = steps_per_second([] { std::this_thread::sleep_for(10ms); });
    const double beside = steps_per_second([&] {
      stream.publish(weights);
      std::this_thread::sleep_for(500ms);
    });
    print_json("weights_1GiB_4_readers_trainer_steps", beside, "steps/s", "the same steps, nothing published",
               alone);
  });
  trainer.line(std::chrono::seconds(300));
}

}  // namespace

int main() {
  measure(false);
  measure(true);
  return 0;
}
