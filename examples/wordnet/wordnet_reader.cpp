#include "wordnet/wordnet_reader.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "wordnet/lines.hpp"

namespace troupe::wordnet {
namespace {

namespace fs = std::filesystem;

// One pointer kind of wninput(5WN). `kept` is false for the half of each inverse pair that is dropped.
struct PointerKind {
  std::string_view symbol;
  std::string_view name;
  bool kept;
  bool symmetric;
};

constexpr std::array<PointerKind, 26> kPointerKinds{{
    {"@", "hypernym", true, false},
    {"~", "hyponym", false, false},
    {"@i", "instance_hypernym", true, false},
    {"~i", "instance_hyponym", false, false},
    {"#m", "member_holonym", true, false},
    {"%m", "member_meronym", false, false},
    {"#p", "part_holonym", true, false},
    {"%p", "part_meronym", false, false},
    {"#s", "substance_holonym", true, false},
    {"%s", "substance_meronym", false, false},
    {";c", "domain_topic", true, false},
    {"-c", "member_of_domain_topic", false, false},
    {";r", "domain_region", true, false},
    {"-r", "member_of_domain_region", false, false},
    {";u", "domain_usage", true, false},
    {"-u", "member_of_domain_usage", false, false},
    {"+", "derivationally_related", true, true},
    {"!", "antonym", true, true},
    {"&", "similar_to", true, true},
    {"$", "verb_group", true, true},
    {"=", "attribute", true, true},
    {"^", "also_see", true, false},
    {"\\", "pertainym", true, false},
    {"*", "entailment", true, false},
    {">", "cause", true, false},
    {"<", "participle_of", true, false},
}};

// The parts of speech, each with its own files. A satellite adjective ("s") lies among the adjectives, and
// pointers name it "a" or "s" alike.
struct PartOfSpeech {
  char letter;
  std::string_view file;
};
constexpr std::array<PartOfSpeech, 4> kPartsOfSpeech{
    {{'n', "noun"}, {'v', "verb"}, {'a', "adj"}, {'r', "adv"}}};

// Synsets are known by part of speech and byte offset in their file (eight digits).
using SynsetKey = std::uint64_t;

std::optional<std::uint64_t> number(std::string_view text, int base) {
  std::uint64_t value = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (failure != std::errc{} || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return value;
}

std::optional<SynsetKey> synset_key(std::string_view letter, std::string_view offset) {
  const std::optional<std::uint64_t> position = number(offset, 10);
  if (!position || letter.size() != 1) return std::nullopt;
  const char known = letter[0] == 's' ? 'a' : letter[0];
  for (std::size_t i = 0; i < kPartsOfSpeech.size(); ++i) {
    if (kPartsOfSpeech[i].letter == known) return *position * kPartsOfSpeech.size() + i;
  }
  return std::nullopt;
}

// As the index files spell it: small letters, no syntactic marker such as "(p)".
std::string plain_word(std::string_view word) {
  std::string plain(word.substr(0, word.find('(')));
  for (char& letter : plain) {
    if (letter >= 'A' && letter <= 'Z') letter = static_cast<char>(letter - 'A' + 'a');
  }
  return plain;
}

struct Synset {
  SynsetKey key = 0;
  char letter = 'n';
  std::string word;
};

struct Pointer {
  std::size_t kind = 0;  // index into kPointerKinds
  SynsetKey from = 0;
  SynsetKey to = 0;
};

struct Database {
  std::vector<Synset> synsets;
  std::vector<Pointer> pointers;
};

// Reads the pointers at fields[at...]: "symbol offset part_of_speech source/target", four fields each.
Result<void> read_pointers(const LineReader& reader, const std::vector<std::string_view>& fields,
                           std::size_t at, std::size_t count, SynsetKey from, Database& database) {
  if (at + 4 * count > fields.size()) {
    return reader.malformed("expected " + std::to_string(count) +
                            " pointers of four fields, found the line's end");
  }
  for (std::size_t i = 0; i < count; ++i, at += 4) {
    const auto* const kind = std::find_if(kPointerKinds.begin(), kPointerKinds.end(),
                                          [&](const PointerKind& k) { return k.symbol == fields[at]; });
    if (kind == kPointerKinds.end()) {
      return reader.malformed("expected a pointer symbol of WordNet 3.0, found '" + std::string(fields[at]) +
                              "'");
    }
    const std::optional<SynsetKey> to = synset_key(fields[at + 2], fields[at + 1]);
    if (!to) {
      return reader.malformed("expected a pointer's synset offset and part of speech, found '" +
                              std::string(fields[at + 1]) + " " + std::string(fields[at + 2]) + "'");
    }
    if (kind->kept) {
      database.pointers.push_back({static_cast<std::size_t>(kind - kPointerKinds.begin()), from, *to});
    }
  }
  return {};
}

// One line: "offset lex_file ss_type word_count (word lex_id)... pointer_count pointers... [frames] | gloss",
// word_count in two hexadecimal digits.
Result<void> read_synset(const LineReader& reader, std::string_view line,
                         std::vector<std::string_view>& fields, Database& database) {
  split_fields(line.substr(0, line.find(" |")), ' ', fields);
  if (fields.size() < 4) return reader.malformed("expected a synset: offset, file, type, word count, ...");
  const std::optional<SynsetKey> key = synset_key(fields[2], fields[0]);
  if (!key) {
    return reader.malformed("expected a synset's offset and type (n, v, a, s or r), found '" +
                            std::string(fields[0]) + "' and '" + std::string(fields[2]) + "'");
  }
  const std::optional<std::uint64_t> words = number(fields[3], 16);
  if (!words || *words == 0 || *words > 255) {
    return reader.malformed("expected a word count in hexadecimal, found '" + std::string(fields[3]) + "'");
  }
  const std::size_t at = 4 + 2 * *words;
  const std::optional<std::uint64_t> count = at < fields.size() ? number(fields[at], 10) : std::nullopt;
  if (!count || *count > 999) {
    return reader.malformed("expected a pointer count after " + std::to_string(*words) + " words");
  }
  database.synsets.push_back({*key, fields[2][0], plain_word(fields[4])});
  return read_pointers(reader, fields, at + 1, *count, *key, database);
}

Result<void> read_data_file(const fs::path& path, Database& database) {
  Result<LineReader> reader = LineReader::open(path);
  if (!reader) return reader.error();
  std::string_view line;
  std::vector<std::string_view> fields;
  while (reader->next(line)) {
    if (line.empty() || line.starts_with("  ")) continue;  // the licence
    if (Result<void> read = read_synset(*reader, line, fields, database); !read) return read;
  }
  return {};
}

std::string sense_id(std::string_view word, SynsetKey key) {
  return std::string(word) + ' ' + std::to_string(key);
}

// Sense numbers by sense_id. A line of index.*: "word pos synset_count pointer_count symbols... sense_count
// tagged_count offsets...", the offsets in the order of the senses.
Result<std::unordered_map<std::string, unsigned>> read_sense_numbers(const fs::path& folder) {
  std::unordered_map<std::string, unsigned> senses;
  for (const PartOfSpeech& part : kPartsOfSpeech) {
    const fs::path path = folder / ("index." + std::string(part.file));
    std::error_code ignored;
    if (!fs::exists(path, ignored)) continue;
    Result<LineReader> reader = LineReader::open(path);
    if (!reader) return reader.error();
    std::string_view line;
    std::vector<std::string_view> fields;
    while (reader->next(line)) {
      if (line.empty() || line.starts_with("  ")) continue;
      line = line.substr(0, line.find_last_not_of(' ') + 1);
      split_fields(line, ' ', fields);
      const std::optional<std::uint64_t> count = fields.size() > 3 ? number(fields[2], 10) : std::nullopt;
      if (!count || *count > fields.size()) {
        return reader->malformed("expected an index entry: word, part of speech, synset count, ...");
      }
      for (std::size_t i = 0; i < *count; ++i) {
        const std::string_view offset = fields[fields.size() - *count + i];
        const std::optional<SynsetKey> key = synset_key(fields[1], offset);
        if (!key) return reader->malformed("expected a synset offset, found '" + std::string(offset) + "'");
        senses[sense_id(fields[0], *key)] = static_cast<unsigned>(i + 1);
      }
    }
  }
  return senses;
}

std::string entity_name(const Synset& synset, unsigned sense) {
  std::array<char, 16> suffix{};
  std::snprintf(suffix.data(), suffix.size(), ".%c.%02u", synset.letter, sense);
  return synset.word + suffix.data();
}

// Names for all synsets; see read_wordnet() for how.
std::vector<std::string> name_synsets(const std::vector<Synset>& synsets,
                                      const std::unordered_map<std::string, unsigned>& senses) {
  std::vector<std::string> names;
  names.reserve(synsets.size());
  std::unordered_map<std::string, unsigned> uses;
  for (const Synset& synset : synsets) {
    const auto sense = senses.find(sense_id(synset.word, synset.key));
    const unsigned nth = ++uses[std::string(1, synset.letter) + synset.word];
    names.push_back(entity_name(synset, sense == senses.end() ? nth : sense->second));
  }
  // Only files that contradict each other give two synsets one name; then the later one shows its key.
  std::unordered_map<std::string_view, std::size_t> seen;
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (!seen.try_emplace(names[i], i).second) {
      names[i] += '@';
      names[i] += std::to_string(synsets[i].key);
    }
  }
  return names;
}

// Numbers what the pointers use, and turns them into triples.
Result<KnowledgeGraph> build_graph(const Database& database, const std::vector<std::string>& names,
                                   SymmetricKinds symmetric) {
  constexpr std::uint32_t kUnused = 0xffffffff;
  std::unordered_map<SynsetKey, std::uint32_t> index;
  for (std::size_t i = 0; i < database.synsets.size(); ++i) {
    index.emplace(database.synsets[i].key, static_cast<std::uint32_t>(i));
  }
  std::vector<Triple> triples;  // by index of synset and of kind
  triples.reserve(database.pointers.size());
  for (const Pointer& pointer : database.pointers) {
    const auto from = index.find(pointer.from);
    const auto to = index.find(pointer.to);
    if (to == index.end()) {
      return Error{Code::kInvalidArgument,
                   names[from->second] + " points to a synset that the files do not have"};
    }
    Triple triple{from->second, static_cast<std::uint32_t>(pointer.kind), to->second};
    if (symmetric == SymmetricKinds::kOneWay && kPointerKinds[pointer.kind].symmetric &&
        triple.head > triple.tail) {
      std::swap(triple.head, triple.tail);
    }
    triples.push_back(triple);
  }
  std::sort(triples.begin(), triples.end());
  triples.erase(std::unique(triples.begin(), triples.end()), triples.end());

  KnowledgeGraph graph;
  graph.name = "WordNet";
  std::vector<std::uint32_t> entity(names.size(), kUnused);
  std::array<std::uint32_t, kPointerKinds.size()> relation{};
  relation.fill(kUnused);
  for (const Triple& triple : triples) {
    entity[triple.head] = entity[triple.tail] = 0;
    relation[triple.relation] = 0;
  }
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (entity[i] == kUnused) continue;
    entity[i] = static_cast<std::uint32_t>(graph.entities.size());
    graph.entities.push_back(names[i]);
  }
  for (std::size_t i = 0; i < relation.size(); ++i) {
    if (relation[i] == kUnused) continue;
    relation[i] = static_cast<std::uint32_t>(graph.relations.size());
    graph.relations.emplace_back(kPointerKinds[i].name);
  }
  for (Triple& triple : triples) {
    triple = {entity[triple.head], relation[triple.relation], entity[triple.tail]};
  }
  graph.train = std::move(triples);
  return graph;
}

}  // namespace

Result<KnowledgeGraph> read_wordnet(const fs::path& folder, SymmetricKinds symmetric) {
  Database database;
  for (const PartOfSpeech& part : kPartsOfSpeech) {
    const fs::path path = folder / ("data." + std::string(part.file));
    if (Result<void> read = read_data_file(path, database); !read) return read.error();
  }
  const Result<std::unordered_map<std::string, unsigned>> senses = read_sense_numbers(folder);
  if (!senses) return senses.error();
  return build_graph(database, name_synsets(database.synsets, *senses), symmetric);
}

}  // namespace troupe::wordnet
