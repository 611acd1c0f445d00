#include "gpt/state_file.hpp"

#include <charconv>
#include <utility>

#include "gpt/tensor_file.hpp"

namespace troupe::gpt {
namespace {

constexpr const char* kFile = "training.safetensors";
constexpr std::pair<const char*, std::vector<float> State::*> kKinds[] = {
    {"", &State::weights},
    {"first_moment.", &State::first_moments},
    {"second_moment.", &State::second_moments}};

}  // namespace

Result<void> write_state(const std::filesystem::path& folder, const Parameters& parameters,
                         const State& state) {
  std::vector<TensorToWrite> tensors;
  tensors.reserve(3 * parameters.all().size());
  for (const auto& [prefix, values] : kKinds)
    for (const Parameter& each : parameters.all())
      tensors.push_back({prefix + each.name, each.shape, (state.*values).data() + each.offset});
  return write_tensors(folder / kFile, tensors, {{"steps", std::to_string(state.steps)}},
                       kernels::Element::kFloat32);
}

Result<State> read_state(const std::filesystem::path& folder, const Parameters& parameters) {
  const auto file = TensorFile::open(folder / kFile);
  if (!file) return file.error();
  State state;
  const auto& metadata = file->header().metadata;
  const auto steps = metadata.find("steps");
  const char* const end = steps == metadata.end() ? nullptr : steps->second.data() + steps->second.size();
  if (!end || std::from_chars(steps->second.data(), end, state.steps).ptr != end)
    return Error{Code::kDataLoss, (folder / kFile).string() + ": it does not say its steps"};
  for (const auto& [prefix, values] : kKinds) {
    (state.*values).assign(static_cast<std::size_t>(parameters.elements()), 0.0F);
    for (const Parameter& each : parameters.all())
      if (auto got = file->read(prefix + each.name, each.shape, (state.*values).data() + each.offset); !got)
        return got.error();
  }
  return state;
}

}  // namespace troupe::gpt
