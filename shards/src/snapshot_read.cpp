#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <troupe/shards/checked_file.hpp>
#include <troupe/shards/file_io.hpp>
#include <troupe/shards/snapshot.hpp>

#include "finite.hpp"
#include "snapshot_format.hpp"

namespace troupe::shards {
namespace {

namespace fs = std::filesystem;

Result<FileReader> open_verified(const fs::path& folder, const FileEntry& entry) {
  Result<FileReader> file = FileReader::open(folder / entry.file);
  if (!file) return file;
  const auto lost = [&](const std::string& fault) {
    return Error{Code::kDataLoss, file->path().string() + " " + fault};
  };
  if (file->size() != entry.bytes) {
    return lost("has " + std::to_string(file->size()) + " bytes, expected " + std::to_string(entry.bytes));
  }
  const Result<std::uint32_t> crc = file->checksum();
  if (!crc) return crc.error();
  if (*crc != entry.crc32c) {
    return lost("is corrupt: its CRC-32C is " + std::to_string(*crc) + ", expected " +
                std::to_string(entry.crc32c));
  }
  return file;
}

}  // namespace

bool is_finite(std::string_view dtype, std::span<const std::byte> line) {
  if (dtype == "F32")
    return all_within(reinterpret_cast<const float*>(line.data()), line.size() / sizeof(float),
                      std::numeric_limits<float>::max());
  // Of two bytes: NaN and infinities have all bits of the exponent set.
  const std::uint16_t exponent = dtype == "F16" ? 0x7c00 : 0x7f80;
  for (std::size_t at = 0; at < line.size(); at += sizeof exponent) {
    std::uint16_t number = 0;
    std::memcpy(&number, line.data() + at, sizeof number);
    if ((number & exponent) == exponent) return false;
  }
  return true;
}

namespace {

/// Which rows of a dense table have come. They are there from the beginning, so that counting them would not
/// tell that one came twice and another never.
class DenseRows {
 public:
  /// Of the slots in both sets.
  DenseRows(const TableSpec& spec, const SlotSet& filter, const SlotSet& owned) : spec_(spec) {
    if (spec.kind != TableKind::kDense) return;
    first_.resize(spec.slots);
    std::uint64_t rows = 0;
    for (std::uint32_t slot = 0; slot < spec.slots; ++slot) {
      first_[slot] = rows;
      if (!filter.contains(slot) || !owned.contains(slot)) continue;
      const auto [begin, end] = rows_of_slot(spec, slot);
      rows += end - begin;
    }
    came_.resize(rows);
  }
  /// False: it has come before. Precondition: a row of these slots.
  bool note(std::uint64_t row) {
    const std::uint32_t slot = slot_of(spec_, row);
    const std::uint64_t at = first_[slot] + (row - rows_of_slot(spec_, slot).begin);
    const bool again = came_[at];
    came_[at] = true;
    return !again;
  }
  std::uint64_t expected() const { return came_.size(); }

 private:
  const TableSpec& spec_;
  std::vector<std::uint64_t> first_;  // the number, in came_, of each slot's first row
  std::vector<bool> came_;
};

/// Reads one file's rows, some at a time, into a shard.
class ShardFileLoader {
 public:
  ShardFileLoader(CheckedFile& file, const FileEntry& entry, const TableSpec& saved, const SlotSet& filter,
                  DenseRows& dense, TableShard& into, const std::atomic<bool>* given_up)
      : file_(file),
        entry_(entry),
        saved_(saved),
        filter_(filter),
        dense_(dense),
        into_(into),
        given_up_(given_up),
        spec_(into.spec()) {}

  Result<std::uint64_t> load() {
    if (Result<void> done = read_layout(); !done) return done.error();
    Result<std::uint64_t> loaded = file_.in_pieces() ? load_pieces() : load_all();
    if (!loaded) return loaded;
    if (Result<void> done = load_progress(); !done) return done.error();
    if (Result<void> good = file_.finish(); !good) return good.error();
    return loaded;
  }

 private:
  Result<std::uint64_t> load_all() {
    const std::uint64_t per_chunk =
        std::max<std::uint64_t>(1, kChunkBytes / std::max<std::size_t>(1, into_.layout().bytes()));
    std::uint64_t loaded = 0;
    for (std::uint64_t first = 0; first < entry_.rows; first += per_chunk) {
      const Result<std::uint64_t> part = load_chunk(first, std::min(per_chunk, entry_.rows - first));
      if (!part) return part.error();
      loaded += *part;
    }
    return loaded;
  }

  /// The wanted groups' rows alone.
  Result<std::uint64_t> load_pieces() {
    const SafetensorsEntry* found = file_.header().find(kChunksTensor);
    if (found == nullptr || found->dtype != "U64" || found->shape.size() != 2 ||
        found->shape[1] != kChunkColumns)
      return lost("tensor 'chunks' is missing or has another dtype or shape than expected");
    std::vector<std::uint64_t> lines;
    if (auto done = read_into(lines, found->begin, 0, found->shape[0] * kChunkColumns); !done)
      return done.error();
    std::uint64_t loaded = 0, first = 0;
    for (std::size_t at = 0; at < lines.size(); at += kChunkColumns) {
      const std::uint64_t group = lines[at], count = lines[at + 1], crc = lines[at + 2];
      if (group >= kSlotGroups || count > entry_.rows - first || crc > UINT32_MAX)
        return lost("tensor 'chunks' has a line that cannot be");
      if (count > 0 && (wanted_groups_ >> group & 1U) != 0) {
        file_.begin_piece();
        const Result<std::uint64_t> part = load_chunk(first, count, static_cast<std::uint32_t>(crc));
        if (!part) return part.error();
        loaded += *part;
      }
      first += count;
    }
    if (first != entry_.rows) return lost("tensor 'chunks' is of other rows than the file has");
    return loaded;
  }

  Error lost(const std::string& fault) const {
    return {Code::kDataLoss, file_.path().string() + ": " + fault};
  }

  Result<const SafetensorsEntry*> tensor(std::string_view name, std::string_view dtype,
                                         const std::vector<std::uint64_t>& shape) const {
    const SafetensorsEntry* found = file_.header().find(name);
    if (found == nullptr) return lost("has no tensor '" + std::string(name) + "'");
    if (found->dtype != dtype || found->shape != shape) {
      return lost("tensor '" + std::string(name) + "' has another dtype or shape than expected");
    }
    return found;
  }

  /// Finds the tensors and checks that they are what the table and the manifest say.
  Result<void> read_layout() {
    const auto want = [&](std::uint64_t& begin, std::string_view name, std::string_view dtype,
                          const std::vector<std::uint64_t>& shape) -> Result<void> {
      const auto found = tensor(name, dtype, shape);
      if (!found) return found.error();
      begin = (*found)->begin;
      return {};
    };
    columns_ = columns_of(into_.layout(), entry_.rows);
    const bool dense = spec_.kind == TableKind::kDense && file_.header().find(kKeysTensor) == nullptr;
    if (dense) {
      if (auto done = read_ranges(); !done) return done;
      const SafetensorsEntry* weights = file_.header().find(kWeightsTensor);
      if (weights != nullptr && weights->shape != columns_[0].shape)
        shape_as_slices(columns_, saved_, entry_.rows);
    } else if (auto done = want(keys_, kKeysTensor, "U64", {entry_.rows}); !done) {
      return done;
    }
    begins_.resize(columns_.size());
    for (std::size_t i = 0; i < columns_.size(); ++i) {
      if (auto done = want(begins_[i], columns_[i].name, columns_[i].dtype, columns_[i].shape); !done)
        return done;
    }
    return {};
  }

  /// Which rows of a dense table a file has. Those written before ranges were have keys.
  Result<void> read_ranges() {
    const SafetensorsEntry* found = file_.header().find(kRangesTensor);
    if (found == nullptr) return lost("has no tensor 'ranges', and no 'keys'");
    if (found->dtype != "U64" || found->shape.size() != 2 || found->shape[1] != 2 ||
        found->shape[0] > saved_.slots)
      return lost("tensor 'ranges' has another dtype or shape than expected");
    std::vector<std::uint64_t> lines;
    if (auto done = read_into(lines, found->begin, 0, found->shape[0] * 2); !done) return done;
    for (std::size_t i = 0; i < lines.size(); i += 2) {
      RowRange range{lines[i], 0};
      if (__builtin_add_overflow(lines[i], lines[i + 1], &range.end))
        return lost("tensor 'ranges' has more rows than can be");
      ranges_.push_back(range);
    }
    if (auto good = check_ranges(spec_, ranges_); !good)
      return lost("tensor 'ranges' is wrong: " + good.error().message);
    const std::size_t rows = RowKeys(std::span(std::as_const(ranges_))).size();
    if (rows != entry_.rows)
      return lost("tensor 'ranges' is of " + std::to_string(rows) + " rows, expected " +
                  std::to_string(entry_.rows));
    return {};
  }

  Result<void> read_keys(std::uint64_t first, std::uint64_t count) {
    if (ranges_.empty()) return read_into(chunk_keys_, keys_, first, count);
    chunk_keys_.clear();
    RowKeys(std::span(std::as_const(ranges_))).subspan(first, count).for_each_range([&](const RowRange& r) {
      for (std::uint64_t row = r.begin; row < r.end; ++row) chunk_keys_.push_back(row);
    });
    return {};
  }

  template <class T>
  Result<void> read_into(std::vector<T>& to, std::uint64_t begin, std::uint64_t first, std::uint64_t count) {
    to.resize(count);
    return file_.read(begin + first * sizeof(T), std::as_writable_bytes(std::span(to)));
  }

  /// Which of the chunk's rows are wanted.
  Result<void> choose(std::uint64_t count) {
    wanted_.clear();
    for (std::uint64_t i = 0; i < count; ++i) {
      if (spec_.kind == TableKind::kDense && chunk_keys_[i] >= spec_.rows) {
        return lost("holds row " + std::to_string(chunk_keys_[i]) + " of a table of " +
                    std::to_string(spec_.rows));
      }
      const std::uint32_t slot = slot_of(spec_, chunk_keys_[i]);
      if (!filter_.contains(slot) || !into_.slots().contains(slot)) continue;
      if (spec_.kind == TableKind::kDense && !dense_.note(chunk_keys_[i]))
        return lost("holds row " + std::to_string(chunk_keys_[i]) + ", which has come before");
      wanted_.push_back(i);
    }
    return {};
  }

  /// NaN and infinities would spread to whatever is computed from them.
  Result<void> check_numbers(const Column& column) const {
    for (const std::uint64_t i : wanted_) {
      if (is_finite(column.dtype, std::span(chunk_).subspan(i * column.bytes, column.bytes))) continue;
      return lost("tensor '" + column.name + "' has a number that is not finite in the row of key " +
                  std::to_string(chunk_keys_[i]));
    }
    return {};
  }

  /// `crc`: of a piece.
  Result<std::uint64_t> load_chunk(std::uint64_t first, std::uint64_t count,
                                   std::optional<std::uint32_t> crc = {}) {
    if (given_up_ != nullptr && *given_up_)
      return Error{Code::kCancelled, file_.path().string() + ": nobody waits for its rows any more"};
    if (auto done = read_keys(first, count); !done) return done.error();
    if (auto done = choose(count); !done) return done.error();
    if (wanted_.empty() && !crc) return std::uint64_t{0};
    const std::size_t record_bytes = into_.layout().bytes();
    batch_.clear();
    batch_.records.resize(wanted_.size() * record_bytes);
    for (const std::uint64_t i : wanted_) batch_.keys.push_back(chunk_keys_[i]);
    for (std::size_t c = 0; c < columns_.size(); ++c) {
      const std::size_t bytes = columns_[c].bytes;
      chunk_.resize(count * bytes);
      if (auto done = file_.read(begins_[c] + first * bytes, chunk_); !done) return done.error();
      if (auto good = check_numbers(columns_[c]); !good) return good.error();
      std::byte* to = batch_.records.data() + columns_[c].offset;
      for (const std::uint64_t i : wanted_) {
        std::memcpy(to, chunk_.data() + i * bytes, bytes);
        to += record_bytes;
      }
    }
    if (crc)
      if (auto good = file_.check_piece(*crc); !good) return good.error();
    if (wanted_.empty()) return std::uint64_t{0};
    if (auto done = into_.insert(batch_); !done) return done.error();
    return wanted_.size();
  }

  Result<void> load_progress() {
    const auto text = file_.header().metadata.find(kVersionMetadata);
    if (text == file_.header().metadata.end()) return lost("has no version in its metadata");
    std::uint64_t version = 0;
    const char* end = text->second.data() + text->second.size();
    const auto parsed = std::from_chars(text->second.data(), end, version);
    if (parsed.ec != std::errc{} || parsed.ptr != end) return lost("has a malformed version in its metadata");

    const SafetensorsEntry* tensor = file_.header().find(kWorkersTensor);
    constexpr std::uint64_t kMostLines = kSlotGroups * PushWindows::kMaxWorkers;
    if (tensor == nullptr || tensor->dtype != "U64" || tensor->shape.size() != 2 ||
        tensor->shape[1] != kWorkerColumns || tensor->shape[0] > kMostLines) {
      return lost("tensor 'workers' is missing or has another dtype or shape than expected");
    }
    std::vector<std::uint64_t> line;
    for (std::uint64_t i = 0; i < tensor->shape[0]; ++i) {
      if (auto done = read_into(line, tensor->begin, i * kWorkerColumns, kWorkerColumns); !done) return done;
      std::array<std::uint64_t, SequenceWindow::kWords> words{};
      std::copy_n(line.data() + 3, words.size(), words.begin());
      into_.merge_windows(line[0] & wanted_groups_, line[1], SequenceWindow::restore(line[2], words));
    }
    into_.raise_version(version);
    return {};
  }

  CheckedFile& file_;
  const FileEntry& entry_;
  const TableSpec& saved_;
  const SlotSet& filter_;
  DenseRows& dense_;
  TableShard& into_;
  const std::atomic<bool>* const given_up_;
  const TableSpec& spec_;

  const GroupMask wanted_groups_ = groups_of(filter_) & into_.groups().groups();

  // Where the tensors begin in the file.
  std::uint64_t keys_ = 0;
  std::vector<RowRange> ranges_;  // dense, in place of keys
  std::vector<Column> columns_;
  std::vector<std::uint64_t> begins_;

  // One chunk of rows.
  std::vector<std::uint64_t> chunk_keys_;
  std::vector<std::uint64_t> wanted_;
  std::vector<std::byte> chunk_;
  RowBatch batch_;
};

Result<std::uint64_t> load_file(const fs::path& folder, const FileEntry& entry, const TableSpec& saved,
                                const SlotSet& filter, DenseRows& dense, TableShard& into,
                                const std::atomic<bool>* given_up) {
  const GroupMask wanted = groups_of(filter) & into.groups().groups();
  const bool in_pieces = entry.head_bytes > 0 && (entry.groups & ~wanted) != 0;
  Result<CheckedFile> file =
      in_pieces ? CheckedFile::open_pieces(folder, entry) : CheckedFile::open(folder, entry);
  Result<std::uint64_t> loaded =
      file ? ShardFileLoader(*file, entry, saved, filter, dense, into, given_up).load() : file.error();
  if (loaded || loaded.error().code != Code::kDataLoss) return loaded;
  // What seems to be wrong in a file that is damaged is not what is wrong with it.
  if (const auto damaged = open_verified(folder, entry); !damaged) return damaged.error();
  return loaded;
}

Result<void> check_compatible(const TableSpec& saved, const TableSpec& wanted) {
  const auto refuse = [&](const std::string& field, const std::string& was, const std::string& is) {
    return Error{Code::kFailedPrecondition, "table '" + wanted.name + "': the checkpoint has " + field + " " +
                                                was + ", this table " + is};
  };
  if (saved.kind != wanted.kind || saved.rows != wanted.rows) {
    return refuse("rows", std::to_string(saved.rows), std::to_string(wanted.rows) + " (0: embedding)");
  }
  if (saved.dim != wanted.dim) return refuse("dim", std::to_string(saved.dim), std::to_string(wanted.dim));
  if (saved.weights != wanted.weights) {
    return refuse("weights", std::string(to_string(saved.weights)), std::string(to_string(wanted.weights)));
  }
  if (saved.optimizer.name() != wanted.optimizer.name()) {
    return refuse("optimizer", std::string(saved.optimizer.name()), std::string(wanted.optimizer.name()));
  }
  return {};
}

/// A key that came twice, or a dense row that did not come, shows in the numbers.
Result<std::uint64_t> check_complete(const fs::path& folder, std::uint64_t loaded, std::uint64_t before,
                                     const DenseRows& dense_rows, const TableShard& into) {
  const bool dense = into.spec().kind == TableKind::kDense;
  const std::uint64_t rows = dense ? dense_rows.expected() : into.row_count();
  if (loaded == rows || (!dense && before != 0)) return loaded;
  return Error{Code::kDataLoss, folder.string() + ": the files of table '" + into.spec().name + "' hold " +
                                    std::to_string(loaded) + " rows for " + std::to_string(rows) +
                                    (dense ? "" : " keys: some come more than once")};
}

}  // namespace

Result<void> verify(const fs::path& folder, const Manifest& manifest) {
  for (const FileEntry& entry : manifest.files) {
    if (const auto file = open_verified(folder, entry); !file) return file.error();
  }
  return {};
}

Result<std::uint64_t> load_rows(const fs::path& folder, const Manifest& manifest, std::string_view table,
                                const SlotSet& filter, TableShard& into, const std::atomic<bool>* given_up) {
  const TableSpec* saved = manifest.find_table(table);
  if (saved == nullptr) {
    return Error{Code::kNotFound,
                 "the checkpoint in " + folder.string() + " has no table '" + std::string(table) + "'"};
  }
  if (filter.slots() != into.spec().slots) {
    return Error{Code::kInvalidArgument, "table '" + into.spec().name + "': a filter of " +
                                             std::to_string(filter.slots()) + " slots, the table has " +
                                             std::to_string(into.spec().slots)};
  }
  if (Result<void> compatible = check_compatible(*saved, into.spec()); !compatible) return compatible.error();
  std::uint64_t loaded = 0;
  const std::uint64_t before = into.row_count();
  const GroupMask wanted = groups_of(filter) & into.groups().groups();
  DenseRows dense(into.spec(), filter, into.slots());
  for (const FileEntry& entry : manifest.files) {
    if (entry.table != table || (entry.groups & wanted) == 0) continue;
    const Result<std::uint64_t> part = load_file(folder, entry, *saved, filter, dense, into, given_up);
    if (!part) return part.error();
    loaded += *part;
  }
  return check_complete(folder, loaded, before, dense, into);
}

Result<std::uint64_t> load_rows(const fs::path& folder, const Manifest& manifest, std::string_view table,
                                TableShard& into, const std::atomic<bool>* given_up) {
  return load_rows(folder, manifest, table, into.slots(), into, given_up);
}

}  // namespace troupe::shards
