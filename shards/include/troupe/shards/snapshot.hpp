#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <troupe/runtime/result.hpp>
#include <troupe/shards/table_shard.hpp>

/// Checkpoints: a folder with one safetensors file per table and shard and a manifest.
///
/// Each server writes its files into one temporary folder with write_table_shard(); when all have answered,
/// one of them calls commit(), which writes the manifest and renames the folder into place. A folder that
/// has a manifest under its final name is complete. The files are read on any number of shards.
///
/// <table>.<shard>.safetensors holds, each with one line per row: `keys` U64 [n], `weights` F32 [n, dim],
/// per optimizer state tensor `sum_of_squares` (Adagrad), `first_moment` and `second_moment` (Adam) F32
/// [n, dim], `steps` U32 [n] (Adam); and `workers` U64 [w, 2 + SequenceWindow::kWords]: worker, highest
/// sequence, its window's words. Its __metadata__ has table, shard and version.
///
/// These functions block on the disk. Contents of files are never trusted: whatever they hold gives an
/// error with the file's name, not a crash.
namespace troupe::shards {

/// One file of a checkpoint.
struct FileEntry {
  std::string file;  ///< its name within the folder
  std::string table;
  std::uint32_t shard = 0;
  std::uint64_t rows = 0;
  std::uint64_t bytes = 0;
  std::uint32_t crc32c = 0;  ///< of the whole file (Castagnoli)
  friend bool operator==(const FileEntry&, const FileEntry&) = default;
};

/// The contents of manifest.json.
struct Manifest {
  static constexpr std::uint32_t kFormatVersion = 1;

  std::vector<TableSpec> tables;
  std::vector<FileEntry> files;  ///< each table has files of shards 0 .. (its shard count - 1)
  /// What the job keeps with its checkpoint (epoch, progress, seeds ...): the text of a JSON object.
  std::string metadata = "{}";

  /// Null if there is none of that name.
  const TableSpec* find_table(std::string_view name) const;
  std::uint32_t shard_count(std::string_view table) const;
  std::uint64_t row_count(std::string_view table) const;
};

/// An entry as a line of JSON, for the wire between the servers and the one who commits.
std::string to_json(const FileEntry& entry);
Result<FileEntry> file_entry_from_json(std::string_view text);

/// Writes the shard's rows and progress as `shard_index`'s file into `folder` (made if missing) and syncs it
/// to disk. The caller's loop does nothing else meanwhile: that makes the file a consistent cut. Memory
/// used does not depend on the number of rows.
Result<FileEntry> write_table_shard(const std::filesystem::path& folder, std::uint32_t shard_index,
                                    const TableShard& shard);

/// Checks that the manifest's files are there with their sizes, writes the manifest into `temporary` and
/// renames that folder to `final` in one step; a checkpoint that stood there is replaced and removed. Both
/// must be on one file system. Until the rename, whatever fails, the older checkpoint stands as it was.
Result<void> commit(const std::filesystem::path& temporary, const std::filesystem::path& final,
                    const Manifest& manifest);

/// kNotFound without a manifest, kDataLoss for one that is malformed or inconsistent.
Result<Manifest> read_manifest(const std::filesystem::path& folder);

/// Checks every file's presence, size and checksum: kNotFound or kDataLoss naming the file.
Result<void> verify(const std::filesystem::path& folder, const Manifest& manifest);

/// Loads those rows of the table that lie in slots that `into` owns and `filter` contains, from all of the
/// table's files, and the progress of workers with them; returns how many rows. Sizes and checksums are
/// checked before a file's rows are used. kFailedPrecondition if `into` has another kind, dim, optimizer
/// or row count than the checkpoint; kNotFound or kDataLoss naming the file. After an error `into` may hold a
/// part of the rows: throw it away.
///
/// If the number of shards changes, a new shard takes every push as applied that any of its sources had
/// applied: nothing is ever applied twice.
Result<std::uint64_t> load_rows(const std::filesystem::path& folder, const Manifest& manifest,
                                std::string_view table, const SlotSet& filter, TableShard& into);
/// With all the slots that `into` owns.
Result<std::uint64_t> load_rows(const std::filesystem::path& folder, const Manifest& manifest,
                                std::string_view table, TableShard& into);

}  // namespace troupe::shards
