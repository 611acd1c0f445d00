#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <troupe/shards/row_layout.hpp>
#include <troupe/shards/safetensors.hpp>
#include <troupe/shards/sequence_window.hpp>
#include <troupe/shards/table_spec.hpp>

namespace troupe::shards {

// Names in the files of a checkpoint; see snapshot.hpp.
inline constexpr const char* kKeysTensor = "keys";
inline constexpr const char* kRangesTensor = "ranges";
inline constexpr const char* kWorkersTensor = "workers";
inline constexpr const char* kChunksTensor = "chunks";
inline constexpr const char* kWeightsTensor = "weights";
inline constexpr const char* kVersionMetadata = "version";

/// A line of `workers`: slot groups as bits, the worker, its highest sequence, its window's words.
inline constexpr std::uint64_t kWorkerColumns = 3 + SequenceWindow::kWords;

/// A line of `chunks`: slot group, rows, CRC-32C.
inline constexpr std::uint64_t kChunkColumns = 3;
/// Of a piece of one group's rows.
inline constexpr std::uint64_t kGroupChunkBytes = std::uint64_t{256} << 10;

/// Rows that are copied, written or read at once.
inline constexpr std::uint64_t kChunkBytes = std::uint64_t{1} << 20;

/// A tensor with a line for each row, and where that line lies in a record.
struct Column {
  std::string name;
  std::string_view dtype;
  std::vector<std::uint64_t> shape;
  std::size_t offset = 0;  // in a record
  std::size_t bytes = 0;   // of a line
};

/// The columns of `rows` rows: the weights, then each field of the state.
std::vector<Column> columns_of(const RowLayout& layout, std::uint64_t rows);

/// Whether all of a line's numbers, F32, F16 or BF16, are finite.
bool is_finite(std::string_view dtype, std::span<const std::byte> line);

/// Gives columns of a dense table's rows the shape of its tensor's slices, if those are whole slices.
void shape_as_slices(std::vector<Column>& columns, const TableSpec& spec, std::uint64_t rows);

}  // namespace troupe::shards
