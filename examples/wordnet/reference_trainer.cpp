#include "wordnet/reference_trainer.hpp"

#include <algorithm>
#include <chrono>
#include <thread>

#include <troupe/runtime/process.hpp>
#include <troupe/training/permutation.hpp>

#include "wordnet/batch_plan.hpp"
#include "wordnet/initial_rows.hpp"
#include "wordnet/sampler.hpp"

namespace troupe::wordnet {
namespace {

// Calls task(0), ..., task(threads - 1), each on a thread of its own, the first on this one.
template <class Task>
void in_parallel(std::size_t threads, const Task& task) {
  std::vector<std::thread> others;
  std::size_t begun = 1;
  for (; begun < threads; ++begun) {
    auto other = start_thread([&task, begun] { task(begun); });
    if (!other) break;  // no more are to be had: this one does their part
    others.push_back(std::move(*other));
  }
  task(std::size_t{0});
  for (; begun < threads; ++begun) task(begun);
  for (std::thread& other : others) other.join();
}

// Different random rows for the two tables of one seed.
constexpr std::uint64_t kEntityTable = 1;
constexpr std::uint64_t kRelationTable = 2;

}  // namespace

LocalTable::LocalTable(std::size_t rows, std::size_t width, std::uint64_t seed,
                       const HyperParameters& parameters)
    : width_(width),
      stride_(width + static_cast<std::size_t>(kernels::adagrad_state(static_cast<std::int64_t>(width)))),
      optimizer_{parameters.learning_rate, parameters.epsilon},
      memory_(rows * stride_),
      stripes_(std::make_unique<std::mutex[]>(kStripes)) {
  for (std::size_t row = 0; row < rows; ++row) {
    initial_row(seed, row, parameters.initial_scale, std::span(memory_).subspan(row * stride_, width));
  }
}

void LocalTable::gather(std::span<const std::uint64_t> keys, float* out) {
  for (const std::uint64_t key : keys) {
    const std::lock_guard lock(stripe(key));
    out = std::copy_n(memory_.data() + key * stride_, width_, out);
  }
}

void LocalTable::update(std::span<const std::uint64_t> keys, const float* grads) {
  for (const std::uint64_t key : keys) {
    const std::lock_guard lock(stripe(key));
    kernels::adagrad_row(memory_.data() + key * stride_, grads, static_cast<std::int64_t>(width_),
                         optimizer_);
    grads += width_;
  }
}

void LocalTable::set_values(std::span<const float> values) {
  for (std::size_t row = 0; row * stride_ < memory_.size(); ++row) {
    float* at = memory_.data() + row * stride_;
    std::copy_n(values.data() + row * width_, width_, at);
    std::fill(at + width_, at + stride_, 0.0F);
  }
}

std::vector<float> LocalTable::values() const {
  const std::size_t rows = memory_.size() / stride_;
  std::vector<float> values(rows * width_);
  for (std::size_t row = 0; row < rows; ++row) {
    std::copy_n(memory_.data() + row * stride_, width_, values.data() + row * width_);
  }
  return values;
}

RankingSums evaluate_in_parallel(const ModelView& model, const KnownAnswers& known,
                                 std::span<const Triple> triples, std::size_t threads) {
  std::vector<RankingSums> parts(threads);
  in_parallel(threads, [&](std::size_t part) {
    const std::size_t first = triples.size() * part / threads;
    const std::size_t end = triples.size() * (part + 1) / threads;
    parts[part] = evaluate(model, known, triples.subspan(first, end - first));
  });
  RankingSums sums;
  for (const RankingSums& part : parts) sums += part;
  return sums;
}

ReferenceTrainer::ReferenceTrainer(const KnowledgeGraph& graph, const HyperParameters& parameters)
    : graph_(graph),
      parameters_(parameters),
      sampler_(graph.train, graph.entity_count(), graph.relation_count(), parameters.batch_size,
               parameters.negatives, parameters.seed),
      entities_(graph.entity_count(), parameters.row_width(), training::mix64(parameters.seed, kEntityTable),
                parameters),
      relations_(2 * graph.relation_count(), parameters.row_width(),
                 training::mix64(parameters.seed, kRelationTable), parameters) {}

struct ReferenceTrainer::Work {
  Work(std::uint64_t which, const std::function<void(std::uint64_t)>& callback)
      : epoch(which), on_batch(callback) {}

  std::uint64_t epoch;
  const std::function<void(std::uint64_t)>& on_batch;
  std::atomic<std::uint64_t> next_batch{0};
  std::atomic<std::uint64_t> examples_done{0};
  std::mutex mutex;
  double loss_sum = 0;  // under mutex
};

EpochStats ReferenceTrainer::run_epoch(std::uint64_t epoch, std::size_t threads,
                                       const std::function<void(std::uint64_t)>& on_batch) {
  const auto start = std::chrono::steady_clock::now();
  Work work(epoch, on_batch);
  in_parallel(threads, [&](std::size_t) { train(work); });
  EpochStats stats;
  stats.examples = work.examples_done;
  stats.loss = work.loss_sum / static_cast<double>(stats.examples);
  stats.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return stats;
}

void ReferenceTrainer::train(Work& work) {
  BatchPlanner planner(graph_.entity_count(), 2 * graph_.relation_count());
  ComplexModel model(parameters_.dimension, parameters_.n3);
  Batch batch;
  BatchPlan plan;
  std::vector<float> entity_rows;
  std::vector<float> entity_grads;
  std::vector<float> relation_rows;
  std::vector<float> relation_grads;
  double loss_sum = 0;
  while (true) {
    const std::uint64_t index = work.next_batch.fetch_add(1);
    if (index >= sampler_.batches_per_epoch()) break;
    sampler_.sample(work.epoch, index, batch);
    planner.make(batch, plan);
    entity_rows.resize(plan.entity_keys.size() * model.row_width());
    entity_grads.resize(entity_rows.size());
    relation_rows.resize(plan.relation_keys.size() * model.row_width());
    relation_grads.resize(relation_rows.size());
    entities_.gather(plan.entity_keys, entity_rows.data());
    relations_.gather(plan.relation_keys, relation_rows.data());
    loss_sum +=
        model.step(plan, entity_rows.data(), relation_rows.data(), entity_grads.data(), relation_grads.data())
            .loss_sum;
    entities_.update(plan.entity_keys, entity_grads.data());
    relations_.update(plan.relation_keys, relation_grads.data());
    const std::uint64_t done = work.examples_done.fetch_add(batch.size()) + batch.size();
    if (work.on_batch) work.on_batch(done);
  }
  const std::lock_guard lock(work.mutex);
  work.loss_sum += loss_sum;
}

void ReferenceTrainer::start_from(const ModelRows& rows) {
  entities_.set_values(rows.entities);
  relations_.set_values(rows.relations);
}

ModelRows ReferenceTrainer::rows() const {
  return {parameters_.dimension, entities_.values(), relations_.values()};
}

}  // namespace troupe::wordnet
