#include "gpt/corpus.hpp"

#include <algorithm>
#include <span>
#include <utility>

#include <troupe/runtime/files.hpp>
#include <troupe/runtime/random.hpp>

namespace troupe::gpt {
namespace {

/// A line of a data file: offset, file, kind, count of words, the first word; at the end, behind a bar, the
/// definition. Nothing for lines of the licence, which begin with spaces.
std::string gloss_of(std::string_view line) {
  if (line.starts_with(' ')) return {};
  std::string_view rest = line;
  for (int field = 0; field < 4; ++field) {
    const std::size_t space = rest.find(' ');
    if (space == std::string_view::npos) return {};
    rest.remove_prefix(space + 1);
  }
  std::string word(rest.substr(0, rest.find(' ')));
  std::replace(word.begin(), word.end(), '_', ' ');
  if (const std::size_t bracket = word.find('('); bracket != std::string::npos) word.resize(bracket);
  const std::size_t bar = line.find(" | ");
  if (bar == std::string_view::npos || word.empty()) return {};
  std::string_view gloss = line.substr(bar + 3);
  while (gloss.ends_with(' ')) gloss.remove_suffix(1);
  return word + ": " + std::string(gloss);
}

}  // namespace

Result<std::string> read_glosses(const std::filesystem::path& folder, std::uint64_t seed) {
  std::vector<std::string> lines;
  for (const char* file : {"data.noun", "data.verb", "data.adj", "data.adv"}) {
    const auto text = read_file(folder / file);
    if (!text) return with_context(text.error(), "WordNet's definitions (Debian's wordnet-base)");
    for (std::string_view rest = *text; !rest.empty();) {
      const std::size_t end = std::min(rest.find('\n'), rest.size());
      if (std::string gloss = gloss_of(rest.substr(0, end)); !gloss.empty())
        lines.push_back(std::move(gloss));
      rest.remove_prefix(std::min(end + 1, rest.size()));
    }
  }
  if (lines.empty())
    return Error{Code::kInvalidArgument, folder.string() + ": its files have no definitions"};
  Random random(seed);
  random.shuffle(std::span(lines));
  std::string all;
  for (const std::string& line : lines) all += line + "\n";
  return all;
}

Result<Corpus> Corpus::make(std::vector<std::int32_t> tokens, std::int64_t block, double validation) {
  Corpus corpus;
  corpus.block_ = block;
  const auto needed = static_cast<std::size_t>(block) + 1;
  const auto held_out = static_cast<std::size_t>(validation * static_cast<double>(tokens.size()));
  corpus.training_ = tokens.size() - held_out;
  if (corpus.training_ < needed || held_out < needed)
    return Error{Code::kInvalidArgument, "the text has " + std::to_string(tokens.size()) + " tokens, " +
                                             std::to_string(held_out) +
                                             " of them for validation; each part needs " +
                                             std::to_string(needed) + ", one more than --block"};
  corpus.tokens_ = std::move(tokens);
  return corpus;
}

void Corpus::add(Batch& batch, std::size_t at) const {
  for (std::int64_t i = 0; i < block_; ++i, ++at) {
    batch.tokens.push_back(tokens_[at]);
    batch.targets.push_back(tokens_[at + 1]);
  }
}

Batch Corpus::training_batch(std::uint64_t seed, std::uint64_t step, std::int64_t first,
                             std::int64_t count) const {
  Batch batch{count, block_, {}, {}};
  const Random of_step = Random(seed).split(step);
  const std::size_t places = training_ - static_cast<std::size_t>(block_);
  for (std::int64_t i = first; i < first + count; ++i)
    add(batch, of_step.split(static_cast<std::uint64_t>(i)).below(places));
  return batch;
}

Batch Corpus::validation_batch(std::int64_t first, std::int64_t count, std::int64_t all) const {
  Batch batch{count, block_, {}, {}};
  const std::size_t places = validation_tokens() - static_cast<std::size_t>(block_);
  for (std::int64_t i = first; i < first + count; ++i)
    add(batch, training_ + static_cast<std::size_t>(i) * places / static_cast<std::size_t>(all));
  return batch;
}

}  // namespace troupe::gpt
