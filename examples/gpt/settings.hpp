#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include <troupe/kernels/place.hpp>
#include <troupe/runtime/result.hpp>

#include "gpt/model_shape.hpp"

namespace troupe::gpt {

/// What a run of training is asked to do.
struct Settings {
  ModelShape shape{.vocabulary = 0, .block = 64, .layers = 4, .heads = 4, .width = 128};
  std::string text;                            ///< a file; empty: WordNet's definitions
  std::string wordnet = "/usr/share/wordnet";  ///< the folder of its files
  std::string tokens = "characters";  ///< "bytes", "characters", or a folder with vocab.json, merges.txt
  double validation = 0.1;            ///< the share of the text for validation
  std::string device = "cpu";
  kernels::Element element = kernels::Element::kFloat32;
  int threads = 0;  ///< on the host, with one member; 0: as many as cores
  int members = 1;  ///< of the group that trains together
  int zero = -1;    ///< the stage; below 0: without a group
  std::uint64_t steps = 4000;
  std::int64_t batch = 16;  ///< texts a step, all members together
  double rate = 2e-3;       ///< the largest learning rate
  double least_rate = 2e-4;
  std::uint64_t warmup = 100;
  double weight_decay = 0.1;
  double beta1 = 0.9;
  double beta2 = 0.99;
  double max_norm = 1;
  double dropout = 0;
  std::uint64_t seed = 1;
  std::uint64_t evaluate_every = 500;
  std::int64_t evaluation_texts = 256;
  std::uint64_t save_every = 0;  ///< 0: at the end
  std::filesystem::path out = "out/gpt";
  bool resume = false;
  bool keep_best = false;  ///< the model of the best evaluation, beside the last one
  std::string prompt = "\n";
  std::int64_t sample_tokens = 400;

  /// kInvalidArgument naming the flag and what would do.
  Result<void> validate() const;
  /// After `step` others: rising from 0 for `warmup` steps, then as a cosine down to the least (Loshchilov
  /// and Hutter 2017).
  float rate_at(std::uint64_t step) const;
  /// Of step `step`, for dropout.
  std::uint32_t dropout_seed(std::uint64_t step, int member) const;
  int thread_count() const;
};

}  // namespace troupe::gpt
