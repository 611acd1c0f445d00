#include <utility>

#include <troupe/training/weight_stream.hpp>

#include "reader_core.hpp"

namespace troupe::training {

Result<std::unique_ptr<WeightReader>> WeightReader::on(Node& node, const std::string& stream,
                                                       WeightReaderOptions options) {
  if (stream.empty() || options.part_timeout <= Duration::zero() ||
      options.silence_limit <= Duration::zero() || options.place.size() > WeightLayout::kLongestName)
    return Error{
        Code::kInvalidArgument,
        "a reader of weights needs a stream's name, a place of 1,024 bytes at most, and times above zero"};
  std::shared_ptr<Core> core;
  Result<void> started;
  {
    const Loop::Turn turn(node.loop());
    core = std::make_shared<Core>(node, stream, std::move(options));
    started = core->start();
  }
  if (!started) return std::move(started).error();
  return std::unique_ptr<WeightReader>(new WeightReader(std::move(core)));
}

WeightReader::~WeightReader() {
  Node& node = core_->node();
  const std::string actor = core_->actor();
  {
    const Loop::Turn turn(node.loop());
    core_->close();
    core_.reset();
  }
  static_cast<void>(node.kill(actor));
}

std::shared_ptr<const Weights> WeightReader::newest() const {
  return core_->newest();
}

Result<std::shared_ptr<const Weights>> WeightReader::wait_for_next(const std::shared_ptr<const Weights>& last,
                                                                   Duration timeout) {
  Loop& loop = core_->node().loop();
  std::shared_ptr<const Weights> next;
  const auto is_there = [&] { return (next = core_->newest()) != last; };
  if (is_there() || loop.wait_until(is_there, loop.clock().now() + timeout)) return next;
  const Stats stats = core_->stats();
  return Error{Code::kDeadlineExceeded,
               stats.parent.empty() ? "no new weights in time: " + stats.trouble
                                    : "no new weights in time: '" + stats.parent + "' has told of none"};
}

Result<std::shared_ptr<const Weights>> WeightReader::refresh(Duration timeout) {
  rpc::Future<std::shared_ptr<const Weights>> future;
  if (core_->node().loop().in_turn())
    return Error{Code::kFailedPrecondition, "a refresh of weights waits, and is not for the loop's thread"};
  {
    const Loop::Turn turn(core_->node().loop());
    future = core_->refresh(core_->node().loop().clock().now() + timeout);
  }
  return future.get();
}

WeightReader::Stats WeightReader::stats() const {
  return core_->stats();
}

}  // namespace troupe::training
