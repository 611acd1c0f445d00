#include "gpt/model_files.hpp"

#include <string>
#include <system_error>

#include <troupe/runtime/files.hpp>
#include <troupe/runtime/json.hpp>

#include "gpt/tensor_file.hpp"

namespace troupe::gpt {
namespace {

constexpr const char* kConfig = "config.json";
constexpr const char* kWeights = "model.safetensors";
constexpr std::string_view kPrefix = "transformer.";

/// What config.json has to say, or may leave out: this program computes that, and nothing else.
Result<void> check_kind(const Json& config, const std::string& file) {
  const auto is = [&](const char* key, const Json& wanted) -> Result<void> {
    const auto found = config.find(key);
    if (found == config.end() || found->is_null() || *found == wanted) return {};
    return Error{Code::kInvalidArgument, file + ": " + key + " is " + to_line(*found) + "; only " +
                                             to_line(wanted) + " is known here"};
  };
  if (!config.contains("model_type"))
    return Error{Code::kInvalidArgument, file + ": it does not say its model_type, \"gpt2\""};
  if (auto fits = is("model_type", "gpt2"); !fits) return fits;
  const auto activation = config.find("activation_function");
  if (activation != config.end() && *activation != "gelu_pytorch_tanh")
    if (auto fits = is("activation_function", "gelu_new"); !fits) return fits;
  for (const auto& [key, value] : {std::pair<const char*, Json>("tie_word_embeddings", true),
                                   {"scale_attn_weights", true},
                                   {"scale_attn_by_inverse_layer_idx", false},
                                   {"add_cross_attention", false}})
    if (auto fits = is(key, value); !fits) return fits;
  return {};
}

Result<ModelShape> read_config(const std::string& file) {
  const auto config = read_json_file(file);
  if (!config) return config.error();
  if (!config->is_object()) return Error{Code::kInvalidArgument, file + ": it is no object"};
  if (auto fits = check_kind(*config, file); !fits) return fits.error();
  ModelShape shape;
  for (const auto& [key, to] : {std::pair("vocab_size", &shape.vocabulary),
                                std::pair("n_positions", &shape.block), std::pair("n_layer", &shape.layers),
                                std::pair("n_head", &shape.heads), std::pair("n_embd", &shape.width)}) {
    const auto found = config->find(key);
    if (found == config->end() || !found->is_number_integer())
      return Error{Code::kInvalidArgument, file + ": it does not say its " + key + ", a whole number"};
    *to = found->get<std::int64_t>();
  }
  const auto inner = config->find("n_inner");
  if (inner != config->end() && !inner->is_null() && *inner != 4 * shape.width)
    return Error{Code::kInvalidArgument,
                 file + ": n_inner is " + to_line(*inner) + "; only four times n_embd is known"};
  if (const auto epsilon = config->find("layer_norm_epsilon");
      epsilon != config->end() && epsilon->is_number())
    shape.epsilon = epsilon->get<float>();
  if (auto valid = shape.validate(); !valid) return with_context(valid.error(), file);
  return shape;
}

}  // namespace

Result<ModelFiles> read_model(const std::filesystem::path& folder) {
  auto shape = read_config((folder / kConfig).string());
  if (!shape) return shape.error();
  const auto file = TensorFile::open(folder / kWeights);
  if (!file) return file.error();
  ModelFiles model{*shape, {}};
  const Parameters parameters(model.shape);
  model.weights.assign(static_cast<std::size_t>(parameters.elements()), 0.0F);
  for (const Parameter& each : parameters.all()) {
    std::string name(kPrefix);
    name += each.name;
    if (!file->header().find(name)) name = each.name;
    if (auto got = file->read(name, each.shape, model.weights.data() + each.offset); !got) return got.error();
  }
  return model;
}

Result<void> write_model(const std::filesystem::path& folder, const ModelShape& shape,
                         const std::vector<float>& weights, kernels::Element element) {
  std::error_code failed;
  std::filesystem::create_directories(folder, failed);
  if (failed) return errno_error(failed.value(), "making the folder " + folder.string());
  const Parameters parameters(shape);
  std::vector<TensorToWrite> tensors;
  tensors.reserve(parameters.all().size());
  for (const Parameter& each : parameters.all())
    tensors.push_back({std::string(kPrefix) + each.name, each.shape, weights.data() + each.offset});
  // As transformers say what wrote the tensors: without it they refuse the file.
  if (auto written = write_tensors(folder / kWeights, tensors, {{"format", "pt"}}, element); !written)
    return written;
  const Json config{{"model_type", "gpt2"},
                    {"architectures", {"GPT2LMHeadModel"}},
                    {"vocab_size", shape.vocabulary},
                    {"n_positions", shape.block},
                    {"n_layer", shape.layers},
                    {"n_head", shape.heads},
                    {"n_embd", shape.width},
                    {"layer_norm_epsilon", shape.epsilon},
                    {"activation_function", "gelu_new"},
                    {"tie_word_embeddings", true}};
  return write_file_atomically((folder / kConfig).string(), config.dump(2) + "\n");
}

}  // namespace troupe::gpt
