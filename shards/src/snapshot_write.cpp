#include <string>
#include <utility>
#include <vector>

#include <troupe/runtime/files.hpp>
#include <troupe/shards/snapshot.hpp>

#include "file_io.hpp"
#include "safetensors.hpp"
#include "snapshot_format.hpp"

namespace troupe::shards {
namespace {

namespace fs = std::filesystem;

std::vector<SafetensorsEntry> describe(const TableShard& shard) {
  const std::uint64_t rows = shard.row_count();
  const std::uint64_t dim = shard.spec().dim;
  const std::uint64_t workers = shard.worker_windows().size();
  std::vector<SafetensorsEntry> entries;
  // 8-byte elements come first: then every tensor begins at a multiple of its element's size.
  entries.push_back({kKeysTensor, "U64", {rows}, 0, rows * 8});
  entries.push_back({kWorkersTensor, "U64", {workers, kWorkerColumns}, 0, workers * kWorkerColumns * 8});
  entries.push_back({kWeightsTensor, "F32", {rows, dim}, 0, rows * dim * 4});
  for (std::uint32_t i = 0; i < state_tensors(shard.spec().optimizer); ++i) {
    entries.push_back({state_tensor_name(shard.spec().optimizer, i), "F32", {rows, dim}, 0, rows * dim * 4});
  }
  if (counts_steps(shard.spec())) entries.push_back({kStepsTensor, "U32", {rows}, 0, rows * 4});
  return entries;
}

void write_workers(FileWriter& file, const TableShard& shard) {
  for (const auto& [worker, window] : shard.worker_windows()) {
    const std::uint64_t highest = window.highest();
    file.write_values(&worker, 1);
    file.write_values(&highest, 1);
    file.write_values(window.words().data(), SequenceWindow::kWords);
  }
}

/// In the order of describe(). A pass for each tensor: rows hold theirs side by side, the file one after
/// the other, and nothing is gathered in memory between.
void write_tensors(FileWriter& file, const TableShard& shard) {
  const std::uint64_t rows = shard.row_count();
  const std::uint64_t dim = shard.spec().dim;
  for (std::uint64_t i = 0; i < rows; ++i) {
    const std::uint64_t key = shard.row(i).key;
    file.write_values(&key, 1);
  }
  write_workers(file, shard);
  for (std::uint64_t i = 0; i < rows; ++i) file.write_values(shard.row(i).weights, dim);
  for (std::uint32_t tensor = 0; tensor < state_tensors(shard.spec().optimizer); ++tensor) {
    for (std::uint64_t i = 0; i < rows; ++i) file.write_values(shard.row(i).state + tensor * dim, dim);
  }
  for (std::uint64_t i = 0; counts_steps(shard.spec()) && i < rows; ++i) {
    const std::uint32_t steps = shard.row(i).steps;
    file.write_values(&steps, 1);
  }
}

}  // namespace

Result<FileEntry> write_table_shard(const fs::path& folder, std::uint32_t shard_index,
                                    const TableShard& shard) {
  std::error_code code;
  fs::create_directories(folder, code);
  if (code) return Error{Code::kFailedPrecondition, "making " + folder.string() + ": " + code.message()};
  FileEntry entry;
  entry.table = shard.spec().name;
  entry.shard = shard_index;
  entry.rows = shard.row_count();
  entry.file = entry.table + "." + std::to_string(shard_index) + ".safetensors";
  FileWriter file(folder / entry.file);
  const std::string header =
      encode_safetensors_header(describe(shard), {{"format", "troupe-table-shard"},
                                                  {"table", entry.table},
                                                  {"shard", std::to_string(shard_index)},
                                                  {kVersionMetadata, std::to_string(shard.version())}});
  file.write_values(header.data(), header.size());
  write_tensors(file, shard);
  if (Result<void> done = file.finish(); !done) return done.error();
  entry.bytes = file.bytes();
  entry.crc32c = file.crc32c();
  if (Result<void> synced = sync_directory(folder.string()); !synced) return synced.error();
  return entry;
}

}  // namespace troupe::shards
