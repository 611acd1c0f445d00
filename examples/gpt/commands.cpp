#include "gpt/commands.hpp"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <system_error>
#include <utility>

#include <troupe/kernels/blas.hpp>
#include <troupe/runtime/json.hpp>
#include <troupe/runtime/random.hpp>

#include "gpt/model_files.hpp"

namespace troupe::gpt {
namespace {

std::string clock_text(double seconds) {
  const auto whole = static_cast<long>(seconds);
  const std::string rest = std::to_string(whole % 60);
  return std::to_string(whole / 60) + (rest.size() < 2 ? ":0" : ":") + rest;
}

/// A line that is written over on a terminal, and left out elsewhere.
void tell_progress(const Settings& settings, std::uint64_t steps, double loss, double rate) {
  if (::isatty(STDOUT_FILENO) == 0) return;
  std::printf("\r\x1b[Kstep %5llu of %llu: loss %.4f, %s tokens/s", static_cast<unsigned long long>(steps),
              static_cast<unsigned long long>(settings.steps), loss, human(rate).c_str());
  std::fflush(stdout);
}

void tell_evaluation(const Evaluation& evaluation, double rate) {
  const bool terminal = ::isatty(STDOUT_FILENO) != 0;
  std::printf("%sstep %5llu: loss %.4f, valid %.4f, %s tokens/s, training for %s\n",
              terminal ? "\r\x1b[K" : "", static_cast<unsigned long long>(evaluation.steps), evaluation.loss,
              evaluation.valid, human(rate).c_str(), clock_text(evaluation.seconds).c_str());
  std::fflush(stdout);
}

Result<std::string> sample_of(const Settings& settings, const RunData& data,
                              const std::vector<float>& weights) {
  auto machine = Machine::open(settings.device);
  if (!machine) return machine.error();
  return sample(**machine, settings.shape, weights, *data.tokenizer, settings.prompt,
                {.tokens = settings.sample_tokens, .seed = settings.seed});
}

Result<void> make_folder(const std::filesystem::path& folder) {
  std::error_code failed;
  std::filesystem::create_directories(folder, failed);
  if (failed) return errno_error(failed.value(), "making the folder " + folder.string());
  return {};
}

/// What a member, or the only one there is, does.
struct Run {
  const Settings& settings;
  const RunData& data;
  const std::vector<float>& first_values;
  Stop& stop;
  Outcome outcome{};             // the first member's
  std::vector<float> weights{};  // likewise

  Result<void> save(Learner& learner, bool first, std::vector<float>* kept) const {
    auto all = learner.weights();
    if (!all) return all.error();
    if (auto saved = learner.save(settings.out); !saved) return saved;
    if (first)
      if (auto written = write_model(settings.out, settings.shape, *all, kernels::Element::kFloat32);
          !written)
        return written;
    if (kept) *kept = *std::move(all);
    return {};
  }

  Result<void> save_best(Learner& learner, bool first) const {
    const auto all = learner.weights();
    if (!all) return all.error();
    if (!first) return {};
    if (auto written = write_model(settings.out / "best", settings.shape, *all, kernels::Element::kFloat32);
        !written)
      return written;
    return data.tokenizer->write(settings.out / "best");
  }

  Result<void> go(Learner& learner, bool first) {
    if (settings.resume) {
      if (auto restored = learner.restore(settings.out); !restored) return restored;
      if (first) std::printf("going on after step %llu\n", static_cast<unsigned long long>(learner.steps()));
    }
    Told told;
    told.progress = [&](std::uint64_t steps, double loss, double rate) {
      tell_progress(settings, steps, loss, rate);
    };
    told.evaluation = tell_evaluation;
    told.save = [&] { return save(learner, first, nullptr); };
    if (settings.keep_best) told.best = [&] { return save_best(learner, first); };
    auto ended = train(learner, settings, stop, first, told);
    if (!ended) return ended.error();
    if (auto saved = save(learner, first, first ? &weights : nullptr); !saved) return saved;
    if (first) outcome = *std::move(ended);
    if (first && learner.peak_bytes() > 0)
      std::printf("memory of the GPU: %s bytes at most\n",
                  human(static_cast<double>(learner.peak_bytes())).c_str());
    return {};
  }

  Result<void> go_all() {
    if (settings.zero < 0) {
      auto learner = make_local_learner(settings, *data.corpus, first_values);
      return learner ? go(**learner, true) : learner.error();
    }
    return with_group(settings.members, [this](shards::Communicator& group) -> Result<void> {
      auto learner = make_zero_learner(settings, *data.corpus, first_values, group);
      return learner ? go(**learner, group.rank() == 0) : learner.error();
    });
  }
};

/// Milliseconds of a step by kernel, the longest first; they are waited for one by one.
Result<void> print_profile(Learner& learner) {
  constexpr int kSteps = 5;
  learner.profile();
  for (int i = 0; i < kSteps; ++i)
    if (auto stepped = learner.step(); !stepped) return stepped;
  const auto profiled = learner.profiled();
  std::vector<std::pair<std::string, Machine::Spent>> all(profiled.begin(), profiled.end());
  std::sort(all.begin(), all.end(),
            [](const auto& a, const auto& b) { return a.second.seconds > b.second.seconds; });
  for (const auto& [kernel, spent] : all)
    std::printf("%8.3f ms in %3llu  %s\n", 1e3 * spent.seconds / kSteps,
                static_cast<unsigned long long>(spent.times / kSteps),
                kernel.empty() ? "everything that is no product" : kernel.c_str());
  return {};
}

}  // namespace

Result<void> run_train(Settings settings, Stop& stop) {
  if (auto valid = settings.validate(); !valid) return valid;
  auto data = load_data(settings);
  if (!data) return data.error();
  if (auto made = make_folder(settings.out); !made) return made;
  if (auto written = data->tokenizer->write(settings.out); !written) return written;
  const Parameters parameters(settings.shape);
  std::vector<float> first_values(static_cast<std::size_t>(parameters.elements()));
  parameters.first_values(settings.shape.layers, settings.seed, first_values.data());
  std::printf("%s\n%s parameters\n\n", data->about.c_str(),
              human(static_cast<double>(parameters.numbers())).c_str());
  Samples samples;
  auto before = sample_of(settings, *data, first_values);
  if (!before) return before.error();
  samples.before = *std::move(before);
  std::printf("before training:\n%s\n\n", samples.before.substr(0, 200).c_str());
  std::fflush(stdout);

  Run run{settings, *data, first_values, stop};
  if (auto ended = run.go_all(); !ended) return ended;
  auto after = sample_of(settings, *data, run.weights);
  if (!after) return after.error();
  samples.after = *std::move(after);
  std::printf("\nafter training:\n%s\n\n", samples.after.c_str());
  if (const Evaluation* const best = run.outcome.best())
    std::printf("best evaluation: valid %.4f after step %llu\n", best->valid,
                static_cast<unsigned long long>(best->steps));
  std::printf("%s of training at %s tokens/s%s\n\nreport: %s\nmodel and checkpoint: %s\n",
              clock_text(run.outcome.seconds).c_str(), human(run.outcome.tokens_per_second()).c_str(),
              run.outcome.stopped ? ", stopped; --resume goes on" : "",
              (settings.out / "report.html").string().c_str(), settings.out.string().c_str());
  return write_run_report(settings, *data, run.outcome, samples);
}

Result<void> run_sample(const SampleCommand& command) {
  const auto model = read_model(command.model);
  if (!model) return model.error();
  const auto tokenizer = read_tokenizer(command.model);
  if (!tokenizer) return tokenizer.error();
  if ((*tokenizer)->size() > model->shape.vocabulary)
    return Error{Code::kFailedPrecondition, command.model + ": its tokenizer knows " +
                                                std::to_string((*tokenizer)->size()) + " tokens, its model " +
                                                std::to_string(model->shape.vocabulary)};
  const auto machine = Machine::open(command.device);
  if (!machine) return machine.error();
  const auto text =
      sample(**machine, model->shape, model->weights, **tokenizer, command.prompt, command.options);
  if (!text) return text.error();
  std::printf("%s%s\n", command.prompt.c_str(), text->c_str());
  return {};
}

Result<void> run_copy(const CopyCommand& command) {
  const auto model = read_model(command.from);
  if (!model) return model.error();
  if (auto written = write_model(command.to, model->shape, model->weights, command.element); !written)
    return written;
  const auto tokenizer = read_tokenizer(command.from);
  if (tokenizer) {
    if (auto written = (*tokenizer)->write(command.to); !written) return written;
  } else if (tokenizer.error().code != Code::kNotFound) {
    return tokenizer.error();
  }
  std::printf("%s: %s parameters%s\n", command.to.c_str(),
              human(static_cast<double>(Parameters(model->shape).numbers())).c_str(),
              tokenizer ? ", and their tokenizer" : "");
  return {};
}

Result<void> run_bench(Settings settings, double seconds, bool profile) {
  if (settings.shape.vocabulary == 0) settings.shape.vocabulary = 65;
  if (auto valid = settings.validate(); !valid) return valid;
  Random random(settings.seed);
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(64 * (settings.shape.block + 1)));
  for (std::int32_t& each : tokens)
    each = static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(settings.shape.vocabulary)));
  const auto corpus = Corpus::make(std::move(tokens), settings.shape.block, 0.5);
  if (!corpus) return corpus.error();
  const Parameters parameters(settings.shape);
  std::vector<float> first_values(static_cast<std::size_t>(parameters.elements()));
  parameters.first_values(settings.shape.layers, settings.seed, first_values.data());
  auto learner = make_local_learner(settings, *corpus, first_values);
  if (!learner) return learner.error();
  using Clock = std::chrono::steady_clock;
  Clock::time_point begun;
  std::clock_t cpu_begun = 0;
  std::uint64_t steps = 0;
  double passed = 0;
  constexpr std::uint64_t kWarm = 3;
  for (; steps < kWarm + 3 || passed < seconds; ++steps) {
    if (steps == kWarm) begun = Clock::now(), cpu_begun = std::clock();
    if (auto stepped = (*learner)->step(); !stepped) return stepped;
    // A GPU is waited for now and then only.
    if (steps + 1 == kWarm || steps % 8 == 7)
      if (const auto loss = (*learner)->loss(); !loss) return loss.error();
    if (steps >= kWarm) passed = std::chrono::duration<double>(Clock::now() - begun).count();
  }
  if (const auto loss = (*learner)->loss(); !loss) return loss.error();
  passed = std::chrono::duration<double>(Clock::now() - begun).count();
  const double cpu = static_cast<double>(std::clock() - cpu_begun) / CLOCKS_PER_SEC;
  const auto tokens_done = static_cast<double>(
      (steps - kWarm) * static_cast<std::uint64_t>(settings.batch * settings.shape.block));
  const Json line{{"name", "gpt_train_" + settings.device},
                  {"value", tokens_done / passed},
                  {"unit", "tokens/s"},
                  {"per_cpu_second", tokens_done / cpu},
                  {"parameters", parameters.numbers()},
                  {"peak_bytes", (*learner)->peak_bytes()}};
  std::printf("%s\n", line.dump().c_str());
  return profile ? print_profile(**learner) : Result<void>();
}

}  // namespace troupe::gpt
