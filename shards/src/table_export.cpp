#include <fcntl.h>
#include <stdio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <troupe/runtime/files.hpp>
#include <troupe/shards/file_io.hpp>
#include <troupe/shards/safetensors.hpp>
#include <troupe/shards/snapshot.hpp>
#include <troupe/shards/table_file.hpp>

#include "snapshot_format.hpp"
#include "table_file_format.hpp"

namespace troupe::shards {
namespace {

namespace fs = std::filesystem;

/// A tensor of the file, and which part of its table's records it has.
struct Exported {
  std::string table;
  SafetensorsEntry tensor;
  Column column;      // of all but keys
  bool keys = false;  // it has these
};

/// The rows of one table, in the order of their keys.
struct SortedRows {
  RowBatch rows;
  std::vector<std::size_t> order;
};

Result<SortedRows> read_rows(const fs::path& folder, const Manifest& manifest, const TableSpec& spec) {
  auto shard = TableShard::create(spec);
  if (!shard) return shard.error();
  if (auto loaded = load_rows(folder, manifest, spec.name, *shard); !loaded) return loaded.error();
  SortedRows sorted;
  for (ExtractPage page; !page.done;) {
    auto next = shard->extract(shard->slots(), page.next_cursor, UINT64_MAX, sorted.rows);
    if (!next) return next.error();
    page = *next;
  }
  sorted.order.resize(sorted.rows.keys.size());
  std::iota(sorted.order.begin(), sorted.order.end(), 0);
  std::sort(sorted.order.begin(), sorted.order.end(),
            [&](std::size_t a, std::size_t b) { return sorted.rows.keys[a] < sorted.rows.keys[b]; });
  return sorted;
}

std::vector<Exported> tensors_of(const TableSpec& spec, std::uint64_t rows, bool state) {
  std::vector<Exported> tensors;
  if (spec.kind == TableKind::kEmbedding)
    tensors.push_back({spec.name, {keys_name(spec), "U64", {rows}, 0, rows * 8}, {}, true});
  auto columns = columns_of(spec.optimizer.layout(spec.weights, spec.dim), rows);
  if (spec.kind == TableKind::kDense) shape_as_slices(columns, spec, rows);
  for (const Column& column : columns) {
    if (!state && column.name != kWeightsTensor) continue;
    tensors.push_back(
        {spec.name,
         {tensor_name(spec, column), std::string(column.dtype), column.shape, 0, column.bytes * rows},
         column,
         false});
  }
  return tensors;
}

/// Writes a tensor's lines from `begin` on, some at a time.
void write_tensor(const Exported& wanted, const SortedRows& sorted, std::size_t record_bytes,
                  std::uint64_t begin, FileWriter& file) {
  const std::size_t bytes = wanted.keys ? sizeof(std::uint64_t) : wanted.column.bytes;
  const std::size_t most = std::max<std::size_t>(1, kChunkBytes / bytes);
  std::vector<std::byte> lines;
  for (std::size_t first = 0; first < sorted.order.size(); first += most) {
    const std::size_t count = std::min(most, sorted.order.size() - first);
    lines.resize(count * bytes);
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t row = sorted.order[first + i];
      const void* from = &sorted.rows.keys[row];
      if (!wanted.keys) from = sorted.rows.records.data() + row * record_bytes + wanted.column.offset;
      std::memcpy(lines.data() + i * bytes, from, bytes);
    }
    file.write(begin + first * bytes, lines);
  }
}

Result<std::vector<TableSpec>> chosen(const Manifest& manifest, const ExportOptions& options,
                                      const fs::path& folder) {
  if (options.tables.empty()) return manifest.tables;
  std::vector<TableSpec> specs;
  for (const std::string& name : options.tables) {
    const TableSpec* spec = manifest.find_table(name);
    if (spec != nullptr) {
      const bool again =
          std::any_of(specs.begin(), specs.end(), [&](const auto& s) { return s.name == name; });
      if (!again) specs.push_back(*spec);
      continue;
    }
    std::string there;
    for (const TableSpec& table : manifest.tables) there += (there.empty() ? "" : ", ") + table.name;
    return Error{Code::kNotFound,
                 "the checkpoint in " + folder.string() + " has no table '" + name + "'; it has: " + there};
  }
  return specs;
}

Result<std::uint64_t> write_tables(const fs::path& folder, const Manifest& manifest,
                                   const std::vector<TableSpec>& specs, bool state, FileWriter& file) {
  std::vector<Exported> tensors;
  std::map<std::string, std::string> metadata{{"format", "troupe-tables"}};
  for (const TableSpec& spec : specs) {
    const auto of_table = tensors_of(spec, manifest.row_count(spec.name), state);
    tensors.insert(tensors.end(), of_table.begin(), of_table.end());
    metadata[spec_name(spec)] = spec.to_json();
  }
  // Larger elements come first: then every tensor begins at a multiple of its element's size.
  std::stable_sort(tensors.begin(), tensors.end(), [](const Exported& a, const Exported& b) {
    return safetensors_dtype_bytes(a.tensor.dtype) > safetensors_dtype_bytes(b.tensor.dtype);
  });
  std::vector<SafetensorsEntry> entries;
  entries.reserve(tensors.size());
  for (const Exported& tensor : tensors) entries.push_back(tensor.tensor);
  const std::string header = encode_safetensors_header(entries, metadata);
  file.write(0, std::as_bytes(std::span(header)));
  std::uint64_t at = header.size();
  for (Exported& tensor : tensors) {
    tensor.tensor.begin = at;
    at += tensor.tensor.bytes;
  }

  std::uint64_t rows = 0;
  for (const TableSpec& spec : specs) {
    const Result<SortedRows> sorted = read_rows(folder, manifest, spec);
    if (!sorted) return sorted.error();
    if (sorted->order.size() != manifest.row_count(spec.name))
      return Error{Code::kDataLoss, folder.string() + ": table '" + spec.name + "' has other rows than " +
                                        std::to_string(manifest.row_count(spec.name))};
    rows += sorted->order.size();
    const std::size_t record_bytes = spec.optimizer.layout(spec.weights, spec.dim).bytes();
    for (const Exported& tensor : tensors)
      if (tensor.table == spec.name) write_tensor(tensor, *sorted, record_bytes, tensor.tensor.begin, file);
    if (!file.result()) return file.result().error();
  }
  return rows;
}

}  // namespace

Result<std::uint64_t> export_tables(const fs::path& folder, const ExportOptions& options,
                                    const fs::path& file, const OptimizerList& known) {
  const Result<Manifest> manifest = read_manifest(folder, known);
  if (!manifest) return manifest.error();
  const auto specs = chosen(*manifest, options, folder);
  if (!specs) return specs.error();
  std::error_code code;
  const auto there = [&] {
    return Error{Code::kAlreadyExists, file.string() + " exists already: give another name, or remove it"};
  };
  if (fs::exists(fs::symlink_status(file, code))) return there();
  const fs::path temporary = file.string() + ".tmp";
  FileWriter writer(temporary);
  auto rows = write_tables(folder, *manifest, *specs, options.state, writer);
  if (!rows) return rows.error();
  if (auto done = writer.finish(); !done) return done.error();
  if (::renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, file.c_str(), RENAME_NOREPLACE) != 0) {
    const int error = errno;
    fs::remove(temporary, code);
    return error == EEXIST ? there() : errno_error(error, "making " + file.string());
  }
  const fs::path parent = fs::absolute(file, code).parent_path();
  if (auto synced = sync_directory(parent.string()); !synced) return synced.error();
  return rows;
}

}  // namespace troupe::shards
