#pragma once

#include <CLI/CLI.hpp>

#include "wordnet/dataset.hpp"
#include "wordnet/hyper_parameters.hpp"

namespace troupe::wordnet {

/// Validators of flags; CLI11's own tell the largest number there is, in all its digits.
CLI::Validator zero_or_more();
CLI::Validator more_than_zero();

/// Adds --data, --valid-count, --test-count, --split-seed, --symmetric to `app`; they write to `options`,
/// which must live until the flags are parsed.
void add_dataset_flags(CLI::App& app, DatasetOptions& options);

/// Adds --dimension, --batch, --negatives, --rate, --epsilon, --initial-scale, --n3
/// and --seed; they write to `parameters`, which must live until the flags are parsed.
void add_hyper_parameter_flags(CLI::App& app, HyperParameters& parameters);

}  // namespace troupe::wordnet
