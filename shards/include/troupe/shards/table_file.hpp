#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <troupe/runtime/result.hpp>
#include <troupe/shards/optimizer.hpp>
#include <troupe/shards/table_spec.hpp>

/// Tables as one plain safetensors file, for programs that know nothing of shards: what NumPy, PyTorch and
/// others read and write.
///
/// For each table: `<table>.weights` F32, F16 or BF16 [n, dim], a line for each row. Line i of a dense table
/// is row i, and its tensors have the shape that TableSpec::tensor_shape() says; of an embedding table
/// `<table>.keys` U64 [n] says which row it is. Each field of the optimizer's state, if it is there, as
/// `<table>.<field>` F32 [n, dim], or [n] for one number a row. __metadata__ has the TableSpec of each table,
/// as JSON, under `spec.<table>`. What was pushed by whom is not in it.
///
/// These functions block on the disk, and hold one table in memory.
namespace troupe::shards {

struct ExportOptions {
  std::vector<std::string> tables = {};  ///< none: all
  bool state = false;                    ///< with the optimizer's
};

/// Writes tables of the checkpoint in `folder`, each with its rows in the order of their keys, to `file`,
/// which is there either whole or not at all; returns how many rows. Errors as of read_manifest() and
/// load_rows(); kNotFound for a table that is not in it, kAlreadyExists if there is a file of that name.
Result<std::uint64_t> export_tables(const std::filesystem::path& folder, const ExportOptions& options,
                                    const std::filesystem::path& file,
                                    const OptimizerList& known = builtin_optimizers());

/// Makes a checkpoint of tables in `file` at `to`; returns how many rows. The tables are `specs`, or, without
/// any, those of which the file itself has the specs. The weights may also be called just `<table>`, and an
/// embedding table without keys has those of 0 to n-1. State that is not in the file is that of new rows.
///
/// kInvalidArgument, naming file and tensor: a tensor that is missing, or has another dtype or shape than its
/// table; a key that comes twice; a number that is not finite; no table at all. kDataLoss: no safetensors
/// file. kFailedPrecondition as checkpoint_place(), and kAlreadyExists for a checkpoint that stands there.
Result<std::uint64_t> import_tables(const std::filesystem::path& file, std::vector<TableSpec> specs,
                                    const std::filesystem::path& to,
                                    const OptimizerList& known = builtin_optimizers());

}  // namespace troupe::shards
