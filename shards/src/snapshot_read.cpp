#include <algorithm>
#include <charconv>
#include <string>
#include <utility>
#include <vector>

#include <troupe/shards/snapshot.hpp>

#include "file_io.hpp"
#include "safetensors.hpp"
#include "snapshot_format.hpp"

namespace troupe::shards {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kChunkBytes = std::uint64_t{1} << 20;

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

/// Reads one file's rows, some at a time, into a shard.
class ShardFileLoader {
 public:
  ShardFileLoader(const FileReader& file, const FileEntry& entry, const SlotSet& filter, TableShard& into)
      : file_(file), entry_(entry), filter_(filter), into_(into), spec_(into.spec()) {}

  Result<std::uint64_t> load() {
    if (Result<void> done = read_layout(); !done) return done.error();
    const std::uint64_t per_chunk = std::max<std::uint64_t>(1, kChunkBytes / (spec_.dim * sizeof(float)));
    std::uint64_t loaded = 0;
    for (std::uint64_t first = 0; first < entry_.rows; first += per_chunk) {
      const Result<std::uint64_t> part = load_chunk(first, std::min(per_chunk, entry_.rows - first));
      if (!part) return part.error();
      loaded += *part;
    }
    // A file of which no row is wanted is another shard's; one without rows may be this one's.
    if (loaded > 0 || entry_.rows == 0) {
      if (Result<void> done = load_progress(); !done) return done.error();
    }
    return loaded;
  }

 private:
  Error lost(const std::string& fault) const {
    return {Code::kDataLoss, file_.path().string() + ": " + fault};
  }

  Result<const SafetensorsEntry*> tensor(std::string_view name, std::string_view dtype,
                                         const std::vector<std::uint64_t>& shape) const {
    const SafetensorsEntry* found = header_.find(name);
    if (found == nullptr) return lost("has no tensor '" + std::string(name) + "'");
    if (found->dtype != dtype || found->shape != shape) {
      return lost("tensor '" + std::string(name) + "' has another dtype or shape than expected");
    }
    return found;
  }

  /// Finds the tensors and checks that they are what the table and the manifest say.
  Result<void> read_layout() {
    Result<SafetensorsHeader> header = read_safetensors_header(file_);
    if (!header) return header.error();
    header_ = std::move(*header);
    const auto want = [&](std::uint64_t& begin, std::string_view name, std::string_view dtype,
                          const std::vector<std::uint64_t>& shape) -> Result<void> {
      const auto found = tensor(name, dtype, shape);
      if (!found) return found.error();
      begin = (*found)->begin;
      return {};
    };
    const std::vector<std::uint64_t> matrix = {entry_.rows, spec_.dim};
    if (auto done = want(keys_, kKeysTensor, "U64", {entry_.rows}); !done) return done;
    if (auto done = want(weights_, kWeightsTensor, "F32", matrix); !done) return done;
    states_.resize(state_tensors(spec_.optimizer));
    for (std::uint32_t i = 0; i < states_.size(); ++i) {
      if (auto done = want(states_[i], state_tensor_name(spec_.optimizer, i), "F32", matrix); !done)
        return done;
    }
    if (counts_steps(spec_)) return want(steps_, kStepsTensor, "U32", {entry_.rows});
    return {};
  }

  template <class T>
  Result<void> read_into(std::vector<T>& to, std::uint64_t begin, std::uint64_t first,
                         std::uint64_t count) const {
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
      if (filter_.contains(slot) && into_.slots().contains(slot)) wanted_.push_back(i);
    }
    return {};
  }

  Result<std::uint64_t> load_chunk(std::uint64_t first, std::uint64_t count) {
    const std::uint64_t dim = spec_.dim;
    if (auto done = read_into(chunk_keys_, keys_, first, count); !done) return done.error();
    if (auto done = choose(count); !done) return done.error();
    if (wanted_.empty()) return std::uint64_t{0};
    if (auto done = read_into(chunk_weights_, weights_, first * dim, count * dim); !done) return done.error();
    chunk_states_.resize(states_.size());
    for (std::size_t i = 0; i < states_.size(); ++i) {
      if (auto done = read_into(chunk_states_[i], states_[i], first * dim, count * dim); !done) {
        return done.error();
      }
    }
    chunk_steps_.assign(count, 0);
    if (counts_steps(spec_)) {
      if (auto done = read_into(chunk_steps_, steps_, first, count); !done) return done.error();
    }
    row_state_.resize(states_.size() * dim);
    for (const std::uint64_t i : wanted_) {
      for (std::size_t s = 0; s < states_.size(); ++s) {
        std::copy_n(chunk_states_[s].data() + i * dim, dim, row_state_.data() + s * dim);
      }
      auto done = into_.restore_row(chunk_keys_[i], chunk_weights_.data() + i * dim, row_state_.data(),
                                    chunk_steps_[i]);
      if (!done) return done.error();
    }
    return wanted_.size();
  }

  Result<void> load_progress() const {
    const auto text = header_.metadata.find(kVersionMetadata);
    if (text == header_.metadata.end()) return lost("has no version in its metadata");
    std::uint64_t version = 0;
    const char* end = text->second.data() + text->second.size();
    const auto parsed = std::from_chars(text->second.data(), end, version);
    if (parsed.ec != std::errc{} || parsed.ptr != end) return lost("has a malformed version in its metadata");

    const SafetensorsEntry* tensor = header_.find(kWorkersTensor);
    if (tensor == nullptr || tensor->dtype != "U64" || tensor->shape.size() != 2 ||
        tensor->shape[1] != kWorkerColumns || tensor->shape[0] > TableShard::kMaxWorkers) {
      return lost("tensor 'workers' is missing or has another dtype or shape than expected");
    }
    std::vector<std::uint64_t> numbers;
    const std::uint64_t workers = tensor->shape[0];
    if (auto done = read_into(numbers, tensor->begin, 0, workers * kWorkerColumns); !done) return done;
    WorkerWindows windows;
    for (std::uint64_t i = 0; i < workers; ++i) {
      const std::uint64_t* line = numbers.data() + i * kWorkerColumns;
      std::array<std::uint64_t, SequenceWindow::kWords> words{};
      std::copy_n(line + 2, words.size(), words.begin());
      windows[line[0]] = SequenceWindow::restore(line[1], words);
    }
    into_.merge_progress(windows, version);
    return {};
  }

  const FileReader& file_;
  const FileEntry& entry_;
  const SlotSet& filter_;
  TableShard& into_;
  const TableSpec& spec_;
  SafetensorsHeader header_;

  // Where the tensors begin in the file.
  std::uint64_t keys_ = 0;
  std::uint64_t weights_ = 0;
  std::uint64_t steps_ = 0;
  std::vector<std::uint64_t> states_;

  // One chunk of rows.
  std::vector<std::uint64_t> chunk_keys_;
  std::vector<std::uint64_t> wanted_;
  std::vector<float> chunk_weights_;
  std::vector<std::vector<float>> chunk_states_;
  std::vector<std::uint32_t> chunk_steps_;
  std::vector<float> row_state_;
};

Result<void> check_compatible(const TableSpec& saved, const TableSpec& wanted) {
  const auto refuse = [&](const std::string& field, const std::string& was, const std::string& is) {
    return Error{Code::kFailedPrecondition, "table '" + wanted.name + "': the checkpoint has " + field + " " +
                                                was + ", this table " + is};
  };
  if (saved.kind != wanted.kind || saved.rows != wanted.rows) {
    return refuse("rows", std::to_string(saved.rows), std::to_string(wanted.rows) + " (0: embedding)");
  }
  if (saved.dim != wanted.dim) return refuse("dim", std::to_string(saved.dim), std::to_string(wanted.dim));
  if (saved.optimizer.index() != wanted.optimizer.index()) {
    return refuse("optimizer", std::string(name_of(saved.optimizer)), std::string(name_of(wanted.optimizer)));
  }
  return {};
}

}  // namespace

Result<void> verify(const fs::path& folder, const Manifest& manifest) {
  for (const FileEntry& entry : manifest.files) {
    if (const auto file = open_verified(folder, entry); !file) return file.error();
  }
  return {};
}

Result<std::uint64_t> load_rows(const fs::path& folder, const Manifest& manifest, std::string_view table,
                                const SlotSet& filter, TableShard& into) {
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
  for (const FileEntry& entry : manifest.files) {
    if (entry.table != table) continue;
    const Result<FileReader> file = open_verified(folder, entry);
    if (!file) return file.error();
    const Result<std::uint64_t> part = ShardFileLoader(*file, entry, filter, into).load();
    if (!part) return part.error();
    loaded += *part;
  }
  return loaded;
}

Result<std::uint64_t> load_rows(const fs::path& folder, const Manifest& manifest, std::string_view table,
                                TableShard& into) {
  return load_rows(folder, manifest, table, into.slots(), into);
}

}  // namespace troupe::shards
