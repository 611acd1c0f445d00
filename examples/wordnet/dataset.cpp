#include "wordnet/dataset.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <numeric>
#include <span>
#include <unordered_map>
#include <utility>

#include <troupe/runtime/checksum.hpp>
#include <troupe/training/permutation.hpp>

#include "wordnet/lines.hpp"
#include "wordnet/wordnet_reader.hpp"

namespace troupe::wordnet {
namespace {

namespace fs = std::filesystem;

// Names to numbers, in order of appearance.
class Numbering {
 public:
  explicit Numbering(std::vector<std::string>& names) : names_(names) {}

  std::uint32_t operator()(std::string_view name) {
    const auto [position, added] =
        numbers_.try_emplace(std::string(name), static_cast<std::uint32_t>(names_.size()));
    if (added) names_.emplace_back(name);
    return position->second;
  }

 private:
  std::vector<std::string>& names_;
  std::unordered_map<std::string, std::uint32_t> numbers_;
};

Result<void> read_triples(const fs::path& path, Numbering& entity, Numbering& relation,
                          std::vector<Triple>& triples) {
  Result<LineReader> reader = LineReader::open(path);
  if (!reader) return reader.error();
  std::string_view line;
  std::vector<std::string_view> fields;
  bool first = true;
  while (reader->next(line)) {
    constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";
    if (std::exchange(first, false) && line.starts_with(kByteOrderMark))
      line.remove_prefix(kByteOrderMark.size());
    if (line.empty()) continue;
    split_fields(line, '\t', fields);
    if (fields.size() != 3 || fields[0].empty() || fields[1].empty() || fields[2].empty()) {
      return reader->malformed("expected head<TAB>relation<TAB>tail, found " + std::to_string(fields.size()) +
                               (fields.size() == 1 ? " field" : " fields") +
                               (fields.size() == 3 ? ", one of them empty" : ""));
    }
    const std::uint32_t head = entity(fields[0]);
    const std::uint32_t kind = relation(fields[1]);
    triples.push_back({head, kind, entity(fields[2])});
  }
  if (triples.empty()) return Error{Code::kInvalidArgument, path.string() + ": no triples"};
  return {};
}

}  // namespace

namespace {

/// Of the first `entities` of them, and all relations.
std::string names_of(const KnowledgeGraph& graph, std::size_t entities) {
  std::uint32_t crc = 0;
  const auto add = [&](const std::string& name) {
    const std::uint64_t size = name.size();
    crc = crc32c(std::as_bytes(std::span(&size, 1)), crc);
    crc = crc32c(std::as_bytes(std::span(name)), crc);
  };
  std::for_each_n(graph.entities.begin(), entities, add);
  std::for_each(graph.relations.begin(), graph.relations.end(), add);
  return std::to_string(entities) + " entities, " + std::to_string(graph.relation_count()) +
         " relations, checksum of their names " + std::to_string(crc);
}

}  // namespace

std::string identity_of(const KnowledgeGraph& graph) {
  static_assert(sizeof(Triple) == 3 * sizeof(std::uint32_t));
  return names_of(graph, graph.entity_count()) + "; " + std::to_string(graph.train.size()) +
         " training triples, checksum " + std::to_string(crc32c(std::as_bytes(std::span(graph.train))));
}

bool adds_to(const KnowledgeGraph& graph, const std::string& identity) {
  std::size_t entities = 0;
  const auto parsed = std::from_chars(identity.data(), identity.data() + identity.size(), entities);
  return parsed.ec == std::errc{} && entities <= graph.entity_count() &&
         identity.starts_with(names_of(graph, entities) + ";");
}

std::size_t count_unseen(const KnowledgeGraph& graph, const std::vector<Triple>& triples) {
  std::vector<bool> seen(graph.entity_count());
  for (const Triple& triple : graph.train) seen[triple.head] = seen[triple.tail] = true;
  return static_cast<std::size_t>(std::count_if(triples.begin(), triples.end(), [&](const Triple& triple) {
    return !seen[triple.head] || !seen[triple.tail];
  }));
}

Result<KnowledgeGraph> load_graph(const DatasetOptions& options) {
  std::error_code ignored;
  if (!fs::is_directory(options.folder, ignored)) {
    return Error{Code::kNotFound,
                 "no folder " + options.folder.string() +
                     ": give one with WordNet's data.noun, data.verb, data.adj and data.adv "
                     "(Debian package wordnet-base), or with train.txt, valid.txt, test.txt"};
  }
  if (fs::exists(options.folder / "train.txt", ignored)) return load_tab_separated(options.folder);
  if (fs::exists(options.folder / "data.noun", ignored)) return load_wordnet(options);
  return Error{Code::kNotFound,
               options.folder.string() + " has neither train.txt nor data.noun: no data set known here"};
}

Result<KnowledgeGraph> load_tab_separated(const fs::path& folder) {
  KnowledgeGraph graph;
  const fs::path named = folder.has_filename() ? folder : folder.parent_path();
  graph.name = named.filename().string();
  Numbering entity(graph.entities);
  Numbering relation(graph.relations);
  const std::array<std::pair<const char*, std::vector<Triple>*>, 3> parts{
      {{"train.txt", &graph.train}, {"valid.txt", &graph.valid}, {"test.txt", &graph.test}}};
  for (const auto& [file, triples] : parts) {
    if (Result<void> read = read_triples(folder / file, entity, relation, *triples); !read) {
      return read.error();
    }
  }
  return graph;
}

Result<KnowledgeGraph> load_wordnet(const DatasetOptions& options) {
  Result<KnowledgeGraph> graph = read_wordnet(options.folder, options.symmetric);
  if (!graph) return graph;
  if (Result<void> split = hold_out(*graph, options.valid_count, options.test_count, options.split_seed);
      !split) {
    return split.error();
  }
  return graph;
}

Result<void> hold_out(KnowledgeGraph& graph, std::size_t valid_count, std::size_t test_count,
                      std::uint64_t seed) {
  std::vector<std::size_t> entity_uses(graph.entity_count());
  std::vector<std::size_t> relation_uses(graph.relation_count());
  for (const Triple& triple : graph.train) {
    ++entity_uses[triple.head];
    ++entity_uses[triple.tail];
    ++relation_uses[triple.relation];
  }
  const std::size_t wanted = valid_count + test_count;
  std::vector<Triple> held;
  std::vector<bool> is_held(graph.train.size());
  const training::Permutation order(graph.train.size(), seed);
  for (std::size_t i = 0; i < graph.train.size() && held.size() < wanted; ++i) {
    const std::size_t index = order(i);
    const Triple& triple = graph.train[index];
    // A triple of an entity with itself uses it twice, and goes with both uses.
    const std::size_t own_uses = triple.head == triple.tail ? 2 : 1;
    if (entity_uses[triple.head] <= own_uses || entity_uses[triple.tail] <= own_uses ||
        relation_uses[triple.relation] <= 1) {
      continue;
    }
    --entity_uses[triple.head];
    --entity_uses[triple.tail];
    --relation_uses[triple.relation];
    is_held[index] = true;
    held.push_back(triple);
  }
  if (held.size() < wanted) {
    return Error{Code::kInvalidArgument, "cannot hold out " + std::to_string(wanted) + " triples: only " +
                                             std::to_string(held.size()) + " of " +
                                             std::to_string(graph.train.size()) +
                                             " leave every entity and relation in training"};
  }
  const auto middle = held.begin() + static_cast<std::ptrdiff_t>(valid_count);
  graph.valid.assign(held.begin(), middle);
  graph.test.assign(middle, held.end());
  std::vector<Triple> rest;
  rest.reserve(graph.train.size() - wanted);
  for (std::size_t i = 0; i < graph.train.size(); ++i) {
    if (!is_held[i]) rest.push_back(graph.train[i]);
  }
  graph.train = std::move(rest);
  return {};
}

Result<std::uint32_t> find_entity(const KnowledgeGraph& graph, std::string_view word) {
  const std::string name(word);
  const std::array<std::string, 6> spellings{name,           name + ".n.01", name + ".v.01",
                                             name + ".a.01", name + ".s.01", name + ".r.01"};
  for (const std::string& spelling : spellings) {
    const auto found = std::find(graph.entities.begin(), graph.entities.end(), spelling);
    if (found != graph.entities.end()) return static_cast<std::uint32_t>(found - graph.entities.begin());
  }
  return Error{Code::kNotFound, "no entity named '" + name + "' in " + graph.name};
}

}  // namespace troupe::wordnet
