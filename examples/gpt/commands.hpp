#pragma once

#include <string>

#include <troupe/runtime/result.hpp>

#include "gpt/sampler.hpp"
#include "gpt/settings.hpp"
#include "gpt/train.hpp"

namespace troupe::gpt {

/// `gpt train`: to standard output what it does, to settings.out a model, a checkpoint and a report.
Result<void> run_train(Settings settings, Stop& stop);

struct SampleCommand {
  std::string model = "out/gpt";
  std::string device = "cpu";
  std::string prompt = "\n";
  SampleOptions options;
};
Result<void> run_sample(const SampleCommand& command);

/// `gpt export` and `gpt import`: reads a model with its tokenizer, if it has one, and writes both.
struct CopyCommand {
  std::string from;
  std::string to;
  kernels::Element element = kernels::Element::kFloat32;
};
Result<void> run_copy(const CopyCommand& command);

/// `gpt bench`: steps on random tokens for some seconds; a line of JSON, and how long each kernel took.
Result<void> run_bench(Settings settings, double seconds, bool profile);

}  // namespace troupe::gpt
