// Training in one process. On the host each thread has a part of a step's texts and gradients of its own,
// which are added up; then each steps a part of the parameters.
#include <algorithm>
#include <cmath>
#include <functional>
#include <new>
#include <span>
#include <system_error>
#include <thread>
#include <utility>

#include <troupe/kernels/blas.hpp>
#include <troupe/kernels/elementwise.hpp>
#include <troupe/kernels/step.hpp>
#include <troupe/kernels/vector.hpp>

#include "gpt/learner.hpp"
#include "gpt/machine.hpp"
#include "gpt/state_file.hpp"

namespace troupe::gpt {
namespace {

using kernels::Element;

/// What no memory is left for is an error, also on a thread.
Result<void> guarded(const std::function<Result<void>(int)>& work, int number) {
  try {
    return work(number);
  } catch (const std::bad_alloc& none) {
    return Error{Code::kResourceExhausted, "no memory"};
  }
}

/// Calls work(0) ... work(count - 1), each on a thread of its own but for the first.
Result<void> in_parallel(int count, const std::function<Result<void>(int)>& work) {
  std::vector<Result<void>> ended(static_cast<std::size_t>(count));
  {
    std::vector<std::jthread> threads;
    threads.reserve(ended.size());
    for (int i = 1; i < count; ++i) {
      try {
        threads.emplace_back([&, i] { ended[static_cast<std::size_t>(i)] = guarded(work, i); });
      } catch (const std::system_error& none) {
        ended[static_cast<std::size_t>(i)] = guarded(work, i);
      }
    }
    ended[0] = guarded(work, 0);
  }
  for (Result<void>& each : ended)
    if (!each) return std::move(each);
  return {};
}

/// [begin, end) of the i-th of `count` parts of n, at multiples of `unit`.
std::pair<std::int64_t, std::int64_t> part_of(std::int64_t n, int i, int count, std::int64_t unit) {
  const std::int64_t units = (n + unit - 1) / unit;
  return {std::min(units * i / count * unit, n), std::min(units * (i + 1) / count * unit, n)};
}

class LocalLearner final : public Learner {
 public:
  LocalLearner(const Settings& settings, const Corpus& corpus)
      : settings_(settings), corpus_(corpus), parameters_(settings.shape) {}

  Result<void> open(const std::vector<float>& first_values);

  const Parameters& parameters() const override { return parameters_; }
  std::uint64_t steps() const override { return steps_; }
  Result<void> step() override;
  Result<double> loss() override;
  Result<double> norm() override;
  Result<double> validate() override;
  Result<std::vector<float>> weights() override { return read(floats_); }
  Result<void> save(const std::filesystem::path& folder) override;
  Result<void> restore(const std::filesystem::path& folder) override;
  void profile() override { machine().profile(); }
  std::map<std::string, Machine::Spent> profiled() const override { return workers_[0].machine->profiled(); }
  std::size_t peak_bytes() const override { return workers_[0].machine->peak_bytes(); }

 private:
  struct Worker {
    std::unique_ptr<Machine> machine;
    std::unique_ptr<Pass> pass;
    Buffer gradients;
    std::unique_ptr<FlatWeights> weights;
    std::int64_t first = 0;  // of a step's texts
    std::int64_t count = 0;
  };
  Machine& machine() { return *workers_[0].machine; }
  std::int64_t elements() const { return parameters_.elements(); }
  static float* floats(const Buffer& buffer) { return reinterpret_cast<float*>(buffer.data()); }
  Result<std::vector<float>> read(const Buffer& from);
  void write(const Buffer& to, const std::vector<float>& values);
  Result<void> gradients_of(Worker& worker, int number);
  void round_to_halves(std::int64_t begin, std::int64_t end);
  void step_part(std::int64_t begin, std::int64_t end);

  const Settings settings_;
  const Corpus& corpus_;
  const Parameters parameters_;
  std::vector<Worker> workers_;
  Buffer floats_, halves_, first_moments_, second_moments_, norm_;
  std::uint64_t steps_ = 0;
};

Result<void> LocalLearner::open(const std::vector<float>& first_values) {
  const bool on_host = settings_.device == "cpu";
  const int count =
      on_host ? static_cast<int>(std::min<std::int64_t>(settings_.thread_count(), settings_.batch)) : 1;
  // Each thread has products of its own: they need no others.
  if (on_host) kernels::set_blas_threads(1);
  workers_.resize(static_cast<std::size_t>(count));
  const auto bytes = static_cast<std::size_t>(elements()) * sizeof(float);
  for (int i = 0; i < count; ++i) {
    Worker& worker = workers_[static_cast<std::size_t>(i)];
    auto machine = Machine::open(settings_.device);
    if (!machine) return machine.error();
    worker.machine = *std::move(machine);
    const auto [begin, end] = part_of(settings_.batch, i, count, 1);
    worker.first = begin;
    worker.count = end - begin;
    auto pass = Pass::create(*worker.machine, settings_.shape,
                             {.element = settings_.element, .sequences = worker.count});
    if (!pass) return pass.error();
    worker.pass = *std::move(pass);
  }
  std::vector<Buffer*> needed{&floats_, &first_moments_, &second_moments_};
  needed.reserve(needed.size() + workers_.size());
  for (Worker& worker : workers_) needed.push_back(&worker.gradients);
  const auto take = [&](Buffer& buffer, std::size_t size) -> Result<void> {
    auto taken = machine().allocate(size);
    if (!taken) return with_context(taken.error(), "memory for the parameters and their state");
    buffer = *std::move(taken);
    return {};
  };
  for (Buffer* each : needed)
    if (auto taken = take(*each, bytes); !taken) return taken;
  if (settings_.element != Element::kFloat32)
    if (auto taken = take(halves_, bytes / 2); !taken) return taken;
  if (auto taken = take(norm_, sizeof(double) + kernels::kNormWorkspaceBytes); !taken) return taken;
  for (Worker& worker : workers_)
    worker.weights = std::make_unique<FlatWeights>(parameters_, floats(floats_),
                                                   reinterpret_cast<const std::uint16_t*>(halves_.data()),
                                                   floats(worker.gradients));
  write(floats_, first_values);
  round_to_halves(0, elements());
  return machine().finish();
}

void LocalLearner::round_to_halves(std::int64_t begin, std::int64_t end) {
  if (settings_.element == Element::kFloat32) return;
  machine().give(kernels::cast(machine().place(), Element::kFloat32, floats(floats_) + begin,
                               settings_.element, reinterpret_cast<std::uint16_t*>(halves_.data()) + begin,
                               end - begin));
}

Result<void> LocalLearner::gradients_of(Worker& worker, int number) {
  if (auto loaded =
          worker.pass->load(corpus_.training_batch(settings_.seed, steps_, worker.first, worker.count));
      !loaded)
    return loaded;
  const kernels::Dropout dropout{static_cast<float>(settings_.dropout),
                                 settings_.dropout_seed(steps_, number)};
  if (auto done = worker.pass->forward(*worker.weights, dropout); !done) return done;
  const float scale = 1.0F / static_cast<float>(settings_.batch * settings_.shape.block);
  return worker.pass->backward(*worker.weights, scale, dropout);
}

/// AdamW on elements [begin, end) of all; matrices alone are decayed.
void LocalLearner::step_part(std::int64_t begin, std::int64_t end) {
  std::vector<kernels::DenseTensor> tensors[2];
  for (const Parameter& each : parameters_.all()) {
    const std::int64_t from = std::max(begin, each.offset);
    const std::int64_t to = std::min(end, each.offset + each.n);
    if (from >= to) continue;
    tensors[each.matrix() ? 0 : 1].push_back({floats(floats_) + from,
                                              floats(workers_[0].gradients) + from,
                                              {floats(first_moments_) + from, floats(second_moments_) + from},
                                              to - from});
  }
  kernels::Step step{
      kernels::Rule::kAdamW,
      {settings_.rate_at(steps_), static_cast<float>(settings_.beta1), static_cast<float>(settings_.beta2),
       1e-8F, static_cast<float>(settings_.weight_decay)}};
  for (const auto& some : tensors) {
    machine().give(
        kernels::dense_step(machine().place(), step, some, static_cast<std::int64_t>(steps_) + 1, nullptr));
    step.numbers[4] = 0;
  }
}

Result<void> LocalLearner::step() {
  const int count = static_cast<int>(workers_.size());
  if (auto made =
          in_parallel(count, [&](int i) { return gradients_of(workers_[static_cast<std::size_t>(i)], i); });
      !made)
    return made;
  float* const gradients = floats(workers_[0].gradients);
  auto* const squared = reinterpret_cast<double*>(norm_.data());
  const kernels::Place place = machine().place();
  if (machine().on_gpu()) {
    machine().give(
        kernels::squared_norm(place, gradients, elements(), squared, norm_.data() + sizeof(double)));
    if (settings_.max_norm > 0)
      machine().give(kernels::clip_to_norm(place, gradients, elements(), squared,
                                           static_cast<float>(settings_.max_norm)));
    step_part(0, elements());
    round_to_halves(0, elements());
  } else {
    std::vector<double> squares(workers_.size());
    if (auto added = in_parallel(count,
                                 [&](int i) -> Result<void> {
                                   const auto [begin, end] = part_of(elements(), i, count, 1024);
                                   for (std::size_t w = 1; w < workers_.size(); ++w)
                                     kernels::add(gradients + begin, floats(workers_[w].gradients) + begin,
                                                  end - begin, gradients + begin);
                                   (void)kernels::squared_norm(place, gradients + begin, end - begin,
                                                               &squares[static_cast<std::size_t>(i)],
                                                               nullptr);
                                   return {};
                                 });
        !added)
      return added;
    *squared = 0;
    for (const double each : squares) *squared += each;
    if (auto stepped = in_parallel(count,
                                   [&](int i) -> Result<void> {
                                     const auto [begin, end] = part_of(elements(), i, count, 1024);
                                     if (settings_.max_norm > 0)
                                       (void)kernels::clip_to_norm(place, gradients + begin, end - begin,
                                                                   squared,
                                                                   static_cast<float>(settings_.max_norm));
                                     step_part(begin, end);
                                     round_to_halves(begin, end);
                                     return {};
                                   });
        !stepped)
      return stepped;
  }
  ++steps_;
  return machine().status();
}

Result<double> LocalLearner::loss() {
  double sum = 0;
  for (Worker& worker : workers_) {
    auto loss = worker.pass->loss();
    if (!loss) return loss;
    sum += *loss * static_cast<double>(worker.count) / static_cast<double>(settings_.batch);
  }
  return sum;
}

Result<double> LocalLearner::norm() {
  double squared = 0;
  if (auto got = machine().download(&squared, norm_.data(), sizeof squared); !got) return got.error();
  return std::sqrt(squared);
}

Result<double> LocalLearner::validate() {
  const int count = static_cast<int>(workers_.size());
  std::vector<double> sums(workers_.size());
  auto ended = in_parallel(count, [&](int i) -> Result<void> {
    Worker& worker = workers_[static_cast<std::size_t>(i)];
    const auto [begin, end] = part_of(settings_.evaluation_texts, i, count, 1);
    for (std::int64_t first = begin; first < end; first += worker.count) {
      const std::int64_t some = std::min(worker.count, end - first);
      if (auto done = worker.pass->load(corpus_.validation_batch(first, some, settings_.evaluation_texts));
          !done)
        return done;
      if (auto done = worker.pass->forward(*worker.weights); !done) return done;
      if (auto done = worker.pass->losses(*worker.weights); !done) return done;
      const auto loss = worker.pass->loss();
      if (!loss) return loss.error();
      sums[static_cast<std::size_t>(i)] += *loss * static_cast<double>(some);
    }
    return {};
  });
  if (!ended) return ended.error();
  double sum = 0;
  for (const double each : sums) sum += each;
  return sum / static_cast<double>(settings_.evaluation_texts);
}

Result<std::vector<float>> LocalLearner::read(const Buffer& from) {
  std::vector<float> values(static_cast<std::size_t>(elements()));
  if (auto got = machine().download(values.data(), from.data(), values.size() * sizeof(float)); !got)
    return got.error();
  return values;
}

void LocalLearner::write(const Buffer& to, const std::vector<float>& values) {
  machine().upload(to.data(), values.data(), values.size() * sizeof(float));
}

Result<void> LocalLearner::save(const std::filesystem::path& folder) {
  State state;
  state.steps = steps_;
  for (const auto& [to, from] :
       {std::pair(&state.weights, &floats_), std::pair(&state.first_moments, &first_moments_),
        std::pair(&state.second_moments, &second_moments_)}) {
    auto values = read(*from);
    if (!values) return values.error();
    *to = *std::move(values);
  }
  return write_state(folder, parameters_, state);
}

Result<void> LocalLearner::restore(const std::filesystem::path& folder) {
  const auto state = read_state(folder, parameters_);
  if (!state) return state.error();
  write(floats_, state->weights);
  write(first_moments_, state->first_moments);
  write(second_moments_, state->second_moments);
  round_to_halves(0, elements());
  if (auto done = machine().finish(); !done) return done;
  steps_ = state->steps;
  return {};
}

}  // namespace

Result<std::unique_ptr<Learner>> make_local_learner(const Settings& settings, const Corpus& corpus,
                                                    const std::vector<float>& first_values) {
  auto learner = std::make_unique<LocalLearner>(settings, corpus);
  if (auto opened = learner->open(first_values); !opened) return opened.error();
  return std::unique_ptr<Learner>(std::move(learner));
}

}  // namespace troupe::gpt
