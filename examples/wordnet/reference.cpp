// wordnet_reference: trains the main job's model in one process, without calls and shards, and prints the
// figures that the distributed job is held against.
#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <exception>
#include <nlohmann/json.hpp>
#include <string>

#include <troupe/kernels/blas.hpp>
#include <troupe/runtime/process.hpp>

#include "wordnet/dataset.hpp"
#include "wordnet/flags.hpp"
#include "wordnet/reference_trainer.hpp"

namespace {

using namespace troupe::wordnet;

struct Options {
  DatasetOptions dataset;
  HyperParameters parameters;
  std::size_t epochs = 10;
  std::size_t threads = 1;
  std::size_t valid_every = 5;
  std::size_t neighbours = 10;
  std::vector<std::string> words{"dog", "computer", "run", "happy"};
};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void print_metrics(const char* what, const RankingMetrics& found, double seconds) {
  std::printf("%s: MRR %.4f, Hits@1 %.4f, Hits@3 %.4f, Hits@10 %.4f (%.1f s)\n", what, found.mrr,
              found.hits_at_1, found.hits_at_3, found.hits_at_10, seconds);
  std::fflush(stdout);
}

RankingMetrics evaluate(const ReferenceTrainer& trainer, const KnownAnswers& known,
                        const std::vector<Triple>& triples, const Options& options) {
  const ModelRows rows = trainer.rows();
  return metrics(evaluate_in_parallel(rows.view(), known, triples, options.threads));
}

void print_neighbours(const KnowledgeGraph& graph, const ReferenceTrainer& trainer, const Options& options) {
  const ModelRows rows = trainer.rows();
  for (const std::string& word : options.words) {
    const troupe::Result<std::uint32_t> entity = find_entity(graph, word);
    if (!entity) continue;
    std::printf("%s:", graph.entities[*entity].c_str());
    for (const Neighbour& neighbour : nearest_neighbours(rows.view(), *entity, options.neighbours)) {
      std::printf(" %s (%.2f)", graph.entities[neighbour.entity].c_str(), neighbour.similarity);
    }
    std::printf("\n");
  }
}

int run(const Options& options) {
  troupe::kernels::set_blas_threads(1);  // the threads are ours: one batch each
  const troupe::Result<KnowledgeGraph> graph = load_graph(options.dataset);
  if (!graph) {
    std::fprintf(stderr, "wordnet_reference: %s\n", graph.error().message.c_str());
    return 2;
  }
  std::printf("%s: %zu entities, %zu relations, %zu training, %zu validation and %zu test triples\n",
              graph->name.c_str(), graph->entity_count(), graph->relation_count(), graph->train.size(),
              graph->valid.size(), graph->test.size());
  const KnownAnswers known(*graph);
  ReferenceTrainer trainer(*graph, options.parameters);

  nlohmann::json valid_mrr = nlohmann::json::array();
  double train_seconds = 0;
  std::uint64_t examples = 0;
  for (std::uint64_t epoch = 1; epoch <= options.epochs; ++epoch) {
    const EpochStats stats = trainer.run_epoch(epoch, options.threads);
    train_seconds += stats.seconds;
    examples += stats.examples;
    std::printf("epoch %2llu: loss %.4f, %.1f s, %.0f triples/s\n", static_cast<unsigned long long>(epoch),
                stats.loss, stats.seconds, static_cast<double>(stats.examples) / stats.seconds);
    std::fflush(stdout);
    if (options.valid_every != 0 && epoch % options.valid_every == 0 && !graph->valid.empty()) {
      const auto start = std::chrono::steady_clock::now();
      const RankingMetrics found = evaluate(trainer, known, graph->valid, options);
      print_metrics("  validation", found, seconds_since(start));
      valid_mrr.push_back({{"epoch", epoch}, {"mrr", found.mrr}});
    }
  }
  const auto start = std::chrono::steady_clock::now();
  const RankingMetrics test = evaluate(trainer, known, graph->test, options);
  const double evaluation_seconds = seconds_since(start);
  print_metrics("test", test, evaluation_seconds);
  print_neighbours(*graph, trainer, options);
  const nlohmann::json result{{"test_mrr", test.mrr},
                              {"hits_at_1", test.hits_at_1},
                              {"hits_at_3", test.hits_at_3},
                              {"hits_at_10", test.hits_at_10},
                              {"valid_mrr", valid_mrr},
                              {"epochs", options.epochs},
                              {"threads", options.threads},
                              {"train_seconds", train_seconds},
                              {"evaluation_seconds", evaluation_seconds},
                              {"triples_per_second", train_seconds > 0 ? examples / train_seconds : 0}};
  std::printf("%s\n", result.dump().c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  troupe::open_standard_descriptors();
  troupe::kernels::restart_with_better_blas(argv);
  Options options;
  CLI::App app{"Trains ComplEx on a knowledge graph in one process: the reference of the wordnet example"};
  add_dataset_flags(app, options.dataset);
  add_hyper_parameter_flags(app, options.parameters);
  app.add_option("--epochs", options.epochs, "Passes over the training triples, in both directions")
      ->capture_default_str()
      ->check(zero_or_more());
  app.add_option("--threads", options.threads, "Threads that train and evaluate")
      ->capture_default_str()
      ->check(CLI::Range(1, 1024));
  app.add_option("--valid-every", options.valid_every, "Epochs between validations; 0 is never")
      ->capture_default_str();
  app.add_option("--words", options.words, "Print the nearest neighbours of these entities")
      ->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const bool help = error.get_exit_code() == 0;
    app.exit(error);
    return help ? 0 : 2;
  }
  try {
    return run(options);
  } catch (const std::exception& exception) {
    return std::fprintf(stderr, "wordnet_reference: %s\n", exception.what()), 1;
  }
}
