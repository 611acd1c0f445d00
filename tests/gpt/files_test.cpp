// Models in Hugging Face's files: read, computed and written as transformers do (scripts/gpt_vectors.py).
#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>

#include <troupe/runtime/files.hpp>
#include <troupe/runtime/json.hpp>

#include "gpt/model_files.hpp"
#include "gpt/sampler.hpp"
#include "gpt/state_file.hpp"
#include "gpt/tensor_file.hpp"
#include "support/temporary_folder.hpp"

using namespace troupe;
using namespace troupe::gpt;

namespace {

const std::filesystem::path kData = std::filesystem::path(TROUPE_TEST_DATA) / "model";

}  // namespace

TEST_CASE("logits are those of transformers on the same weights") {
  const auto model = read_model(kData).value();
  const Json expected = read_json_file((kData / "logits.json").string()).value();
  const auto machine = Machine::open("cpu").value();
  const auto logits =
      all_logits(*machine, model.shape, model.weights, expected.at("tokens").get<std::vector<std::int32_t>>())
          .value();
  const auto theirs = expected.at("logits").get<std::vector<double>>();
  REQUIRE(logits.size() == theirs.size());
  double worst = 0;
  for (std::size_t i = 0; i < theirs.size(); ++i)
    worst = std::max(worst, std::abs(double{logits[i]} - theirs[i]));
  CHECK(worst < 1e-3);
  CHECK(worst < 2e-5);
}

TEST_CASE("a model that is written comes back, in 16 bits rounded") {
  const auto model = read_model(kData).value();
  const test::TemporaryFolder folder;
  REQUIRE(write_model(folder.path() / "new", model.shape, model.weights, kernels::Element::kFloat32).ok());
  const auto again = read_model(folder.path() / "new").value();
  CHECK(again.shape == model.shape);
  CHECK(again.weights == model.weights);
  REQUIRE(write_model(folder.path() / "new", model.shape, model.weights, kernels::Element::kBFloat16).ok());
  const auto rounded = read_model(folder.path() / "new").value();
  double worst = 0;
  for (std::size_t i = 0; i < model.weights.size(); ++i)
    worst = std::max(worst, std::abs(double{rounded.weights[i]} - double{model.weights[i]}) /
                                (std::abs(double{model.weights[i]}) + 1e-9));
  CHECK(worst > 0);
  CHECK(worst <= 1.0 / 256);
}

TEST_CASE("models of other kinds and broken files are refused, naming what is wrong") {
  const test::TemporaryFolder folder;
  const auto weights = folder.path() / "model.safetensors";
  std::filesystem::copy_file(kData / "model.safetensors", weights);
  const Json good = read_json_file((kData / "config.json").string()).value();
  const auto refusal = [&](const char* key, const Json& value) {
    Json config = good;
    config[key] = value;
    REQUIRE(write_file_atomically((folder.path() / "config.json").string(), config.dump()).ok());
    const auto read = read_model(folder.path());
    REQUIRE(!read.ok());
    CHECK(read.error().message.find(key) != std::string::npos);
    return read.error().code;
  };
  CHECK(refusal("model_type", "llama") == Code::kInvalidArgument);
  CHECK(refusal("activation_function", "relu") == Code::kInvalidArgument);
  CHECK(refusal("n_inner", 17) == Code::kInvalidArgument);
  CHECK(refusal("tie_word_embeddings", false) == Code::kInvalidArgument);
  CHECK(refusal("n_layer", "2") == Code::kInvalidArgument);
  Json config = good;
  config["n_layer"] = 3;
  REQUIRE(write_file_atomically((folder.path() / "config.json").string(), config.dump()).ok());
  CHECK(read_model(folder.path()).error().message.find("h.2.ln_1.weight is missing") != std::string::npos);
  config["n_layer"] = 2;
  config["n_positions"] = 25;
  REQUIRE(write_file_atomically((folder.path() / "config.json").string(), config.dump()).ok());
  CHECK(read_model(folder.path()).error().message.find("wpe.weight is [24, 16], not [25, 16]") !=
        std::string::npos);
  REQUIRE(write_file_atomically((folder.path() / "config.json").string(), good.dump()).ok());
  std::filesystem::resize_file(weights, std::filesystem::file_size(weights) - 1);
  CHECK(read_model(folder.path()).error().code == Code::kDataLoss);
  std::filesystem::remove(weights);
  CHECK(read_model(folder.path()).error().code == Code::kNotFound);
}

TEST_CASE("the state of training comes back; one of another model, or of no steps, is refused") {
  const ModelShape shape{.vocabulary = 5, .block = 4, .layers = 1, .heads = 1, .width = 2};
  const Parameters parameters(shape);
  State state;
  state.steps = 17;
  float next = 0;
  for (auto* const each : {&state.weights, &state.first_moments, &state.second_moments}) {
    each->assign(static_cast<std::size_t>(parameters.elements()), 0.0F);
    for (const Parameter& parameter : parameters.all())
      for (std::int64_t i = 0; i < parameter.n; ++i)
        (*each)[static_cast<std::size_t>(parameter.offset + i)] = next += 1;
  }
  const test::TemporaryFolder folder;
  REQUIRE(write_state(folder.path(), parameters, state).ok());
  const auto again = read_state(folder.path(), parameters).value();
  CHECK(again.steps == 17);
  CHECK(again.weights == state.weights);
  CHECK(again.first_moments == state.first_moments);
  CHECK(again.second_moments == state.second_moments);
  ModelShape other = shape;
  other.block = 5;
  CHECK(read_state(folder.path(), Parameters(other)).error().code == Code::kDataLoss);
  REQUIRE(write_tensors(folder.path() / "training.safetensors", {}, {}, kernels::Element::kFloat32).ok());
  CHECK(read_state(folder.path(), parameters).error().message.find("does not say its steps") !=
        std::string::npos);
}
