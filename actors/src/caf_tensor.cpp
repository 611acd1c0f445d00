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

bool put_aside(AnySerializer& sink, const Tensor& tensor) {
  auto* ours = BinarySink::as<TensorSerializer>(sink);
  if (ours) ours->put(tensor);
  return ours;
}

std::optional<bool> take_back(AnyDeserializer& source, Tensor& tensor) {
  auto* ours = BinarySource::as<TensorDeserializer>(source);
  return ours ? std::optional(ours->take(tensor)) : std::nullopt;
}

TensorParts parts_of(const Tensor& tensor) {
  const auto extents = tensor.shape().extents();
  const Tensor packed = tensor.contiguous();
  return {.dtype = static_cast<std::uint8_t>(tensor.dtype()),
          .extents = std::vector<std::int64_t>(extents.begin(), extents.end()),
          .bytes = std::string(reinterpret_cast<const char*>(packed.data()), packed.bytes())};
}

bool make_tensor(const TensorParts& parts, Tensor& tensor) {
  if (parts.dtype > static_cast<std::uint8_t>(DType::kBool) || !is_shape(parts.extents)) return false;
  const auto dtype = static_cast<DType>(parts.dtype);
  const Shape shape{std::span<const std::int64_t>(parts.extents)};
  const std::size_t width = size_of(dtype), size = parts.bytes.size();
  if (size % width != 0 || size / width != static_cast<std::size_t>(shape.elements())) return false;
  tensor = Tensor::empty(dtype, shape);
  if (size > 0) std::memcpy(tensor.data(), parts.bytes.data(), size);
  return true;
}

std::string to_string(const Tensor& tensor) {
  return tensor.to_string();
}

}  // namespace troupe
