#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
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
/// <table>.<shard>.safetensors holds, each with one line per row: `keys` U64 [n]; `weights` F32, F16 or BF16
/// [n, dim]; each field of the optimizer's state under its name (`sum_of_squares`, `first_moment`, `steps`
/// ...) F32 [n, dim], or [n] for one number a row. And `workers` U64 [w, 3 + SequenceWindow::kWords]: what is
/// known of a worker's pushes in some slot groups: these as bits, worker, highest sequence, the window's
/// words; the worker whose last push is longest ago first. Its __metadata__ has table, shard and version.
///
/// Rows of one slot group lie together, in pieces: `chunks` U64 [c, 3] has a line for each, in the order of
/// the rows: its group, how many rows, and the CRC-32C of their bytes, those of the keys first and then of
/// each tensor in the layout's order. Lines of no rows stand at its end.
///
/// A dense table's file has no keys but `ranges` U64 [r, 2], the first row and how many, ascending: its lines
/// are the rows of these ranges, one after the other. Weights and fields with a number a weight have the
/// shape of the table's tensor, [slices, the other axes], if the ranges are whole slices; a file of the whole
/// table holds the tensor as it is. Files of dense tables that have keys are older ones, and can be read.
///
/// These functions block on the disk. Contents of files are never trusted: whatever they hold gives an
/// error with the file's name, not a crash.
namespace troupe::shards {

/// A folder that has such a file is a checkpoint, and complete.
inline constexpr const char* kManifestName = "manifest.json";

/// One file of a checkpoint.
struct FileEntry {
  std::string file;  ///< its name within the folder
  std::string table;
  std::uint32_t shard = 0;
  std::uint64_t rows = 0;
  GroupMask groups = 0;  ///< of which it may have rows: who owns none of them need not read it
  std::uint64_t bytes = 0;
  std::uint32_t crc32c = 0;  ///< of the whole file (Castagnoli)
  /// What stands before the rows: the header, whose rows lie where, what is known of pushes. With this alone
  /// the rows of some groups are found and checked. 0: an older file, of which all is read.
  std::uint64_t head_bytes = 0;
  std::uint32_t head_crc32c = 0;
  friend bool operator==(const FileEntry&, const FileEntry&) = default;
};

/// The contents of manifest.json.
struct Manifest {
  static constexpr std::uint32_t kFormatVersion = 2;

  std::vector<TableSpec> tables;
  std::vector<FileEntry> files;  ///< each table has files of shards 0 .. (its shard count - 1)
  /// What the job keeps with its checkpoint (epoch, progress, seeds ...): the text of a JSON object.
  std::string metadata = "{}";
  /// What it was made with and what must be the same to go on from it, each by a name of the job's choice
  /// ("data", "settings"), as text that differs where that differs: a checksum, for instance.
  std::map<std::string, std::string> fingerprints;

  /// Null if there is none of that name.
  const TableSpec* find_table(std::string_view name) const;
  std::uint32_t shard_count(std::string_view table) const;
  std::uint64_t row_count(std::string_view table) const;
};

/// An entry as a line of JSON, for the wire between the servers and the one who commits.
std::string to_json(const FileEntry& entry);
Result<FileEntry> file_entry_from_json(std::string_view text);

/// A shard's file on its way: written in pages, so that neither the memory used nor the time that one page
/// takes depends on the number of rows. Made where the shard is; append() and finish() are called by one
/// thread at a time, whichever.
class ShardFileWriter {
 public:
  /// A file in `folder` (made if missing) for `rows` rows of the shard and what its groups know at present.
  /// Does not touch the disk yet.
  static std::unique_ptr<ShardFileWriter> create(const std::filesystem::path& folder,
                                                 std::uint32_t shard_index, const TableShard& shard,
                                                 std::uint64_t rows);
  virtual ~ShardFileWriter() = default;
  /// The rows of a page that fit a megabyte.
  virtual std::uint64_t page_rows() const = 0;
  virtual Result<void> append(const RowBatch& rows) = 0;
  /// Syncs the file to disk. kInternal unless as many rows came as were said.
  virtual Result<FileEntry> finish() = 0;
};

/// Writes the shard's rows and progress as `shard_index`'s file into `folder`, all at once.
Result<FileEntry> write_table_shard(const std::filesystem::path& folder, std::uint32_t shard_index,
                                    const TableShard& shard);

/// Where a checkpoint goes.
struct CheckpointPlace {
  std::filesystem::path final;      ///< absolute, links followed
  std::filesystem::path temporary;  ///< beside it: to be written to, and then committed
};

/// The place of a checkpoint that is asked for at `wanted`; makes the folder above it. If a checkpoint could
/// not be put there, kFailedPrecondition that says why and what to do: ask before training, not after it.
Result<CheckpointPlace> checkpoint_place(const std::filesystem::path& wanted);

/// A place that one job writes to: while this lives no other process, and no other one of this process, gets
/// it. It ends with the process, however that ends; the file <final>.lock stays.
class CheckpointLock {
 public:
  /// kFailedPrecondition, naming the process that has it, if somebody has; what the system says if the file
  /// cannot be made. Makes the folder above it.
  static Result<CheckpointLock> take(const CheckpointPlace& place);
  CheckpointLock(CheckpointLock&& other) noexcept;
  CheckpointLock& operator=(CheckpointLock&& other) noexcept;
  ~CheckpointLock();

 private:
  explicit CheckpointLock(int file) : file_(file) {}
  int file_;
};

/// Checks that the manifest's files are there with their sizes, writes the manifest into `temporary` and
/// renames that folder to `final` in one step; a checkpoint that stood there is replaced. Both must be on one
/// file system. Until the rename, whatever fails, the older checkpoint stands as it was.
///
/// `keep` checkpoints are kept: the older ones are called <final>.1 (the newest of them), <final>.2 and so
/// on. kFailedPrecondition, before anything is done, if something else has such a name. Precondition: keep >
/// 0.
Result<void> commit(const std::filesystem::path& temporary, const std::filesystem::path& final,
                    const Manifest& manifest, std::uint32_t keep = 1);

/// The end of commit() for a checkpoint of another kind, whose manifest is this text: its other files are in
/// `temporary`, on the disk.
Result<void> commit_folder(const std::filesystem::path& temporary, const std::filesystem::path& final,
                           std::string_view manifest, std::uint32_t keep = 1);

enum class Older : std::uint8_t { kRefused, kAllowed };
enum class Check : std::uint8_t {
  kSizes,     ///< that all files are there, with their sizes
  kContents,  ///< their checksums, too: reads everything
};
struct FoundCheckpoint {
  std::filesystem::path folder;
  Manifest manifest;
  std::vector<Error> passed_over;  ///< what is wrong with each newer one
};

/// The checkpoint to go on from that commit() has put at `final`: the newest one, or the newest good one if
/// older ones are allowed. kNotFound if there is none at all; else what is wrong with the newest one that was
/// looked at.
Result<FoundCheckpoint> find_checkpoint(const std::filesystem::path& final, Older older,
                                        Check check = Check::kSizes,
                                        const OptimizerList& known = builtin_optimizers());

/// kFailedPrecondition, naming them and what they are, if the checkpoint's fingerprints are not `expected`,
/// but for those in `may_differ`. One that has none of a name was made before it was asked for: it fits.
Result<void> check_fingerprints(const Manifest& manifest, const std::map<std::string, std::string>& expected,
                                const std::set<std::string>& may_differ = {});

/// kNotFound without a manifest, kDataLoss for one that is malformed or inconsistent.
Result<Manifest> read_manifest(const std::filesystem::path& folder,
                               const OptimizerList& known = builtin_optimizers());

/// Checks every file's presence, size and checksum: kNotFound or kDataLoss naming the file.
Result<void> verify(const std::filesystem::path& folder, const Manifest& manifest);

/// Loads those rows of the table that lie in slots that `into` owns and `filter` contains, from the table's
/// files, and what is known of pushes to their groups; returns how many rows. Nothing is read twice, and of a
/// file that has other groups, too, only the rows of these: each piece's checksum is checked, or that of the
/// file, whose size is looked at before. kFailedPrecondition if `into` has another kind, dim, type of
/// weights, optimizer or row count than the checkpoint; kNotFound or kDataLoss naming the file. After an
/// error `into` may hold a part of the rows: throw it away.
///
/// If the number of shards changes, each group still knows its own pushes: one that had reached some of its
/// shards only is applied where it is missing when it is repeated, and nowhere twice.
///
/// Ends with kCancelled, at the next megabyte, once `given_up` is true.
Result<std::uint64_t> load_rows(const std::filesystem::path& folder, const Manifest& manifest,
                                std::string_view table, const SlotSet& filter, TableShard& into,
                                const std::atomic<bool>* given_up = nullptr);
/// With all the slots that `into` owns.
Result<std::uint64_t> load_rows(const std::filesystem::path& folder, const Manifest& manifest,
                                std::string_view table, TableShard& into,
                                const std::atomic<bool>* given_up = nullptr);

}  // namespace troupe::shards
