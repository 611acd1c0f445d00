#pragma once

#include <filesystem>
#include <vector>

#include <troupe/kernels/place.hpp>
#include <troupe/runtime/result.hpp>

#include "gpt/model_shape.hpp"

namespace troupe::gpt {

/// A model as Hugging Face's transformers write and read it: config.json and model.safetensors.
struct ModelFiles {
  ModelShape shape;
  std::vector<float> weights;  ///< as Parameters lays them out
};

/// Names with and without "transformer." are read. kNotFound; kInvalidArgument: config.json is of another
/// kind of model, naming what differs; kDataLoss: model.safetensors has not what it must.
Result<ModelFiles> read_model(const std::filesystem::path& folder);
/// Into a folder that is made if missing.
Result<void> write_model(const std::filesystem::path& folder, const ModelShape& shape,
                         const std::vector<float>& weights, kernels::Element element);

}  // namespace troupe::gpt
