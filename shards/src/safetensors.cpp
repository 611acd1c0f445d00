#include <troupe/shards/safetensors.hpp>

#include <algorithm>
#include <bit>
#include <cstring>
#include <span>
#include <utility>

#include <troupe/runtime/checksum.hpp>
#include <troupe/runtime/json.hpp>

namespace troupe::shards {
namespace {

static_assert(std::endian::native == std::endian::little, "tensors are written as they lie in memory");

constexpr std::uint64_t kLengthBytes = 8;
constexpr std::uint64_t kMaxHeaderBytes = std::uint64_t{1} << 20;  // ours have a few hundred
constexpr std::size_t kMaxRank = 8;

/// a * b into `product`; false if it does not fit.
bool multiply(std::uint64_t a, std::uint64_t b, std::uint64_t& product) {
  return !__builtin_mul_overflow(a, b, &product);
}

bool read_numbers(const Json& json, std::size_t most, std::vector<std::uint64_t>& numbers) {
  if (!json.is_array() || json.size() > most) return false;
  for (const Json& number : json) {
    if (!number.is_number_unsigned()) return false;
    numbers.push_back(number.get<std::uint64_t>());
  }
  return true;
}

/// Reads one tensor's description; empty text if it is good, else what is wrong with it.
std::string read_entry(const std::string& name, const Json& json, std::uint64_t data_bytes,
                       SafetensorsEntry& entry) {
  const auto dtype = json.is_object() ? json.find("dtype") : json.end();
  const auto shape = json.is_object() ? json.find("shape") : json.end();
  const auto offsets = json.is_object() ? json.find("data_offsets") : json.end();
  if (dtype == json.end() || shape == json.end() || offsets == json.end() || json.size() != 3) {
    return "is not described by dtype, shape and data_offsets";
  }
  if (!dtype->is_string() || safetensors_dtype_bytes(dtype->get<std::string>()) == 0) {
    return "has an unknown dtype";
  }
  entry.name = name;
  entry.dtype = dtype->get<std::string>();
  std::vector<std::uint64_t> range;
  if (!read_numbers(*shape, kMaxRank, entry.shape)) return "has a malformed shape";
  if (!read_numbers(*offsets, 2, range) || range.size() != 2 || range[0] > range[1] ||
      range[1] > data_bytes) {
    return "has data_offsets outside of the file";
  }
  entry.begin = range[0];
  entry.bytes = range[1] - range[0];
  std::uint64_t expected = safetensors_dtype_bytes(entry.dtype);
  for (const std::uint64_t extent : entry.shape) {
    if (!multiply(expected, extent, expected)) return "has a shape too large";
  }
  return expected == entry.bytes ? "" : "has a shape that does not fit its data_offsets";
}

/// Reads the parsed header; empty text if it is good, else what is wrong with it.
std::string read_entries(const Json& json, std::uint64_t data_bytes, SafetensorsHeader& header) {
  if (!json.is_object()) return "has a header that is not a JSON object";
  for (const auto& [name, value] : json.items()) {
    if (name == "__metadata__") {
      if (!value.is_object()) return "has __metadata__ that is not an object";
      for (const auto& [key, text] : value.items()) {
        if (!text.is_string()) return "has __metadata__ that is not all strings";
        header.metadata[key] = text.get<std::string>();
      }
      continue;
    }
    SafetensorsEntry entry;
    const std::string fault = read_entry(name, value, data_bytes, entry);
    if (!fault.empty()) return "tensor '" + name + "' " + fault;
    header.entries.push_back(std::move(entry));
  }
  std::sort(header.entries.begin(), header.entries.end(), [](const auto& a, const auto& b) {
    return std::pair(a.begin, a.bytes) < std::pair(b.begin, b.bytes);
  });
  std::uint64_t end = 0;
  for (const SafetensorsEntry& entry : header.entries) {
    if (entry.begin != end) return "has tensors that overlap or leave a gap";
    end += entry.bytes;
  }
  return end == data_bytes ? "" : "has data that belongs to no tensor";
}

}  // namespace

std::uint64_t safetensors_dtype_bytes(std::string_view dtype) {
  struct Size {
    std::string_view dtype;
    std::uint64_t bytes;
  };
  constexpr Size kSizes[] = {{"F32", 4},  {"U64", 8},     {"U32", 4},     {"F64", 8}, {"F16", 2},
                             {"BF16", 2}, {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"I64", 8}, {"I32", 4},
                             {"I16", 2},  {"I8", 1},      {"U16", 2},     {"U8", 1},  {"BOOL", 1}};
  for (const Size& size : kSizes) {
    if (size.dtype == dtype) return size.bytes;
  }
  return 0;
}

const SafetensorsEntry* SafetensorsHeader::find(std::string_view name) const {
  for (const SafetensorsEntry& entry : entries) {
    if (entry.name == name) return &entry;
  }
  return nullptr;
}

std::string encode_safetensors_header(const std::vector<SafetensorsEntry>& entries,
                                      const std::map<std::string, std::string>& metadata) {
  Json json = {{"__metadata__", metadata}};
  std::uint64_t begin = 0;
  for (const SafetensorsEntry& entry : entries) {
    json[entry.name] = {
        {"dtype", entry.dtype}, {"shape", entry.shape}, {"data_offsets", {begin, begin + entry.bytes}}};
    begin += entry.bytes;
  }
  std::string text = to_line(json);
  text.resize((text.size() + kLengthBytes - 1) / kLengthBytes * kLengthBytes, ' ');  // aligns the data
  const std::uint64_t length = text.size();
  std::string out(kLengthBytes, '\0');
  std::memcpy(out.data(), &length, kLengthBytes);
  return out + text;
}

Result<SafetensorsHeader> read_safetensors_header(const FileReader& file) {
  const auto lost = [&](const std::string& fault) {
    return Error{Code::kDataLoss, file.path().string() + ": " + fault};
  };
  std::uint64_t length = 0;
  if (file.size() < kLengthBytes) return lost("is too short for a safetensors file");
  if (Result<void> done = file.read(0, std::as_writable_bytes(std::span(&length, 1))); !done) {
    return done.error();
  }
  if (length > kMaxHeaderBytes || length > file.size() - kLengthBytes) {
    return lost("says its header has " + std::to_string(length) + " bytes, the file has " +
                std::to_string(file.size()));
  }
  std::string text(length, '\0');
  if (Result<void> done = file.read(kLengthBytes, std::as_writable_bytes(std::span(text))); !done) {
    return done.error();
  }
  if (text.empty() || text.front() != '{') return lost("has a header that is not a JSON object");
  const Result<Json> json = parse_json(text, file.path().string());
  if (!json) return Error{Code::kDataLoss, json.error().message};
  SafetensorsHeader header;
  const std::string fault = read_entries(*json, file.size() - kLengthBytes - length, header);
  if (!fault.empty()) return lost(fault);
  for (SafetensorsEntry& entry : header.entries) entry.begin += kLengthBytes + length;
  header.crc32c = crc32c(std::as_bytes(std::span(text)), crc32c(std::as_bytes(std::span(&length, 1))));
  return header;
}

}  // namespace troupe::shards
