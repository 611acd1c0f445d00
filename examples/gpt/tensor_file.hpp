#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <troupe/kernels/place.hpp>
#include <troupe/runtime/result.hpp>
#include <troupe/runtime/tensor.hpp>
#include <troupe/shards/file_io.hpp>
#include <troupe/shards/safetensors.hpp>

namespace troupe::gpt {

/// Float32 values that go into a file.
struct TensorToWrite {
  std::string name;
  Shape shape;
  const float* values = nullptr;
};

/// A safetensors file that is there wholly or not at all, its tensors in `element`.
Result<void> write_tensors(const std::filesystem::path& file, const std::vector<TensorToWrite>& tensors,
                           const std::map<std::string, std::string>& metadata, kernels::Element element);

/// A safetensors file of which tensors are read one by one.
class TensorFile {
 public:
  /// kNotFound, kDataLoss naming the file.
  static Result<TensorFile> open(const std::filesystem::path& file);
  const shards::SafetensorsHeader& header() const { return header_; }
  /// A tensor of F32, F16 or BF16 as float32. kDataLoss naming file and tensor: it is missing, or of another
  /// type or shape.
  Result<void> read(const std::string& name, const Shape& shape, float* to) const;

 private:
  TensorFile(shards::FileReader reader, shards::SafetensorsHeader header)
      : reader_(std::move(reader)), header_(std::move(header)) {}
  shards::FileReader reader_;
  shards::SafetensorsHeader header_;
};

}  // namespace troupe::gpt
