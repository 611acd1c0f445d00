#include "step_times.hpp"

#include <doctest/doctest.h>

namespace troupe::training {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;

rpc::FunctionMetrics calls(const char* function, rpc::CallSide side, std::int64_t duration_s,
                           std::int64_t open_s) {
  rpc::FunctionMetrics made;
  made.function = function;
  made.side = side;
  made.duration_ns = duration_s * kSecond;
  made.open_ns = open_s * kSecond;
  return made;
}

/// A worker that has been there for so long, in which its loop was not driven for `compute_s`.
NodeMetrics worker(const std::string& name, std::int64_t age_s, std::int64_t compute_s) {
  NodeMetrics made;
  made.node = name;
  made.role = "worker";
  made.node_id = 7;
  made.age_ns = age_s * kSecond;
  made.loop.absent_ns = compute_s * kSecond;
  return made;
}

NodeMetrics server(std::int64_t served_s, std::vector<CallerTimes> callers) {
  NodeMetrics made;
  made.node = "ps-0";
  made.role = "server";
  made.functions = {calls("pull", rpc::CallSide::kServer, served_s, served_s)};
  made.tables.resize(1);
  made.tables[0].callers = std::move(callers);
  return made;
}

CallerTimes caller(const char* name, std::uint64_t bound_s, std::uint64_t work_s) {
  return {name, bound_s * kSecond, work_s * kSecond};
}

JobMetrics job(std::vector<NodeMetrics> nodes) {
  JobMetrics all;
  for (NodeMetrics& node : nodes) all.emplace(node.node, node);
  return all;
}

const JobMetrics kBefore = job({worker("worker-0", 5, 1), server(3, {caller("worker-0", 1, 1)})});

/// In a hundred seconds: 50 of compute, 20 in which a call was open, 80 s of calls, which overlap.
JobMetrics after(NodeMetrics server_then) {
  NodeMetrics then = worker("worker-0", 105, 51);
  then.functions = {calls("pull", rpc::CallSide::kClient, 60, 15),
                    calls("push", rpc::CallSide::kClient, 20, 5),
                    calls("next", rpc::CallSide::kClient, 30, 30)};
  return job({std::move(then), std::move(server_then)});
}

TEST_CASE("step times: the parts add up to the worker's time, whatever overlaps") {
  StepTimes times;
  // Of the 33 s more that the server had the calls, they waited 8 at the bound.
  times.add(kBefore, after(server(36, {caller("worker-0", 9, 6)})));
  const TimeShares shares = times.of("worker-0");
  CHECK(shares.sum() == doctest::Approx(100));
  CHECK(shares.compute == doctest::Approx(50));
  CHECK(shares.idle == doctest::Approx(30));
  // 20 s of waiting, in the proportion 8 : 25 : 47 of the 80.
  CHECK(shares.bound == doctest::Approx(2));
  CHECK(shares.shard == doctest::Approx(6.25));
  CHECK(shares.network == doctest::Approx(11.75));
}

TEST_CASE("step times: the servers' time is divided as the work on rows is, the bound is each worker's own") {
  StepTimes times;
  times.add(kBefore, after(server(36, {caller("worker-0", 9, 6), caller("worker-1", 4, 15)})));
  const TimeShares shares = times.of("worker-0");
  // 33 s less 12 at the bound; of the work on rows, 5 of 20.
  CHECK(shares.bound == doctest::Approx(20 * 8.0 / 80));
  CHECK(shares.shard == doctest::Approx(20 * (33 - 12.0) * 5 / 20 / 80));
  CHECK(shares.sum() == doctest::Approx(100));
}

TEST_CASE("step times: phases add up") {
  StepTimes times;
  const JobMetrics then = after(server(36, {caller("worker-0", 9, 6)}));
  times.add(kBefore, then);
  const TimeShares one = times.of("worker-0");
  times.add(kBefore, then);
  CHECK(times.of("worker-0").sum() == doctest::Approx(2 * one.sum()));
  CHECK(times.of("worker-0").shard == doctest::Approx(2 * one.shard));
}

TEST_CASE("step times: who was not there throughout, or without all servers, is not guessed at") {
  const JobMetrics then = after(server(36, {caller("worker-0", 9, 6)}));
  StepTimes times;
  JobMetrics other_life = kBefore;
  other_life.at("worker-0").node_id = 6;
  times.add(other_life, then);
  JobMetrics alone = kBefore;
  alone.erase("ps-0");
  times.add(alone, then);
  times.add(kBefore, alone);
  CHECK(times.of("worker-0").sum() == 0);
  CHECK(times.of("nobody").sum() == 0);
}

TEST_CASE("step times: calls that took as long as their servers had them leave nothing to the network") {
  StepTimes times;
  times.add(kBefore, after(server(103, {caller("worker-0", 1, 6)})));  // 100 s, more than the calls' 80
  const TimeShares shares = times.of("worker-0");
  CHECK(shares.network == 0);
  CHECK(shares.shard == doctest::Approx(20));
  CHECK(shares.sum() == doctest::Approx(100));
}

}  // namespace
}  // namespace troupe::training
