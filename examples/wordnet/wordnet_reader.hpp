#pragma once

#include <filesystem>

#include <troupe/runtime/result.hpp>

#include "wordnet/dataset.hpp"

namespace troupe::wordnet {

/// Reads WordNet's database files (format: wndb(5WN)) in `folder`: synsets become entities, pointers
/// triples, all of them in `train`. Of each pair of inverse pointer kinds one is dropped (of `~ @` hyponym,
/// of `%m #m` the meronym, and so on), which leaves 18 of 26 kinds; pointers between words of the same two
/// synsets count once; synsets that no kept pointer touches are left out.
///
/// An entity is named by its first word, part of speech and sense number, "dog.n.01"; the numbers come from
/// the index.* files, and where one is missing from the order of the synsets in data.*.
/// Errors: kNotFound for a missing data file, kInvalidArgument for a malformed line (file:line).
Result<KnowledgeGraph> read_wordnet(const std::filesystem::path& folder, SymmetricKinds symmetric);

}  // namespace troupe::wordnet
