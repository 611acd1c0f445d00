#include "gpt/tensor_file.hpp"

#include <algorithm>
#include <span>
#include <utility>

#include <troupe/kernels/cast.hpp>
#include <troupe/runtime/files.hpp>

namespace troupe::gpt {
namespace {

using kernels::Element;

std::string text_of(const std::vector<std::uint64_t>& shape) {
  std::string text;
  for (const std::uint64_t extent : shape) text += (text.empty() ? "" : ", ") + std::to_string(extent);
  return "[" + text + "]";
}

void to_halves(Element element, const float* from, std::int64_t n, std::uint16_t* to) {
  (element == Element::kFloat16 ? kernels::float32_to_float16 : kernels::float32_to_bfloat16)(from, n, to);
}

}  // namespace

Result<void> write_tensors(const std::filesystem::path& file, const std::vector<TensorToWrite>& tensors,
                           const std::map<std::string, std::string>& metadata, Element element) {
  const char* const dtype = element == Element::kFloat32   ? "F32"
                            : element == Element::kFloat16 ? "F16"
                                                           : "BF16";
  std::vector<shards::SafetensorsEntry> entries;
  for (const TensorToWrite& each : tensors) {
    const auto extents = each.shape.extents();
    entries.push_back({each.name, dtype, std::vector<std::uint64_t>(extents.begin(), extents.end()), 0,
                       static_cast<std::uint64_t>(each.shape.elements()) * kernels::size_of(element)});
  }
  const std::string header = shards::encode_safetensors_header(entries, metadata);
  std::filesystem::path fresh = file;
  fresh += ".new";
  {
    shards::FileWriter writer(fresh);
    writer.write(0, std::as_bytes(std::span(header)));
    std::uint64_t at = header.size();
    std::vector<std::uint16_t> halves;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const auto n = static_cast<std::size_t>(tensors[i].shape.elements());
      std::span<const std::byte> bytes = std::as_bytes(std::span(tensors[i].values, n));
      if (element != Element::kFloat32) {
        halves.resize(n);
        to_halves(element, tensors[i].values, static_cast<std::int64_t>(n), halves.data());
        bytes = std::as_bytes(std::span(halves));
      }
      writer.write(at, bytes);
      at += bytes.size();
    }
    if (auto finished = writer.finish(); !finished) return finished;
  }
  std::error_code failed;
  std::filesystem::rename(fresh, file, failed);
  if (failed) return errno_error(failed.value(), "renaming " + fresh.string());
  return sync_directory(file.has_parent_path() ? file.parent_path().string() : ".");
}

Result<TensorFile> TensorFile::open(const std::filesystem::path& file) {
  auto reader = shards::FileReader::open(file);
  if (!reader) return reader.error();
  auto header = shards::read_safetensors_header(*reader);
  if (!header) return header.error();
  return TensorFile(*std::move(reader), *std::move(header));
}

Result<void> TensorFile::read(const std::string& name, const Shape& shape, float* to) const {
  const auto wrong = [&](const std::string& what) {
    return Error{Code::kDataLoss, reader_.path().string() + ": the tensor " + name + " " + what};
  };
  const shards::SafetensorsEntry* const entry = header_.find(name);
  if (!entry) return wrong("is missing");
  const auto extents = shape.extents();
  if (!std::equal(entry->shape.begin(), entry->shape.end(), extents.begin(), extents.end()))
    return wrong("is " + text_of(entry->shape) + ", not " + shape.to_string());
  const auto n = static_cast<std::size_t>(shape.elements());
  const bool whole = entry->dtype == "F32";
  if (!whole && entry->dtype != "F16" && entry->dtype != "BF16")
    return wrong("is of type " + entry->dtype + "; F32, F16 and BF16 can be read");
  if (entry->bytes != n * (whole ? 4 : 2)) return wrong("has " + std::to_string(entry->bytes) + " bytes");
  if (whole) return reader_.read(entry->begin, std::as_writable_bytes(std::span(to, n)));
  std::vector<std::uint16_t> halves(n);
  if (auto got = reader_.read(entry->begin, std::as_writable_bytes(std::span(halves))); !got) return got;
  (entry->dtype == "F16" ? kernels::float16_to_float32 : kernels::bfloat16_to_float32)(
      halves.data(), static_cast<std::int64_t>(n), to);
  return {};
}

}  // namespace troupe::gpt
