#include "wordnet/wordnet_reader.hpp"

#include <doctest/doctest.h>

#include <algorithm>

#include "support/temporary_folder.hpp"

namespace troupe::wordnet {

using test::TemporaryFolder;
namespace {

// A made-up WordNet: dog and cat below animal, hot and warm and cold among the adjectives.
void write_wordnet(const TemporaryFolder& folder) {
  folder.write("data.noun",
               "  1 The licence, which starts with two blanks.  \n"
               "00000100 05 n 01 animal 0 002 ~ 00000200 n 0000 ~ 00000300 n 0000 | a living thing  \n"
               "00000200 05 n 02 Dog 0 domestic_dog 0 001 @ 00000100 n 0000 | barks | and more  \n"
               "00000300 05 n 01 cat 0 001 @ 00000100 n 0000 | purrs  \n"
               "00000400 05 n 01 dog 1 001 + 00000100 v 0101 | a frankfurter  \n"
               "00000500 05 n 01 lonely 0 000 | pointed to by nothing  \n");
  folder.write(
      "data.verb",
      "00000100 30 v 01 dog 0 003 + 00000400 n 0101 + 00000400 n 0102 * 00000200 v 0000 01 + 02 00 | "
      "follow  \n"
      "00000200 30 v 0a a 0 b 0 c 0 d 0 e 0 f 0 g 0 h 0 i 0 j 0 000 00 | ten words  \n");
  folder.write("data.adj",
               "00000100 00 a 01 hot(p) 0 002 & 00000200 a 0000 ! 00000300 a 0101 | warm to the touch  \n"
               "00000200 00 s 01 warm 0 001 & 00000100 a 0000 | somewhat hot  \n"
               "00000300 00 a 01 cold 0 001 ! 00000100 a 0101 | not hot  \n");
  folder.write("data.adv", "00000100 02 r 01 hotly 0 001 \\ 00000100 a 0101 | in a hot way  \n");
  folder.write("index.noun",
               "  1 licence\n"
               "dog n 2 2 @ + 2 1 00000400 00000200  \n"
               "animal n 1 1 ~ 1 1 00000100  \n");
}

std::vector<std::string> as_text(const KnowledgeGraph& graph) {
  std::vector<std::string> lines;
  for (const Triple& triple : graph.train) {
    lines.push_back(graph.entities[triple.head] + ' ' + graph.relations[triple.relation] + ' ' +
                    graph.entities[triple.tail]);
  }
  std::sort(lines.begin(), lines.end());
  return lines;
}

TEST_CASE("WordNet's files become named entities and the kept half of the pointer kinds") {
  const TemporaryFolder folder;
  write_wordnet(folder);
  const Result<KnowledgeGraph> graph = read_wordnet(folder.path(), SymmetricKinds::kBothWays);
  REQUIRE(graph.ok());
  CHECK(as_text(*graph) ==
        std::vector<std::string>{"cat.n.01 hypernym animal.n.01", "cold.a.01 antonym hot.a.01",
                                 "dog.n.01 derivationally_related dog.v.01", "dog.n.02 hypernym animal.n.01",
                                 "dog.v.01 derivationally_related dog.n.01", "dog.v.01 entailment a.v.01",
                                 "hot.a.01 antonym cold.a.01", "hot.a.01 similar_to warm.s.01",
                                 "hotly.r.01 pertainym hot.a.01", "warm.s.01 similar_to hot.a.01"});
  CHECK(graph->entity_count() == 10);
  CHECK(graph->relation_count() == 6);
  CHECK(std::count(graph->entities.begin(), graph->entities.end(), "lonely.n.01") == 0);
}

TEST_CASE("of a symmetric kind one direction can be kept alone") {
  const TemporaryFolder folder;
  write_wordnet(folder);
  const Result<KnowledgeGraph> graph = read_wordnet(folder.path(), SymmetricKinds::kOneWay);
  REQUIRE(graph.ok());
  CHECK(as_text(*graph) ==
        std::vector<std::string>{"cat.n.01 hypernym animal.n.01", "dog.n.01 derivationally_related dog.v.01",
                                 "dog.n.02 hypernym animal.n.01", "dog.v.01 entailment a.v.01",
                                 "hot.a.01 antonym cold.a.01", "hot.a.01 similar_to warm.s.01",
                                 "hotly.r.01 pertainym hot.a.01"});
}

TEST_CASE("without index files synsets of one word are numbered in the order of the data files") {
  const TemporaryFolder folder;
  write_wordnet(folder);
  std::filesystem::remove(folder.path() / "index.noun");
  const Result<KnowledgeGraph> graph = read_wordnet(folder.path(), SymmetricKinds::kBothWays);
  REQUIRE(graph.ok());
  const std::vector<std::string> lines = as_text(*graph);
  CHECK(std::count(lines.begin(), lines.end(), "dog.n.01 hypernym animal.n.01") == 1);
  CHECK(std::count(lines.begin(), lines.end(), "dog.n.02 derivationally_related dog.v.01") == 1);
}

TEST_CASE("a malformed WordNet line is an error that names file and line and says what was expected") {
  struct Case {
    const char* line;
    const char* expected;
  };
  const Case cases[] = {
      {"00000100 02 r", "data.adv:2: expected a synset"},
      {"0000010x 02 r 01 hotly 0 000 | gloss", "data.adv:2: expected a synset's offset"},
      {"00000100 02 q 01 hotly 0 000 | gloss", "data.adv:2: expected a synset's offset"},
      {"00000100 02 r zz hotly 0 000 | gloss", "data.adv:2: expected a word count"},
      {"00000100 02 r 00 000 | gloss", "data.adv:2: expected a word count"},
      {"00000100 02 r 02 hotly 0 000 | gloss", "data.adv:2: expected a pointer count after 2 words"},
      {"00000100 02 r 01 hotly 0 xyz | gloss", "data.adv:2: expected a pointer count after 1 words"},
      {"00000100 02 r 01 hotly 0 002 ! 00000100 a 0101 | gloss", "data.adv:2: expected 2 pointers"},
      {"00000100 02 r 01 hotly 0 001 ? 00000100 a 0101 | gloss", "found '?'"},
      {"00000100 02 r 01 hotly 0 001 ! 000001-0 a 0101 | gloss", "found '000001-0 a'"},
  };
  for (const Case& one : cases) {
    CAPTURE(one.line);
    const TemporaryFolder folder;
    write_wordnet(folder);
    folder.write("data.adv", std::string("  1 licence\n") + one.line + "\n");
    const Result<KnowledgeGraph> graph = read_wordnet(folder.path(), SymmetricKinds::kBothWays);
    REQUIRE_FALSE(graph.ok());
    CHECK(graph.error().code == Code::kInvalidArgument);
    CHECK_MESSAGE(graph.error().message.find(one.expected) != std::string::npos, graph.error().message);
    CHECK(graph.error().message.find('\n') == std::string::npos);
  }
}

TEST_CASE("a pointer to a synset that is not there, and a missing data file, are errors") {
  const TemporaryFolder folder;
  write_wordnet(folder);
  folder.write("data.adv", "00000100 02 r 01 hotly 0 001 \\ 00000900 a 0101 | in a hot way  \n");
  const Result<KnowledgeGraph> dangling = read_wordnet(folder.path(), SymmetricKinds::kBothWays);
  REQUIRE_FALSE(dangling.ok());
  CHECK(dangling.error().message.find("hotly.r.01") != std::string::npos);

  std::filesystem::remove(folder.path() / "data.adv");
  const Result<KnowledgeGraph> missing = read_wordnet(folder.path(), SymmetricKinds::kBothWays);
  REQUIRE_FALSE(missing.ok());
  CHECK(missing.error().code == Code::kNotFound);
  CHECK(missing.error().message.find("data.adv") != std::string::npos);
}

TEST_CASE("the installed WordNet 3.0 gives 235,402 triples of 18 kinds over 116,650 entities" *
          doctest::skip(!std::filesystem::exists("/usr/share/wordnet/data.noun"))) {
  const Result<KnowledgeGraph> graph = load_graph({});
  REQUIRE(graph.ok());
  CHECK(graph->entity_count() == 116650);
  CHECK(graph->relation_count() == 18);
  CHECK(graph->train.size() == 229402);
  CHECK(graph->valid.size() == 3000);
  CHECK(graph->test.size() == 3000);
  REQUIRE(find_entity(*graph, "dog").ok());
  CHECK(graph->entities[*find_entity(*graph, "dog")] == "dog.n.01");
}

}  // namespace
}  // namespace troupe::wordnet
