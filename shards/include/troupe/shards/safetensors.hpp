#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <troupe/runtime/result.hpp>
#include <troupe/shards/file_io.hpp>

namespace troupe::shards {

/// The safetensors format: 8 bytes little-endian length of the header; the header, a JSON object of
/// {name: {"dtype", "shape", "data_offsets": [begin, end)}} with an optional "__metadata__" of strings,
/// padded with spaces; then the data, which the tensors cover without gap or overlap.
struct SafetensorsEntry {
  std::string name;
  std::string dtype;  ///< "F32", "U64" ...
  std::vector<std::uint64_t> shape;
  std::uint64_t begin = 0;  ///< in the file, not in the data
  std::uint64_t bytes = 0;
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  ///< in the order in which they lie in the file
  std::map<std::string, std::string> metadata;
  std::uint32_t crc32c = 0;  ///< of what stands before the first tensor

  /// Null if there is none.
  const SafetensorsEntry* find(std::string_view name) const;
};

/// Bytes of one element; 0 for a dtype that is not known.
std::uint64_t safetensors_dtype_bytes(std::string_view dtype);

/// The header's bytes with its length before, for these tensors one after the other (begin is ignored).
std::string encode_safetensors_header(const std::vector<SafetensorsEntry>& entries,
                                      const std::map<std::string, std::string>& metadata);

/// kDataLoss, naming the file, for anything that is not as the format says.
Result<SafetensorsHeader> read_safetensors_header(const FileReader& file);

}  // namespace troupe::shards
