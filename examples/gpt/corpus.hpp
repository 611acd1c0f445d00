#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <troupe/runtime/result.hpp>

#include "gpt/pass.hpp"
#include "gpt/tokenizer.hpp"

namespace troupe::gpt {

/// WordNet's definitions, a line each: "jackal: Old World nocturnal canine mammal ...", in an order that
/// follows from the seed. From its files data.noun, data.verb, data.adj and data.adv. kNotFound,
/// kInvalidArgument.
Result<std::string> read_glosses(const std::filesystem::path& folder, std::uint64_t seed);

/// A text in tokens: its last part is for validation, the rest for training.
class Corpus {
 public:
  /// kInvalidArgument: a part has not as many as `block` + 1 tokens.
  static Result<Corpus> make(std::vector<std::int32_t> tokens, std::int64_t block, double validation);

  /// Texts number first ... first + count - 1 of a step of training: where they begin follows from seed, step
  /// and number alone, so that any member can make its own.
  Batch training_batch(std::uint64_t seed, std::uint64_t step, std::int64_t first, std::int64_t count) const;
  /// Likewise of validation, evenly from all of its part.
  Batch validation_batch(std::int64_t first, std::int64_t count, std::int64_t all) const;

  std::size_t training_tokens() const { return training_; }
  std::size_t validation_tokens() const { return tokens_.size() - training_; }

 private:
  void add(Batch& batch, std::size_t at) const;

  std::vector<std::int32_t> tokens_;
  std::size_t training_ = 0;
  std::int64_t block_ = 0;
};

}  // namespace troupe::gpt
