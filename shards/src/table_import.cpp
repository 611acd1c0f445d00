#include <algorithm>
#include <cstring>
#include <numeric>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <troupe/shards/snapshot.hpp>
#include <troupe/shards/table_file.hpp>

#include <troupe/shards/file_io.hpp>
#include <troupe/shards/safetensors.hpp>
#include "checkpoint_place.hpp"

#include "snapshot_format.hpp"
#include "table_file_format.hpp"

namespace troupe::shards {
namespace {

namespace fs = std::filesystem;

/// Reads one table out of the file, some rows at a time.
class TableReader {
 public:
  TableReader(const FileReader& file, const SafetensorsHeader& header, const TableSpec& spec)
      : file_(file), header_(header), spec_(spec), layout_(spec.optimizer.layout(spec.weights, spec.dim)) {}

  /// Looks for the table's tensors: before memory is taken for what it says of itself.
  Result<void> find() {
    const std::string name = spec_.name + "." + kWeightsTensor;
    const SafetensorsEntry* weights = header_.find(name);
    if (weights == nullptr) weights = header_.find(spec_.name);
    if (weights == nullptr)
      return refused("has no tensor '" + name + "', and none that is called just '" + spec_.name + "'");
    const bool dense = spec_.kind == TableKind::kDense;
    rows_ = dense || weights->shape.empty() ? spec_.rows : weights->shape[0];
    if (!dense) keys_ = header_.find(keys_name(spec_));
    if (keys_ != nullptr)
      if (auto good = check(*keys_, "U64", {rows_}); !good) return good;
    auto columns = columns_of(layout_, rows_);
    if (dense) shape_as_slices(columns, spec_, rows_);
    for (std::size_t i = 0; i < columns.size(); ++i) {
      Source source{columns[i], weights, 0};
      if (i > 0) {  // state
        source.tensor = header_.find(tensor_name(spec_, columns[i]));
        source.first_value = layout_.state[i - 1].first_value;
      }
      if (source.tensor != nullptr)
        if (auto good = check(*source.tensor, columns[i].dtype, columns[i].shape); !good) return good;
      sources_.push_back(std::move(source));
    }
    return {};
  }

  Result<void> read(TableShard& into) {
    if (auto done = read_keys(); !done) return done;
    const std::uint64_t most = std::max<std::uint64_t>(1, kChunkBytes / layout_.bytes());
    for (std::uint64_t first = 0; first < rows_; first += most)
      if (auto done = read_some(first, std::min(most, rows_ - first), into); !done) return done;
    return {};
  }

 private:
  /// A column of the records, and where its lines lie in the file; none: they are those of new rows.
  struct Source {
    Column column;
    const SafetensorsEntry* tensor = nullptr;
    float first_value = 0;
  };

  Error refused(const std::string& why) const {
    return {Code::kInvalidArgument, file_.path().string() + ": " + why};
  }

  Result<void> check(const SafetensorsEntry& tensor, std::string_view dtype,
                     const std::vector<std::uint64_t>& shape) const {
    if (tensor.dtype == dtype && tensor.shape == shape) return {};
    const auto text = [](const std::vector<std::uint64_t>& numbers) {
      std::string all;
      for (const std::uint64_t number : numbers) all += (all.empty() ? "" : ", ") + std::to_string(number);
      return "[" + all + "]";
    };
    return refused("tensor '" + tensor.name + "' is " + tensor.dtype + " " + text(tensor.shape) +
                   ", table '" + spec_.name + "' wants " + std::string(dtype) + " " + text(shape));
  }

  Result<void> read_keys() {
    all_keys_.resize(rows_);
    if (keys_ == nullptr) {
      std::iota(all_keys_.begin(), all_keys_.end(), std::uint64_t{0});
      return {};
    }
    if (auto done = file_.read(keys_->begin, std::as_writable_bytes(std::span(all_keys_))); !done)
      return done;
    auto sorted = all_keys_;
    std::sort(sorted.begin(), sorted.end());
    const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
    if (twice == sorted.end()) return {};
    return refused("table '" + spec_.name + "' has key " + std::to_string(*twice) + " twice");
  }

  Result<void> read_some(std::uint64_t first, std::uint64_t count, TableShard& into) {
    const auto keys = std::span(all_keys_).subspan(first, count);
    batch_.keys.assign(keys.begin(), keys.end());
    batch_.records.assign(count * layout_.bytes(), std::byte{0});
    for (const Source& source : sources_)
      if (auto done = fill(source, first); !done) return done;
    return into.insert(batch_);
  }

  /// A column of the batch, which begins with this row.
  Result<void> fill(const Source& source, std::uint64_t first) {
    const std::size_t bytes = source.column.bytes;
    lines_.resize(batch_.keys.size() * bytes);
    if (source.tensor != nullptr) {
      if (auto done = file_.read(source.tensor->begin + first * bytes, lines_); !done) return done;
    } else {
      for (std::size_t at = 0; at < lines_.size(); at += sizeof(float))
        std::memcpy(lines_.data() + at, &source.first_value, sizeof(float));
    }
    std::byte* to = batch_.records.data() + source.column.offset;
    for (std::size_t i = 0; i < batch_.keys.size(); ++i, to += layout_.bytes()) {
      const auto line = std::span<const std::byte>(lines_).subspan(i * bytes, bytes);
      if (source.tensor != nullptr && !is_finite(source.column.dtype, line))
        return refused("tensor '" + source.tensor->name +
                       "' has a number that is not finite in the row of key " +
                       std::to_string(batch_.keys[i]));
      std::copy(line.begin(), line.end(), to);
    }
    return {};
  }

  const FileReader& file_;
  const SafetensorsHeader& header_;
  const TableSpec& spec_;
  const RowLayout layout_;
  std::uint64_t rows_ = 0;
  const SafetensorsEntry* keys_ = nullptr;  // null: 0, 1, 2 ...
  std::vector<Source> sources_;
  std::vector<std::uint64_t> all_keys_;
  std::vector<std::byte> lines_;
  RowBatch batch_;
};

Result<std::vector<TableSpec>> specs_in(const FileReader& file, const SafetensorsHeader& header,
                                        const OptimizerList& known) {
  std::vector<TableSpec> specs;
  for (const auto& [name, text] : header.metadata) {
    if (!name.starts_with(kSpecPrefix)) continue;
    auto spec = TableSpec::from_json(text, known);
    if (!spec) return with_context(std::move(spec).error(), file.path().string() + ": " + name);
    specs.push_back(std::move(*spec));
  }
  return specs;
}

Result<void> check_specs(const std::vector<TableSpec>& specs, const fs::path& file) {
  if (specs.empty()) {
    return Error{Code::kInvalidArgument,
                 file.string() + " does not say what tables it has: give the spec of each"};
  }
  std::set<std::string> names;
  for (const TableSpec& spec : specs) {
    if (auto valid = spec.validate(); !valid) return valid;
    if (!names.insert(spec.name).second)
      return Error{Code::kInvalidArgument, "two specs are of table '" + spec.name + "'"};
  }
  return {};
}

Result<Manifest> write_checkpoint(const FileReader& file, const SafetensorsHeader& header,
                                  const std::vector<TableSpec>& specs, const fs::path& folder) {
  Manifest manifest;
  manifest.tables = specs;
  for (const TableSpec& spec : specs) {
    TableReader reader(file, header, spec);
    if (auto found = reader.find(); !found) return found.error();
    auto shard = TableShard::create(spec);
    if (!shard) return shard.error();
    if (auto read = reader.read(*shard); !read) return read.error();
    auto entry = write_table_shard(folder, 0, *shard);
    if (!entry) return entry.error();
    manifest.files.push_back(std::move(*entry));
  }
  return manifest;
}

}  // namespace

Result<std::uint64_t> import_tables(const fs::path& from, std::vector<TableSpec> specs, const fs::path& to,
                                    const OptimizerList& known) {
  const Result<FileReader> file = FileReader::open(from);
  if (!file) return file.error();
  const Result<SafetensorsHeader> header = read_safetensors_header(*file);
  if (!header) return header.error();
  if (specs.empty()) {
    auto own = specs_in(*file, *header, known);
    if (!own) return own.error();
    specs = std::move(*own);
  }
  if (auto good = check_specs(specs, from); !good) return good.error();
  const Result<CheckpointPlace> place = checkpoint_place(to);
  if (!place) return place.error();
  if (is_checkpoint(place->final)) {
    return Error{Code::kAlreadyExists,
                 place->final.string() + " is a checkpoint already: give another folder, or remove it"};
  }
  const Result<CheckpointLock> lock = CheckpointLock::take(*place);
  if (!lock) return lock.error();
  std::error_code ignored;
  fs::remove_all(place->temporary, ignored);
  const Result<Manifest> manifest = write_checkpoint(*file, *header, specs, place->temporary);
  const Result<void> committed =
      manifest ? commit(place->temporary, place->final, *manifest) : manifest.error();
  if (!committed) {
    fs::remove_all(place->temporary, ignored);
    return committed.error();
  }
  std::uint64_t rows = 0;
  for (const TableSpec& spec : specs) rows += manifest->row_count(spec.name);
  return rows;
}

}  // namespace troupe::shards
