#include "wordnet/dataset.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <set>

#include <troupe/training/permutation.hpp>

#include "support/temporary_folder.hpp"

namespace troupe::wordnet {

using test::TemporaryFolder;
namespace {

void write_graph(const TemporaryFolder& folder) {
  folder.write("train.txt", "cat\tis_a\tanimal\ndog\tis_a\tanimal\ndog\tchases\tcat\n");
  folder.write("valid.txt", "cat\tflees\tdog\n");
  folder.write("test.txt", "mouse\tis_a\tanimal\n");
}

// `count` entities in a ring, each next to the following one and opposite another.
KnowledgeGraph ring(std::uint32_t count) {
  KnowledgeGraph graph;
  graph.relations = {"next", "opposite"};
  for (std::uint32_t i = 0; i < count; ++i) {
    graph.entities.push_back("e" + std::to_string(i));
    graph.train.push_back({i, 0, (i + 1) % count});
    graph.train.push_back({i, 1, (i + count / 2) % count});
  }
  return graph;
}

TEST_CASE("a tab-separated graph is read with names numbered in order of appearance") {
  const TemporaryFolder folder;
  write_graph(folder);
  const Result<KnowledgeGraph> graph = load_graph({.folder = folder.path()});
  REQUIRE(graph.ok());
  CHECK(graph->entities == std::vector<std::string>{"cat", "animal", "dog", "mouse"});
  CHECK(graph->relations == std::vector<std::string>{"is_a", "chases", "flees"});
  CHECK(graph->train == std::vector<Triple>{{0, 0, 1}, {2, 0, 1}, {2, 1, 0}});
  CHECK(graph->valid == std::vector<Triple>{{0, 2, 2}});
  CHECK(graph->test == std::vector<Triple>{{3, 0, 1}});
}

TEST_CASE("line ends of either kind, empty lines and a missing last line end do not matter") {
  const TemporaryFolder folder;
  write_graph(folder);
  folder.write("train.txt", "cat\tis_a\tanimal\r\n\ndog\tis_a\tanimal");
  const Result<KnowledgeGraph> graph = load_graph({.folder = folder.path()});
  REQUIRE(graph.ok());
  CHECK(graph->train == std::vector<Triple>{{0, 0, 1}, {2, 0, 1}});
}

TEST_CASE("a byte order mark is no part of the first name") {
  const TemporaryFolder folder;
  write_graph(folder);
  const Result<KnowledgeGraph> plain = load_graph({.folder = folder.path()});
  folder.write("train.txt",
               "\xef\xbb\xbf"
               "cat\tis_a\tanimal\ndog\tis_a\tanimal\ndog\tchases\tcat\n");
  const Result<KnowledgeGraph> marked = load_graph({.folder = folder.path()});
  REQUIRE(marked.ok());
  CHECK(marked->entities == plain->entities);
  CHECK(identity_of(*marked) == identity_of(*plain));
  // Other names, or the same in another order, are other data.
  folder.write("train.txt", "dog\tis_a\tanimal\ncat\tis_a\tanimal\ndog\tchases\tcat\n");
  CHECK(identity_of(*load_graph({.folder = folder.path()})) != identity_of(*plain));
}

TEST_CASE("entities that are added leave those that were there; others, and relations, do not") {
  const TemporaryFolder folder;
  write_graph(folder);
  const KnowledgeGraph plain = *load_graph({.folder = folder.path()});
  const std::string identity = identity_of(plain);
  CHECK(adds_to(plain, identity));
  KnowledgeGraph more = plain;
  more.entities.emplace_back("zebra");
  more.train.push_back({static_cast<std::uint32_t>(plain.entity_count()), 0, 0});
  CHECK(identity_of(more) != identity);
  CHECK(adds_to(more, identity));
  CHECK_FALSE(adds_to(plain, identity_of(more)));
  KnowledgeGraph before = plain;
  before.entities.insert(before.entities.begin(), "zebra");
  CHECK_FALSE(adds_to(before, identity));
  KnowledgeGraph related = more;
  related.relations.emplace_back("eats");
  CHECK_FALSE(adds_to(related, identity));
  KnowledgeGraph other = plain;  // the same names, other triples
  other.train.pop_back();
  CHECK(identity_of(other) != identity);
  CHECK(adds_to(other, identity));
  for (const char* text : {"", "x", "99999999999999999999999 entities", "0 entities"})
    CHECK_FALSE(adds_to(plain, text));

  CHECK(count_unseen(plain, plain.train) == 0);
  more.train.pop_back();
  const auto zebra = static_cast<std::uint32_t>(plain.entity_count());
  CHECK(count_unseen(more, {{zebra, 0, 0}, {0, 0, zebra}, plain.train[0]}) == 2);
}

TEST_CASE("names may hold spaces and any other byte but tab and line end") {
  const TemporaryFolder folder;
  write_graph(folder);
  folder.write("train.txt", "New York\t/location/contains\tSoHo \xC3\xA9\n");
  const Result<KnowledgeGraph> graph = load_graph({.folder = folder.path()});
  REQUIRE(graph.ok());
  CHECK(graph->entities[0] == "New York");
  CHECK(graph->entities[1] == "SoHo \xC3\xA9");
}

TEST_CASE("a malformed line is an error that names file and line and says what was expected") {
  const TemporaryFolder folder;
  write_graph(folder);
  folder.write("valid.txt", "cat\tflees\tdog\ncat flees dog\n");
  const Result<KnowledgeGraph> graph = load_graph({.folder = folder.path()});
  REQUIRE_FALSE(graph.ok());
  CHECK(graph.error().code == Code::kInvalidArgument);
  CHECK(graph.error().message ==
        (folder.path() / "valid.txt").string() + ":2: expected head<TAB>relation<TAB>tail, found 1 field");
}

TEST_CASE("too many fields and an empty field are malformed") {
  const TemporaryFolder folder;
  write_graph(folder);
  for (const char* line : {"a\tb\tc\td\n", "a\t\tc\n", "\t\t\n"}) {
    folder.write("test.txt", line);
    const Result<KnowledgeGraph> graph = load_graph({.folder = folder.path()});
    REQUIRE_FALSE(graph.ok());
    CHECK(graph.error().message.find("test.txt:1: expected") != std::string::npos);
  }
}

TEST_CASE("a missing folder, a missing file and an unknown layout are errors that name it") {
  const TemporaryFolder folder;
  const Result<KnowledgeGraph> no_folder = load_graph({.folder = folder.path() / "none"});
  REQUIRE_FALSE(no_folder.ok());
  CHECK(no_folder.error().code == Code::kNotFound);
  CHECK(no_folder.error().message.find((folder.path() / "none").string()) != std::string::npos);

  const Result<KnowledgeGraph> unknown = load_graph({.folder = folder.path()});
  REQUIRE_FALSE(unknown.ok());
  CHECK(unknown.error().code == Code::kNotFound);

  folder.write("train.txt", "a\tb\tc\n");
  const Result<KnowledgeGraph> no_file = load_graph({.folder = folder.path()});
  REQUIRE_FALSE(no_file.ok());
  CHECK(no_file.error().code == Code::kNotFound);
  CHECK(no_file.error().message.find("valid.txt") != std::string::npos);
  CHECK(no_file.error().message.find('\n') == std::string::npos);
}

TEST_CASE("an empty file is an error") {
  const TemporaryFolder folder;
  write_graph(folder);
  folder.write("train.txt", "");
  const Result<KnowledgeGraph> graph = load_graph({.folder = folder.path()});
  REQUIRE_FALSE(graph.ok());
  CHECK(graph.error().code == Code::kInvalidArgument);
}

TEST_CASE("holding out moves that many triples and leaves every entity and relation in training") {
  const KnowledgeGraph whole = ring(50);
  KnowledgeGraph graph = whole;
  REQUIRE(hold_out(graph, 20, 30, 7).ok());
  CHECK(graph.valid.size() == 20);
  CHECK(graph.test.size() == 30);
  CHECK(graph.train.size() == whole.train.size() - 50);

  std::vector<Triple> all = graph.train;
  all.insert(all.end(), graph.valid.begin(), graph.valid.end());
  all.insert(all.end(), graph.test.begin(), graph.test.end());
  std::sort(all.begin(), all.end());
  std::vector<Triple> expected = whole.train;
  std::sort(expected.begin(), expected.end());
  CHECK(all == expected);

  std::set<std::uint32_t> entities;
  std::set<std::uint32_t> relations;
  for (const Triple& triple : graph.train) {
    entities.insert({triple.head, triple.tail});
    relations.insert(triple.relation);
  }
  CHECK(entities.size() == 50);
  CHECK(relations.size() == 2);
}

TEST_CASE("an entity with one triple, or only a triple with itself, keeps it") {
  KnowledgeGraph graph;
  graph.entities = {"a", "b", "c"};
  graph.relations = {"r"};
  graph.train = {{0, 0, 0}, {1, 0, 2}, {2, 0, 1}};
  const Result<void> split = hold_out(graph, 2, 0, 3);
  REQUIRE_FALSE(split.ok());
  CHECK(split.error().code == Code::kInvalidArgument);
  REQUIRE(hold_out(graph, 1, 0, 3).ok());
  CHECK(graph.valid[0].head != 0);
}

TEST_CASE("a split is a function of its seed") {
  KnowledgeGraph first = ring(40);
  KnowledgeGraph again = ring(40);
  KnowledgeGraph other = ring(40);
  REQUIRE(hold_out(first, 8, 8, 1).ok());
  REQUIRE(hold_out(again, 8, 8, 1).ok());
  REQUIRE(hold_out(other, 8, 8, 2).ok());
  CHECK(first.valid == again.valid);
  CHECK(first.test == again.test);
  CHECK(first.train == again.train);
  CHECK(first.test != other.test);
}

TEST_CASE("a word finds the entity so named, or its first sense") {
  KnowledgeGraph graph;
  graph.entities = {"dog.n.02", "dog.n.01", "run.v.01", "happy.a.01", "Paris"};
  CHECK(*find_entity(graph, "dog") == 1);
  CHECK(*find_entity(graph, "dog.n.02") == 0);
  CHECK(*find_entity(graph, "run") == 2);
  CHECK(*find_entity(graph, "happy") == 3);
  CHECK(*find_entity(graph, "Paris") == 4);
  const Result<std::uint32_t> none = find_entity(graph, "unicorn");
  REQUIRE_FALSE(none.ok());
  CHECK(none.error().code == Code::kNotFound);
}

TEST_CASE("a permutation visits every position once, whatever the size") {
  for (const std::uint64_t size : {1ULL, 2ULL, 3ULL, 4ULL, 5ULL, 16ULL, 17ULL, 1000ULL}) {
    const training::Permutation order(size, 9);
    std::set<std::uint64_t> seen;
    for (std::uint64_t i = 0; i < size; ++i) seen.insert(order(i));
    CHECK_MESSAGE(seen.size() == size, "size " << size);
    CHECK(*seen.rbegin() == size - 1);
  }
}

}  // namespace
}  // namespace troupe::wordnet
