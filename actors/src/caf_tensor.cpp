// Tensors under CAF's inspection.
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include <troupe/actors/caf.hpp>

#include "tensor_streams.hpp"

namespace troupe {

namespace {

/// Whether so many extents make a shape that exists: none negative, and the product of all fits.
bool is_shape(const std::vector<std::int64_t>& extents) {
  if (extents.size() > Shape::kMaxRank) return false;
  std::int64_t elements = 1;
  for (const std::int64_t extent : extents)
    if (extent < 0 || __builtin_mul_overflow(elements, extent, &elements)) return false;
  return true;
}

}  // namespace

caf::error inspect(caf::serializer& sink, Tensor& tensor) {
  if (auto* ours = dynamic_cast<TensorSerializer*>(&sink)) {
    ours->put(tensor);
    return caf::none;
  }
  auto dtype = static_cast<std::uint8_t>(tensor.dtype());
  const auto extents = tensor.shape().extents();
  std::vector<std::int64_t> shape(extents.begin(), extents.end());
  const Tensor packed = tensor.contiguous();
  std::string bytes(reinterpret_cast<const char*>(packed.data()), packed.bytes());
  return sink(dtype, shape, bytes);
}

caf::error inspect(caf::deserializer& source, Tensor& tensor) {
  if (auto* ours = dynamic_cast<TensorDeserializer*>(&source)) {
    if (ours->take(tensor)) return caf::none;
    return caf::sec::end_of_stream;
  }
  std::uint8_t dtype = 0;
  std::vector<std::int64_t> extents;
  std::string bytes;
  if (auto error = source(dtype, extents, bytes)) return error;
  if (dtype > static_cast<std::uint8_t>(DType::kBool) || !is_shape(extents))
    return caf::sec::invalid_argument;
  const Shape shape{std::span<const std::int64_t>(extents)};
  const std::size_t width = size_of(static_cast<DType>(dtype));
  if (bytes.size() % width != 0 || bytes.size() / width != static_cast<std::size_t>(shape.elements()))
    return caf::sec::invalid_argument;
  tensor = Tensor::empty(static_cast<DType>(dtype), shape);
  if (!bytes.empty()) std::memcpy(tensor.data(), bytes.data(), bytes.size());
  return caf::none;
}

std::string to_string(const Tensor& tensor) {
  return tensor.to_string();
}

}  // namespace troupe
