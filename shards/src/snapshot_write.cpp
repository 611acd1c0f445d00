#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <troupe/runtime/checksum.hpp>
#include <troupe/runtime/files.hpp>
#include <troupe/shards/file_io.hpp>
#include <troupe/shards/safetensors.hpp>
#include <troupe/shards/snapshot.hpp>

#include "snapshot_format.hpp"

namespace troupe::shards {

namespace {

namespace fs = std::filesystem;

std::string_view safetensors_name(DType dtype) {
  if (dtype == DType::kFloat16) return "F16";
  return dtype == DType::kBFloat16 ? "BF16" : "F32";
}

/// The lines of `workers`.
std::vector<std::uint64_t> window_lines(const SlotGroups& groups) {
  std::vector<std::uint64_t> lines;
  for (const SlotGroups::Kin& kin : groups.kin()) {
    for (const PushWindows::Entry& entry : kin.windows.entries()) {
      if (entry.window.empty()) continue;
      lines.insert(lines.end(), {kin.groups, entry.worker, entry.window.highest()});
      lines.insert(lines.end(), entry.window.words().begin(), entry.window.words().end());
    }
  }
  return lines;
}

/// Tensors lie one after the other in the file, while rows come with theirs side by side: they are gathered
/// by slot group, and some of a group are then written to their place in each tensor.
class ColumnWriter final : public ShardFileWriter {
 public:
  ColumnWriter(const fs::path& folder, FileEntry entry, const TableShard& shard)
      : folder_(folder),
        entry_(std::move(entry)),
        record_bytes_(shard.layout().bytes()),
        columns_(columns_of(shard.layout(), entry_.rows)),
        spec_(shard.spec()),
        version_(shard.version()),
        windows_(window_lines(shard.groups())),
        chunk_rows_(std::max<std::uint64_t>(1, kGroupChunkBytes / record_bytes_)),
        most_chunks_(entry_.rows / chunk_rows_ + static_cast<std::uint64_t>(std::popcount(entry_.groups))) {
    if (spec_.kind != TableKind::kDense) return;
    ranges_ = rows_of_slots(spec_, shard.slots());
    const std::uint64_t slice = spec_.rows_per_slice();
    const auto in_slices = [&](const RowRange& r) { return r.begin % slice == 0 && r.end % slice == 0; };
    if (std::all_of(ranges_->begin(), ranges_->end(), in_slices))
      shape_as_slices(columns_, spec_, entry_.rows);
  }

  std::uint64_t page_rows() const override {
    return std::max<std::uint64_t>(1, kChunkBytes / (record_bytes_ + sizeof(std::uint64_t)));
  }

  Result<void> append(const RowBatch& rows) override {
    if (rows.keys.size() > entry_.rows - came_)
      return Error{Code::kInternal, folder_.string() + "/" + entry_.file + ": more rows than were said"};
    if (Result<void> ordered = check_order(rows.keys); !ordered) return ordered;
    if (Result<void> ready = open(); !ready) return ready;
    const std::byte* record = rows.records.data();
    for (const std::uint64_t key : rows.keys) {
      const std::uint32_t group = group_of(spec_, key);
      // A dense table's rows stay in their order, in which those of a group follow each other.
      if (ranges_ && group != last_group_) flush(last_group_);
      last_group_ = group;
      RowBatch& waiting = waiting_[group];
      waiting.keys.push_back(key);
      waiting.records.insert(waiting.records.end(), record, record + record_bytes_);
      record += record_bytes_;
      if (waiting.keys.size() == chunk_rows_) flush(group);
    }
    came_ += rows.keys.size();
    return file_->result();
  }

  // The checksum is of what the file holds, not of what was meant to go there.
  Result<FileEntry> finish() override {
    if (came_ != entry_.rows)
      return Error{Code::kInternal, folder_.string() + "/" + entry_.file + ": fewer rows than were said"};
    if (Result<void> ready = open(); !ready) return ready.error();
    for (std::uint32_t group = 0; group < kSlotGroups; ++group) flush(group);
    if (chunks_.size() > most_chunks_ * kChunkColumns)
      return Error{Code::kInternal,
                   folder_.string() + "/" + entry_.file + ": rows of more groups than were said"};
    chunks_.resize(most_chunks_ * kChunkColumns);
    file_->write(chunks_begin_, std::as_bytes(std::span(chunks_)));
    if (Result<void> done = file_->finish(); !done) return done.error();
    Result<FileReader> written = FileReader::open(folder_ / entry_.file);
    if (!written) return written.error();
    const Result<std::uint32_t> crc = written->checksum();
    if (!crc) return crc.error();
    entry_.bytes = written->size();
    entry_.crc32c = *crc;
    column_.resize(entry_.head_bytes);
    if (Result<void> head = written->read(0, column_); !head) return head.error();
    entry_.head_crc32c = crc32c(column_);
    if (Result<void> synced = sync_directory(folder_.string()); !synced) return synced.error();
    return entry_;
  }

 private:
  /// A dense table's file says which ranges its rows are: they must come so.
  Result<void> check_order(const std::vector<std::uint64_t>& keys) const {
    if (!ranges_) return {};
    const RowKeys all((std::span(*ranges_)));
    bool good = all.size() >= came_ + keys.size();
    auto key = keys.begin();
    if (good)
      all.subspan(came_, keys.size()).for_each_range([&](const RowRange& range) {
        for (std::uint64_t row = range.begin; row < range.end; ++row) good = *key++ == row && good;
      });
    if (good) return {};
    return Error{Code::kInternal,
                 folder_.string() + "/" + entry_.file + ": a dense table's rows came in another order"};
  }

  /// Writes what waits of a group's rows behind what has been written: to its place in each tensor.
  void flush(std::uint32_t group) {
    RowBatch& rows = waiting_[group];
    const std::uint64_t count = rows.keys.size();
    if (count == 0) return;
    std::uint32_t crc = 0;
    if (!ranges_) {
      const auto keys = std::as_bytes(std::span(rows.keys));
      file_->write(keys_begin_ + written_ * sizeof(rows.keys[0]), keys);
      crc = crc32c(keys);
    }
    for (std::size_t c = 0; c < columns_.size(); ++c) {
      const std::size_t bytes = columns_[c].bytes;
      column_.resize(count * bytes);
      const std::byte* from = rows.records.data() + columns_[c].offset;
      for (std::size_t i = 0; i < count; ++i, from += record_bytes_)
        std::memcpy(column_.data() + i * bytes, from, bytes);
      file_->write(begins_[c] + written_ * bytes, column_);
      crc = crc32c(column_, crc);
    }
    chunks_.insert(chunks_.end(), {group, count, crc});
    written_ += count;
    rows.clear();
  }

  /// The disk is first touched here, by whoever writes: the shard's own loop does not wait for it.
  Result<void> open() {
    if (file_) return file_->result();
    std::error_code code;
    fs::create_directories(folder_, code);
    if (code) return Error{Code::kFailedPrecondition, "making " + folder_.string() + ": " + code.message()};
    file_.emplace(folder_ / entry_.file);
    const std::vector<SafetensorsEntry> tensors = describe();
    const std::string header =
        encode_safetensors_header(tensors, {{"format", "troupe-table-shard"},
                                            {"table", entry_.table},
                                            {"shard", std::to_string(entry_.shard)},
                                            {kVersionMetadata, std::to_string(version_)}});
    file_->write(0, std::as_bytes(std::span(header)));
    begins_.resize(columns_.size());
    std::uint64_t at = header.size();
    for (const SafetensorsEntry& tensor : tensors) {
      if (tensor.name == kKeysTensor) keys_begin_ = at;
      if (tensor.name == kChunksTensor) chunks_begin_ = at;
      if (tensor.name == kRangesTensor) write_ranges(at);
      if (tensor.name == kWorkersTensor) file_->write(at, std::as_bytes(std::span(windows_)));
      if (tensor.name == kWorkersTensor) entry_.head_bytes = at + tensor.bytes;  // the last before the rows
      for (std::size_t c = 0; c < columns_.size(); ++c)
        if (tensor.name == columns_[c].name) begins_[c] = at;
      at += tensor.bytes;
    }
    return file_->result();
  }

  /// The tensors without rows come first, and then those of larger elements: every tensor begins at a
  /// multiple of its element's size.
  std::vector<SafetensorsEntry> describe() const {
    const std::uint64_t rows = entry_.rows;
    const std::uint64_t lines = windows_.size() / kWorkerColumns;
    std::vector<SafetensorsEntry> tensors;
    if (ranges_) tensors.push_back({kRangesTensor, "U64", {ranges_->size(), 2}, 0, ranges_->size() * 16});
    tensors.push_back(
        {kChunksTensor, "U64", {most_chunks_, kChunkColumns}, 0, most_chunks_ * kChunkColumns * 8});
    tensors.push_back({kWorkersTensor, "U64", {lines, kWorkerColumns}, 0, windows_.size() * 8});
    if (!ranges_) tensors.push_back({kKeysTensor, "U64", {rows}, 0, rows * 8});
    for (const bool floats : {true, false})
      for (const Column& column : columns_)
        if ((column.dtype == "F32") == floats)
          tensors.push_back({column.name, std::string(column.dtype), column.shape, 0, column.bytes * rows});
    return tensors;
  }

  void write_ranges(std::uint64_t at) {
    std::vector<std::uint64_t> lines;
    for (const RowRange& range : *ranges_) lines.insert(lines.end(), {range.begin, range.size()});
    file_->write(at, std::as_bytes(std::span(lines)));
  }

  fs::path folder_;
  FileEntry entry_;
  std::size_t record_bytes_;
  std::vector<Column> columns_;
  std::vector<std::uint64_t> begins_;  // of the columns, in the file
  const TableSpec spec_;
  std::uint64_t version_;
  std::vector<std::uint64_t> windows_;
  const std::uint64_t chunk_rows_;
  const std::uint64_t most_chunks_;
  std::optional<std::vector<RowRange>> ranges_;  // dense: the file's rows
  std::uint64_t keys_begin_ = 0;
  std::optional<FileWriter> file_;
  std::uint64_t came_ = 0;     // rows
  std::uint64_t written_ = 0;  // of these
  std::array<RowBatch, kSlotGroups> waiting_;
  std::uint32_t last_group_ = 0;
  std::uint64_t chunks_begin_ = 0;
  std::vector<std::uint64_t> chunks_;  // lines
  std::vector<std::byte> column_;      // of a chunk
};

}  // namespace

std::vector<Column> columns_of(const RowLayout& layout, std::uint64_t rows) {
  std::vector<Column> columns;
  columns.push_back({.name = kWeightsTensor,
                     .dtype = safetensors_name(layout.weights),
                     .shape = {rows, layout.dim},
                     .offset = 0,
                     .bytes = layout.weight_bytes()});
  for (std::size_t i = 0; i < layout.state.size(); ++i) {
    const bool wide = layout.state[i].extent == Extent::kDim;
    columns.push_back({.name = layout.state[i].name,
                       .dtype = "F32",
                       .shape = wide ? std::vector{rows, layout.dim} : std::vector{rows},
                       .offset = layout.field_offset(i),
                       .bytes = static_cast<std::size_t>(layout.extent(i)) * sizeof(float)});
  }
  return columns;
}

void shape_as_slices(std::vector<Column>& columns, const TableSpec& spec, std::uint64_t rows) {
  std::vector<std::uint64_t> shape = spec.tensor_shape();
  if (rows % spec.rows_per_slice() != 0) return;
  shape[0] = rows / spec.rows_per_slice();
  for (Column& column : columns)
    if (column.shape.size() == 2) column.shape = shape;
}

std::unique_ptr<ShardFileWriter> ShardFileWriter::create(const fs::path& folder, std::uint32_t shard_index,
                                                         const TableShard& shard, std::uint64_t rows) {
  FileEntry entry;
  entry.table = shard.spec().name;
  entry.shard = shard_index;
  entry.rows = rows;
  entry.groups = shard.groups().groups();
  entry.file = entry.table + "." + std::to_string(shard_index) + ".safetensors";
  return std::make_unique<ColumnWriter>(folder, std::move(entry), shard);
}

Result<FileEntry> write_table_shard(const fs::path& folder, std::uint32_t shard_index,
                                    const TableShard& shard) {
  const auto writer = ShardFileWriter::create(folder, shard_index, shard, shard.row_count());
  RowBatch batch;
  ExtractPage page;
  while (!page.done) {
    batch.clear();
    auto next = shard.extract(shard.slots(), page.next_cursor, writer->page_rows(), batch);
    if (!next) return next.error();
    page = *next;
    if (Result<void> done = writer->append(batch); !done) return done.error();
  }
  return writer->finish();
}

}  // namespace troupe::shards
