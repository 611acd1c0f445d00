// Checkpoints of one group are gone on from by another one.
#include <filesystem>
#include <fstream>

#include <troupe/runtime/files.hpp>
#include <troupe/shards/snapshot.hpp>

#include "model.hpp"
#include "support/temporary_folder.hpp"

namespace troupe::training {
namespace {

using namespace test;
namespace fs = std::filesystem;

constexpr std::int64_t kRows = 24;

ZeroOptions options_of(int stage) {
  ZeroOptions options;
  options.stage = static_cast<ZeroStage>(stage);
  options.bucket = 40;
  return options;
}

}  // namespace

TEST_CASE("a checkpoint is gone on from in other stages, by other numbers of members") {
  const troupe::test::TemporaryFolder temp;
  const fs::path folder = temp.path() / "checkpoint";
  const Model model;
  Alone one(model);
  std::vector<double> expected;
  for (std::uint64_t step = 0; step < 12; ++step)
    expected.push_back(one.step(batch_of(model, step, 0, kRows)));
  const std::vector<double> after(expected.begin() + 5, expected.end());

  struct Group {
    int members;
    int stage;
  };
  for (const Group from : {Group{3, 2}, Group{2, 3}, Group{1, 0}, Group{2, 0}, Group{4, 1}}) {
    CAPTURE(from.members);
    CAPTURE(from.stage);
    in_group(from.members, [&](shards::Communicator& group) {
      const auto zero = member_of(model, group, options_of(from.stage));
      train(model, *zero, group, 0, 5, kRows);
      zero->save(folder).value();
      // Going on after it changes nothing.
      return difference(train(model, *zero, group, 5, 7, kRows), after, 1e-5);
    });
    for (const Group to : {Group{2, 3}, Group{1, 0}, Group{3, 1}}) {
      CAPTURE(to.members);
      CAPTURE(to.stage);
      in_group(to.members, [&](shards::Communicator& group) -> std::string {
        ZeroOptions options = options_of(to.stage);
        options.bucket = 1000;
        options.keep_below = 4;
        const auto zero = member_of(model, group, options);
        zero->restore(folder).value();
        if (zero->steps() != 5) return "not five steps";
        return difference(train(model, *zero, group, 5, 7, kRows), after, 1e-5);
      });
    }
  }
}

TEST_CASE("float32 weights and the loss scale of 16 bits are in the checkpoint") {
  const troupe::test::TemporaryFolder temp;
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    const fs::path folder = temp.path() / std::string(to_string(dtype));
    ZeroOptions options = options_of(2);
    options.dtype = dtype;
    options.loss_scaling.first = 64;
    options.loss_scaling.window = 2;
    std::vector<double> after;
    in_group(2, [&](shards::Communicator& group) -> std::string {
      const auto zero = member_of({}, group, options);
      train({}, *zero, group, 0, 3, kRows);
      zero->save(folder).value();
      const std::vector<double> losses = train({}, *zero, group, 3, 4, kRows);
      if (group.rank() == 0) after = losses;
      return "";
    });
    in_group(2, [&](shards::Communicator& group) -> std::string {
      options.stage = ZeroStage::kParameters;
      const auto zero = member_of({}, group, options);
      zero->restore(folder).value();
      if (zero->loss_scale() != (dtype == DType::kFloat16 ? 128 : 1)) return "another loss scale";
      // To the bit: the sums are the same ones.
      return difference(train({}, *zero, group, 3, 4, kRows), after, 0);
    });
  }
}

TEST_CASE("a checkpoint that does not fit, or is damaged, is refused at each member") {
  const troupe::test::TemporaryFolder temp;
  const fs::path folder = temp.path() / "checkpoint";
  in_group(2, [&](shards::Communicator& group) -> std::string {
    const auto zero = member_of({}, group, options_of(1));
    if (zero->restore(folder).error().code != Code::kNotFound) return "found";
    if (!zero->whole()) return "what was not found has changed something";
    train({}, *zero, group, 0, 1, kRows);
    zero->save(folder).value();

    ZeroOptions other = options_of(1);
    other.optimizer = shards::Sgd{};
    const auto sgd = member_of({}, group, other);
    if (sgd->restore(folder).error().code != Code::kFailedPrecondition) return "another optimizer";
    const auto wider = member_of({{7, 13, 6, 3}}, group, options_of(1));
    if (wider->restore(folder).error().code != Code::kFailedPrecondition) return "other parameters";
    if (!wider->whole() || !sgd->whole()) return "what does not fit has changed something";
    pass({}, *zero, batch_of({}, 0, 0, 4));
    if (zero->save(folder).error().code != Code::kFailedPrecondition) return "in the middle of a step";
    group.barrier().wait().value();
    return "";
  });

  // A byte of each place, and a file that is gone.
  const fs::path file = folder / "zero.1.safetensors";
  const std::string good = read_file(file.string()).value();
  std::vector<std::size_t> places;
  for (std::size_t at = 0; at < good.size(); at += 97) places.push_back(at);
  in_group(2, [&](shards::Communicator& group) -> std::string {
    const auto zero = member_of({}, group, options_of(1));
    for (const std::size_t place : places) {
      if (group.rank() == 0) {
        std::string bad = good;
        bad[place] = static_cast<char>(bad[place] ^ 0x11);
        std::ofstream(file, std::ios::binary) << bad;
      }
      group.barrier().wait().value();
      const Result<void> restored = zero->restore(folder);
      if (restored || restored.error().code != Code::kDataLoss) return "taken at " + std::to_string(place);
      if (zero->whole() || zero->parameter(0)) return "parameters of it are shown";
      group.barrier().wait().value();
    }
    if (group.rank() == 0) std::ofstream(file, std::ios::binary) << good;
    group.barrier().wait().value();
    zero->restore(folder).value();
    if (!zero->whole() || !zero->parameter(0)) return "the good one was not taken";
    group.barrier().wait().value();
    if (group.rank() == 0) fs::remove(file);
    group.barrier().wait().value();
    return zero->restore(folder).error().code == Code::kNotFound ? "" : "a file is missing";
  });
}

}  // namespace troupe::training
