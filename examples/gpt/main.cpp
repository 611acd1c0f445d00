// gpt: a language model of GPT-2's form: trains it on a text, lets it write, reads and writes Hugging Face's
// files.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <exception>

#include <troupe/actors/stop_signals.hpp>
#include <troupe/kernels/blas.hpp>
#include <troupe/runtime/process.hpp>

#include "gpt/commands.hpp"

namespace {

using namespace troupe;
using namespace troupe::gpt;

constexpr int kBadInput = 2;

void add_dtype(CLI::App& app, kernels::Element& element) {
  app.add_option_function<std::string>(
         "--dtype",
         [&element](const std::string& name) {
           element = name == "bf16"   ? kernels::Element::kBFloat16
                     : name == "fp16" ? kernels::Element::kFloat16
                                      : kernels::Element::kFloat32;
         },
         "Type of numbers: fp32, bf16, or fp16 for files")
      ->check(CLI::IsMember({"fp32", "bf16", "fp16"}))
      ->default_str("fp32");
}

void add_model_flags(CLI::App& app, Settings& settings) {
  const auto option = [&](const char* name, auto& value, const char* about) {
    app.add_option(name, value, about)->capture_default_str();
  };
  option("--layers", settings.shape.layers, "Layers of the model");
  option("--heads", settings.shape.heads, "Heads of attention");
  option("--width", settings.shape.width, "Numbers for a token");
  option("--block", settings.shape.block, "The longest text that it sees, in tokens");
  option("--batch", settings.batch, "Texts a step, all members together");
  option("--dropout", settings.dropout, "Share that is dropped in training");
  option("--seed", settings.seed,
         "Seed of first values, of which texts are learned from, of dropout and samples");
  option("--device", settings.device, "cpu, cuda or cuda:1");
  option("--threads", settings.threads, "On the CPU, without --zero; 0: one for each core");
  add_dtype(app, settings.element);
}

void add_train_flags(CLI::App& app, Settings& settings) {
  const auto option = [&](const char* name, auto& value, const char* about) {
    return app.add_option(name, value, about)->capture_default_str();
  };
  option("--text", settings.text, "A file of text to learn from; without it WordNet's definitions");
  option("--wordnet", settings.wordnet, "Folder of WordNet's data.* files");
  option("--tokens", settings.tokens, "'characters', 'bytes', or a folder with vocab.json and merges.txt");
  option("--validation", settings.validation, "The share of the text that it does not learn from");
  option("--zero", settings.zero, "Train in a group, by ZeRO of this stage, 0 to 3 (docs/zero.md)");
  option("--members", settings.members, "Of the group");
  option("--steps", settings.steps, "Steps in all");
  option("--rate", settings.rate, "The largest learning rate");
  option("--least-rate", settings.least_rate, "The last one");
  option("--warmup", settings.warmup, "Steps in which the rate rises");
  option("--weight-decay", settings.weight_decay, "Of AdamW, on matrices; with --zero on everything");
  option("--beta1", settings.beta1, "Of AdamW");
  option("--beta2", settings.beta2, "Of AdamW");
  option("--max-norm", settings.max_norm, "Of the gradients; 0: any");
  option("--evaluate-every", settings.evaluate_every, "Steps between evaluations");
  option("--evaluation-texts", settings.evaluation_texts, "Texts of an evaluation");
  option("--save-every", settings.save_every, "Steps between checkpoints; 0: one at the end");
  app.add_flag("--keep-best", settings.keep_best,
               "Write the model of the best evaluation to 'best' in --out");
  option("--out", settings.out, "Folder for the model, its checkpoint and the report");
  app.add_flag("--resume", settings.resume, "Go on from the checkpoint in --out, with the same flags");
  option("--prompt", settings.prompt, "What the samples go on from");
  option("--sample-tokens", settings.sample_tokens, "Their length");
}

void add_sample_flags(CLI::App& app, SampleCommand& command) {
  const auto option = [&](const char* name, auto& value, const char* about) {
    app.add_option(name, value, about)->capture_default_str();
  };
  option("--model", command.model, "Folder of the model");
  option("--device", command.device, "cpu, cuda or cuda:1");
  option("--prompt", command.prompt, "What it goes on from");
  option("--sample-tokens", command.options.tokens, "How many");
  option("--temperature", command.options.temperature, "0: always the likeliest");
  option("--top", command.options.most, "Of so many of the likeliest; 0: of all");
  option("--seed", command.options.seed, "Of the choice");
}

int run(int argc, char** argv) {
  CLI::App app("A language model of GPT-2's form, trained and run by Troupe");
  app.require_subcommand(1);
  Settings settings;
  SampleCommand sampling;
  CopyCommand copying;
  Settings benched;
  double bench_seconds = 3;
  bool profile = false;
  CLI::App& train = *app.add_subcommand("train", "Trains a model on a text");
  add_model_flags(train, settings);
  add_train_flags(train, settings);
  CLI::App& sample = *app.add_subcommand("sample", "Writes text with a model");
  add_sample_flags(sample, sampling);
  CLI::App& copy_in =
      *app.add_subcommand("import", "Reads a model of Hugging Face's, checks it and writes it");
  CLI::App& copy_out = *app.add_subcommand("export", "Writes a model as Hugging Face's transformers read it");
  for (CLI::App* const copy : {&copy_in, &copy_out}) {
    copy->add_option("--from", copying.from, "Folder with config.json and model.safetensors")->required();
    copy->add_option("--to", copying.to, "Folder to be written")->required();
    add_dtype(*copy, copying.element);
  }
  CLI::App& bench = *app.add_subcommand("bench", "Measures training on random tokens");
  add_model_flags(bench, benched);
  bench.add_option("--vocabulary", benched.shape.vocabulary, "Tokens that there are");
  bench.add_option("--seconds", bench_seconds, "How long")->capture_default_str();
  bench.add_flag("--profile", profile, "Also how long each kernel takes, which are waited for one by one");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kBadInput;
  }

  Stop stop;
  StopSignals signals;
  signals.start([&](int signal) {
    if (stop.asked() || !train.parsed()) std::_Exit(128 + signal);
    std::fprintf(stderr, "\nstopping after this step; once more ends at once\n");
    stop.ask();
  });
  const auto ended = train.parsed()    ? run_train(settings, stop)
                     : sample.parsed() ? run_sample(sampling)
                     : bench.parsed()  ? run_bench(benched, bench_seconds, profile)
                                       : run_copy(copying);
  signals.stop();
  if (ended) return 0;
  std::fprintf(stderr, "gpt: %s\n", ended.error().to_string().c_str());
  return ended.error().code == Code::kInvalidArgument ? kBadInput : 1;
}

}  // namespace

int main(int argc, char** argv) {
  open_standard_descriptors();
  kernels::restart_with_better_blas(argv);
  kernels::set_blas_threads(1);  // who trains has threads of his own, and one token's products are small
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "gpt: %s\n", error.what());
    return 1;
  }
}
