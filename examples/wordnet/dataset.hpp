#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include <troupe/runtime/result.hpp>

namespace troupe::wordnet {

/// One statement: head stands in `relation` to tail. Indices into KnowledgeGraph's name lists.
struct Triple {
  std::uint32_t head = 0;
  std::uint32_t relation = 0;
  std::uint32_t tail = 0;

  friend bool operator==(const Triple&, const Triple&) = default;
  friend bool operator<(const Triple& a, const Triple& b) {
    return std::tie(a.head, a.relation, a.tail) < std::tie(b.head, b.relation, b.tail);
  }
};

/// A knowledge graph, split. Immutable once loaded, so that threads may share it.
struct KnowledgeGraph {
  std::string name;                    ///< "WordNet", or the folder's name
  std::vector<std::string> entities;   ///< display names, unique
  std::vector<std::string> relations;  ///< display names, unique
  std::vector<Triple> train;
  std::vector<Triple> valid;
  std::vector<Triple> test;

  std::size_t entity_count() const { return entities.size(); }
  std::size_t relation_count() const { return relations.size(); }
};

/// Kinds such as `similar_to` hold both ways, and WordNet states both.
enum class SymmetricKinds : std::uint8_t {
  kBothWays,  ///< keep what the files state: 235,402 triples, as public benchmarks made from WordNet do
  kOneWay,    ///< keep one of (a, r, b), (b, r, a): a held-out triple's mirror image is not in training
};

struct DatasetOptions {
  /// A folder with WordNet's data.noun, data.verb, data.adj and data.adv, or one with train.txt, valid.txt
  /// and test.txt.
  std::filesystem::path folder = "/usr/share/wordnet";
  std::size_t valid_count = 3000;  ///< triples held out; WordNet only, as are the fields below
  std::size_t test_count = 3000;
  std::uint64_t split_seed = 1;
  SymmetricKinds symmetric = SymmetricKinds::kBothWays;
};

/// What a checkpoint's rows depend on, as a text: how many entities and relations there are, with a checksum
/// of their names in the order of their numbers, and the triples that are trained on. Another order is other
/// data: row n would be another entity's.
std::string identity_of(const KnowledgeGraph& graph);

/// Whether `graph` is one with this identity to which entities and triples were added, so that all entities
/// that were there have their numbers still. No relations: a relation's reciprocal is numbered past all of
/// them.
bool adds_to(const KnowledgeGraph& graph, const std::string& identity);

/// How many of the triples have an entity that no triple of graph.train has: they are answered by rows that
/// were not trained as a head or tail.
std::size_t count_unseen(const KnowledgeGraph& graph, const std::vector<Triple>& triples);

/// Reads the graph in `options.folder`, in whichever of the two layouts it is. Errors: kNotFound for a
/// missing folder or file, kInvalidArgument for a malformed line, named as file:line.
Result<KnowledgeGraph> load_graph(const DatasetOptions& options);

/// Reads train.txt, valid.txt and test.txt, each line "head<TAB>relation<TAB>tail"; empty lines are
/// skipped. A byte order mark before
/// the first is skipped, too. Entities and relations are numbered in order of appearance.
Result<KnowledgeGraph> load_tab_separated(const std::filesystem::path& folder);

/// Reads WordNet's own files and splits the triples (see wordnet_reader.hpp and hold_out()).
Result<KnowledgeGraph> load_wordnet(const DatasetOptions& options);

/// Moves `valid_count` and `test_count` triples of graph.train, chosen by `seed`, to graph.valid and
/// graph.test. Each entity and each relation stays in at least one training triple. Error:
/// kInvalidArgument if there are not as many triples that can be spared.
Result<void> hold_out(KnowledgeGraph& graph, std::size_t valid_count, std::size_t test_count,
                      std::uint64_t seed);

/// The entity that a person means by `word`: the one so named, or WordNet's first sense of it ("dog" is
/// dog.n.01). Error: kNotFound. Linear in the number of entities.
Result<std::uint32_t> find_entity(const KnowledgeGraph& graph, std::string_view word);

}  // namespace troupe::wordnet
