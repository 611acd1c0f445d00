#include "checkpoint_command.hpp"

#include <iostream>
#include <utility>

#include <troupe/runtime/files.hpp>
#include <troupe/shards/snapshot.hpp>
#include <troupe/shards/table_file.hpp>

using namespace troupe;

void CheckpointCommand::declare(CLI::App& app) {
  app.require_subcommand(1);
  const auto folder = [&](CLI::App* command, const char* what) {
    command->add_option("folder", folder_, what)->required()->option_text("FOLDER");
  };
  const auto file = [&](CLI::App* command, const char* what) {
    command->add_option("file", file_, what)->required()->option_text("FILE");
  };
  show_ = app.add_subcommand("show", "What is in a checkpoint");
  folder(show_, "The checkpoint");
  verify_ = app.add_subcommand("verify", "Read all of a checkpoint, and check it");
  folder(verify_, "The checkpoint");
  export_ = app.add_subcommand("export", "Write tables of a checkpoint as one plain safetensors file");
  folder(export_, "The checkpoint");
  file(export_, "The file to be made");
  export_->add_option("--table", tables_, "This table, and no other that is not named")
      ->option_text("NAME")
      ->allow_extra_args(false);
  export_->add_flag("--state", state_, "With the optimizer's state");
  import_ = app.add_subcommand("import", "Make a checkpoint of the tables in a safetensors file");
  file(import_, "The file");
  folder(import_, "The checkpoint to be made");
  import_
      ->add_option("--spec", specs_,
                   "A file with a table's spec as JSON, for tables that were not made by export")
      ->option_text("FILE")
      ->allow_extra_args(false);
}

Result<void> CheckpointCommand::show() const {
  const auto manifest = shards::read_manifest(folder_);
  if (!manifest) return manifest.error();
  for (const shards::TableSpec& table : manifest->tables) {
    std::uint64_t bytes = 0;
    for (const shards::FileEntry& entry : manifest->files)
      bytes += entry.table == table.name ? entry.bytes : 0;
    std::cout << table.name << ": " << manifest->row_count(table.name) << " rows, " << bytes << " bytes in "
              << manifest->shard_count(table.name) << " files\n  " << table.to_json() << "\n";
  }
  for (const auto& [name, text] : manifest->fingerprints) std::cout << name << " = " << text << "\n";
  return {};
}

Result<void> CheckpointCommand::verify() const {
  const auto manifest = shards::read_manifest(folder_);
  if (!manifest) return manifest.error();
  if (auto good = shards::verify(folder_, *manifest); !good) return good;
  std::cout << folder_ << ": " << manifest->files.size() << " files are as they were written\n";
  return {};
}

Result<void> CheckpointCommand::write_file() const {
  const auto rows = shards::export_tables(folder_, {tables_, state_}, file_);
  if (!rows) return rows.error();
  std::cout << file_ << ": " << *rows << " rows\n";
  return {};
}

Result<void> CheckpointCommand::read_file() const {
  std::vector<shards::TableSpec> specs;
  for (const std::string& path : specs_) {
    const auto text = troupe::read_file(path);
    if (!text) return text.error();
    auto spec = shards::TableSpec::from_json(*text);
    if (!spec) return with_context(std::move(spec).error(), path);
    specs.push_back(std::move(*spec));
  }
  const auto rows = shards::import_tables(file_, std::move(specs), folder_);
  if (!rows) return rows.error();
  std::cout << folder_ << ": " << *rows << " rows\n";
  return {};
}

int CheckpointCommand::run() const {
  const Result<void> done = show_->parsed()     ? show()
                            : verify_->parsed() ? verify()
                            : export_->parsed() ? write_file()
                                                : read_file();
  if (done) return 0;
  std::cerr << "troupe checkpoint: " << done.error().message << "\n";
  switch (done.error().code) {
    case Code::kInvalidArgument:
    case Code::kNotFound:
    case Code::kAlreadyExists:
    case Code::kFailedPrecondition:
    case Code::kDataLoss:
      return 2;
    default:
      return 1;
  }
}
