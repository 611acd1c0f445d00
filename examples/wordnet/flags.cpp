#include "wordnet/flags.hpp"

#include <limits>
#include <string>

namespace troupe::wordnet {
namespace {

constexpr double kLargest = std::numeric_limits<float>::max();  // as floats they are kept

CLI::Validator number(const std::string& kind, const std::string& name, bool (*fits)(double)) {
  return {[=](const std::string& text) {
            double value = 0;
            const bool good = CLI::detail::lexical_cast(text, value) && fits(value);
            return good ? std::string() : "'" + text + "' is no number " + kind;
          },
          name};
}

}  // namespace

CLI::Validator zero_or_more() {
  return number("of 0 or more", "NONNEGATIVE", [](double value) { return value >= 0 && value <= kLargest; });
}
CLI::Validator more_than_zero() {
  return number("above 0", "POSITIVE", [](double value) { return value > 0 && value <= kLargest; });
}

void add_dataset_flags(CLI::App& app, DatasetOptions& options) {
  app.add_option("--data", options.folder,
                 "Folder with WordNet's data.* files, or with train.txt, valid.txt and test.txt")
      ->capture_default_str();
  app.add_option("--valid-count", options.valid_count, "WordNet triples held out for validation")
      ->capture_default_str()
      ->check(zero_or_more());
  app.add_option("--test-count", options.test_count, "WordNet triples held out for the test")
      ->capture_default_str()
      ->check(zero_or_more());
  app.add_option("--split-seed", options.split_seed, "Seed of the choice of held-out triples")
      ->capture_default_str()
      ->check(zero_or_more());
  app.add_option_function<std::string>(
         "--symmetric",
         [&options](const std::string& kept) {
           options.symmetric = kept == "one" ? SymmetricKinds::kOneWay : SymmetricKinds::kBothWays;
         },
         "Symmetric kinds of relations: 'both' keeps both directions, 'one' keeps one of them")
      ->check(CLI::IsMember({"both", "one"}))
      ->default_str("both");
}

void add_hyper_parameter_flags(CLI::App& app, HyperParameters& parameters) {
  const CLI::Range positive(std::size_t{1}, std::size_t{1} << 30);
  app.add_option("--dimension", parameters.dimension, "Complex numbers per row")
      ->capture_default_str()
      ->check(positive);
  app.add_option("--batch", parameters.batch_size, "Examples a step")->capture_default_str()->check(positive);
  app.add_option("--negatives", parameters.negatives, "Uniform negatives shared by a batch")
      ->capture_default_str()
      ->check(zero_or_more());
  app.add_option("--rate", parameters.learning_rate, "Adagrad's learning rate")
      ->capture_default_str()
      ->check(more_than_zero());
  app.add_option("--epsilon", parameters.epsilon, "Adagrad's epsilon, beside the root")
      ->capture_default_str()
      ->check(more_than_zero());
  app.add_option("--initial-scale", parameters.initial_scale, "Standard deviation of a row's first values")
      ->capture_default_str()
      ->check(zero_or_more());
  app.add_option("--n3", parameters.n3, "Weight of the N3 regulariser; 0 is none")
      ->capture_default_str()
      ->check(zero_or_more());
  app.add_option("--seed", parameters.seed, "Seed of batches, negatives and first values")
      ->capture_default_str()
      ->check(zero_or_more());
}

}  // namespace troupe::wordnet
