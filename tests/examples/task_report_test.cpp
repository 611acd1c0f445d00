// What only wordnet's report has.
#include <doctest/doctest.h>

#include "support/temporary_folder.hpp"
#include "wordnet/wordnet_task.hpp"

namespace troupe::wordnet {

TEST_CASE("neighbours are lines on the screen and lists on the page, names made safe") {
  const auto section =
      neighbour_section({{"dog.n.01", {{"wolf.n.01", 0.8}, {"<fox>", -0.5}}}, {"\"cat\"", {}}});
  CHECK(section.text == "dog.n.01:        wolf.n.01 <fox>\n\"cat\":          \n");
  CHECK(section.html.find("<h3>dog.n.01</h3><ol><li><i style=\"width:80.0%\"></i><b>wolf.n.01</b>"
                          "<span>0.80</span></li>") != std::string::npos);
  CHECK(section.html.find("width:0.0%\"></i><b>&lt;fox&gt;</b><span>-0.50") != std::string::npos);
  CHECK(section.html.find("<h3>&quot;cat&quot;</h3>") != std::string::npos);
}

TEST_CASE("the reference is the last line of what wordnet_reference printed") {
  const test::TemporaryFolder folder;
  folder.write(
      "good",
      "epoch 1\n{\"test_mrr\": 0.5, \"triples_per_second\": 1000, \"threads\": 2, \"epochs\": 3}\n\n");
  const auto reference = read_reference(folder / "good");
  REQUIRE(reference);
  CHECK(reference->score == 0.5);
  CHECK(reference->examples_per_second == 1000);
  CHECK(reference->description == "one process, 2 threads, 3 epochs");
  folder.write("bad", "{\"test_mrr\": 0.5}\n");
  CHECK(read_reference(folder / "bad").error().code == Code::kInvalidArgument);
  CHECK(read_reference(folder / "none").error().code == Code::kNotFound);
}

TEST_CASE("sums of ranks become metrics, the score first; the tables differ in their seeds") {
  const WordnetTask task;
  const auto metrics = task.metrics({4, 3, 2, 3, 4});
  REQUIRE(metrics.size() == 4);
  CHECK(metrics[0].key == "mrr");
  CHECK(metrics[0].value == 0.75);
  CHECK(metrics[1].value == 0.5);
  CHECK(metrics[3].value == 1.0);
  CHECK(task.metrics({})[0].value == 0);  // nothing was asked
  const auto tables = task.tables();
  REQUIRE(tables.size() == 2);
  CHECK(tables[0].seed != tables[1].seed);
}

}  // namespace troupe::wordnet
