#include "layout.hpp"

#include <set>
#include <utility>

namespace troupe::training {

namespace {

Error invalid(std::string why) {
  return {Code::kInvalidArgument, "a stream of weights: " + std::move(why)};
}

Error no_such(std::string_view name) {
  return {Code::kNotFound, "the stream has no tensor '" + std::string(name) + "'"};
}

}  // namespace

Result<std::shared_ptr<const WeightLayout>> WeightLayout::of(std::vector<WeightSpec> specs) {
  if (specs.empty()) return invalid("it needs a tensor at least");
  if (specs.size() > kMostTensors)
    return invalid("it can have " + std::to_string(kMostTensors) + " tensors at most, not " +
                   std::to_string(specs.size()));
  auto layout = std::make_shared<WeightLayout>();
  std::set<std::string_view> names;
  for (const WeightSpec& spec : specs) {
    if (spec.name.empty() || spec.name.size() > kLongestName)
      return invalid("a tensor's name has 1 to " + std::to_string(kLongestName) + " bytes");
    if (!names.insert(spec.name).second) return invalid("two tensors are named '" + spec.name + "'");
    std::uint64_t bytes = 0;
    try {
      const auto elements = static_cast<std::uint64_t>(spec.shape.elements());
      bytes = elements > kMostBytes ? kMostBytes + 1 : elements * size_of(spec.dtype);
    } catch (const BadTensor& bad) {
      return invalid("tensor '" + spec.name + "': " + bad.what());
    }
    if (bytes > kMostBytes || layout->bytes + bytes > kMostBytes)
      return invalid("with tensor '" + spec.name + "' it has more than " + std::to_string(kMostBytes >> 30) +
                     " GiB");
    layout->offsets.push_back(layout->bytes);
    layout->bytes += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }
  if (layout->bytes == 0) return invalid("its tensors have no elements");
  layout->specs = std::move(specs);
  return std::shared_ptr<const WeightLayout>(std::move(layout));
}

std::uint64_t WeightLayout::pieces(std::uint64_t piece_bytes) const {
  if (piece_bytes == 0) return 0;
  const std::uint64_t count = bytes / piece_bytes + (bytes % piece_bytes == 0 ? 0 : 1);
  return count <= kMostPieces ? count : 0;
}

std::uint64_t WeightLayout::bytes_of(std::size_t tensor) const {
  return static_cast<std::uint64_t>(specs[tensor].shape.elements()) * size_of(specs[tensor].dtype);
}

Result<std::size_t> WeightLayout::find(std::string_view name) const {
  for (std::size_t i = 0; i < specs.size(); ++i)
    if (specs[i].name == name) return i;
  return no_such(name);
}

Tensor WeightLayout::tensor(std::size_t index, const Buffer& slab) const {
  if (index >= specs.size())
    throw BadTensor("the stream has " + std::to_string(specs.size()) + " tensors, and none numbered " +
                    std::to_string(index));
  return Tensor(specs[index].dtype, specs[index].shape, slab.slice(offsets[index], bytes_of(index)));
}

std::uint64_t Weights::version() const {
  return version_->number;
}
std::uint64_t Weights::generation() const {
  return version_->generation;
}
const std::map<std::string, std::string>& Weights::metadata() const {
  return version_->metadata;
}
std::span<const WeightSpec> Weights::specs() const {
  return version_->layout->specs;
}
Tensor Weights::tensor(std::size_t index) const {
  return version_->layout->tensor(index, version_->slab);
}
Result<Tensor> Weights::tensor(std::string_view name) const {
  auto found = version_->layout->find(name);
  if (!found) return std::move(found).error();
  return tensor(*found);
}

Tensor WeightDraft::tensor(std::size_t index) const {
  if (!layout_) throw BadTensor("this draft has been published");
  return layout_->tensor(index, slab_);
}
Result<Tensor> WeightDraft::tensor(std::string_view name) const {
  if (!layout_) return Error{Code::kFailedPrecondition, "this draft has been published"};
  auto found = layout_->find(name);
  if (!found) return std::move(found).error();
  return tensor(*found);
}

}  // namespace troupe::training
