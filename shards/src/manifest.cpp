#include <fcntl.h>
#include <stdio.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <map>
#include <set>
#include <string>
#include <utility>

#include <troupe/runtime/files.hpp>
#include <troupe/runtime/json.hpp>
#include <troupe/shards/snapshot.hpp>

#include "checkpoint_place.hpp"
#include "json_object.hpp"
#include "spec_json.hpp"

namespace troupe::shards {
namespace {

namespace fs = std::filesystem;

Json entry_to_json(const FileEntry& entry) {
  return {{"file", entry.file},     {"table", entry.table},           {"shard", entry.shard},
          {"rows", entry.rows},     {"groups", entry.groups},         {"bytes", entry.bytes},
          {"crc32c", entry.crc32c}, {"head_bytes", entry.head_bytes}, {"head_crc32c", entry.head_crc32c}};
}

Result<FileEntry> entry_from_json(const Json& json) {
  JsonObject object(json, "checkpoint file");
  FileEntry entry;
  entry.file = object.text("file");
  entry.table = object.text("table");
  entry.shard = static_cast<std::uint32_t>(object.integer("shard", UINT32_MAX));
  entry.rows = object.integer("rows");
  entry.groups = object.integer("groups");
  entry.bytes = object.integer("bytes");
  entry.crc32c = static_cast<std::uint32_t>(object.integer("crc32c", UINT32_MAX));
  if (object.optional_member("head_bytes") != nullptr) {
    entry.head_bytes = object.integer("head_bytes", entry.bytes);
    entry.head_crc32c = static_cast<std::uint32_t>(object.integer("head_crc32c", UINT32_MAX));
  }
  if (Result<void> done = object.finish(); !done) return done.error();
  return entry;
}

/// Names from a manifest must not lead out of its folder.
bool is_plain_file_name(const std::string& name) {
  return !name.empty() && name.size() < 256 && name.front() != '.' &&
         name.find_first_of(std::string("/\\\0", 3)) == std::string::npos;
}

/// Empty if the manifest makes sense, else what is wrong with it.
std::string find_fault(const Manifest& manifest) {
  std::map<std::string, std::set<std::uint32_t>> shards;
  for (const TableSpec& table : manifest.tables) {
    if (Result<void> valid = table.validate(); !valid) return valid.error().message;
    if (!shards.try_emplace(table.name).second) return "table '" + table.name + "' comes twice";
  }
  std::set<std::string> names;
  for (const FileEntry& entry : manifest.files) {
    if (!is_plain_file_name(entry.file))
      return "'" + entry.file + "' is not the name of a file in the folder";
    if (!names.insert(entry.file).second) return "file " + entry.file + " comes twice";
    const auto table = shards.find(entry.table);
    if (table == shards.end()) return "file " + entry.file + " is of an unknown table '" + entry.table + "'";
    if (!table->second.insert(entry.shard).second) {
      return "shard " + std::to_string(entry.shard) + " of table '" + entry.table + "' comes twice";
    }
  }
  for (const auto& [table, numbers] : shards) {
    if (numbers.empty()) return "table '" + table + "' has no file";
    if (*numbers.rbegin() != numbers.size() - 1) {
      return "table '" + table + "' has " + std::to_string(numbers.size()) + " files, but one of shard " +
             std::to_string(*numbers.rbegin());
    }
  }
  return {};
}

Result<Manifest> manifest_from_json(const Json& json, const OptimizerList& known) {
  JsonObject object(json, "manifest");
  const std::uint64_t version = object.integer("format_version");
  if (version != Manifest::kFormatVersion) {
    object.fault("format_version is " + std::to_string(version) + ", this program reads " +
                 std::to_string(Manifest::kFormatVersion));
  }
  const Json& tables = object.member("tables");
  const Json& files = object.member("files");
  const Json& metadata = object.member("metadata");
  if (!tables.is_array()) object.fault("'tables' is not a list");
  if (!files.is_array()) object.fault("'files' is not a list");
  if (!metadata.is_object()) object.fault("'metadata' is not an object");
  Manifest manifest;
  if (const Json* fingerprints = object.optional_member("fingerprints")) {
    if (!fingerprints->is_object()) object.fault("'fingerprints' is not an object");
    for (const auto& [name, text] : fingerprints->items()) {
      if (!text.is_string())
        object.fault("fingerprint '" + name + "' is not a text");
      else
        manifest.fingerprints[name] = text.get<std::string>();
    }
  }
  if (Result<void> done = object.finish(); !done) return done.error();

  for (const Json& table : tables) {
    Result<TableSpec> spec = spec_from_json(table, "table spec", known);
    if (!spec) return spec.error();
    manifest.tables.push_back(std::move(*spec));
  }
  for (const Json& file : files) {
    Result<FileEntry> entry = entry_from_json(file);
    if (!entry) return entry.error();
    manifest.files.push_back(std::move(*entry));
  }
  manifest.metadata = to_line(metadata);
  const std::string fault = find_fault(manifest);
  if (!fault.empty()) return Error{Code::kInvalidArgument, fault};
  return manifest;
}

Result<std::string> manifest_to_text(const Manifest& manifest) {
  const std::string fault = find_fault(manifest);
  if (!fault.empty()) return Error{Code::kInvalidArgument, "checkpoint: " + fault};
  const Result<Json> metadata = parse_json(manifest.metadata, "checkpoint metadata");
  if (!metadata) return metadata.error();
  if (!metadata->is_object()) {
    return Error{Code::kInvalidArgument, "checkpoint metadata: expected a JSON object"};
  }
  Json json = {{"format_version", Manifest::kFormatVersion},
               {"tables", Json::array()},
               {"files", Json::array()},
               {"metadata", *metadata}};
  if (!manifest.fingerprints.empty()) json["fingerprints"] = manifest.fingerprints;
  for (const TableSpec& table : manifest.tables) json["tables"].push_back(spec_to_json(table));
  for (const FileEntry& entry : manifest.files) json["files"].push_back(entry_to_json(entry));
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

/// Puts `temporary` in the place of `final`, which exists; the older one then has the name `temporary`.
/// On file systems that cannot exchange two folders it is called <final>.previous. `older`: its name.
Result<void> exchange(const fs::path& temporary, const fs::path& final, fs::path& older) {
  older = temporary;
  if (::renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, final.c_str(), RENAME_EXCHANGE) == 0) return {};
  if (errno != EINVAL && errno != ENOSYS && errno != EOPNOTSUPP) {
    return errno_error(errno, "replacing " + final.string());
  }
  const fs::path previous = final.string() + ".previous";
  std::error_code ignored;
  fs::remove_all(previous, ignored);
  if (::rename(final.c_str(), previous.c_str()) != 0) {
    return errno_error(errno, "moving " + final.string() + " aside");
  }
  if (::rename(temporary.c_str(), final.c_str()) != 0) {
    const Error error = errno_error(errno, "renaming " + temporary.string() + " to " + final.string());
    ::rename(previous.c_str(), final.c_str());
    return error;
  }
  older = previous;
  return {};
}

/// Takes a checkpoint away. Its name is free at once: a death in the middle of a removal must not leave half
/// of a checkpoint under a name that later ones need.
void remove_checkpoint(const fs::path& folder, const fs::path& final) {
  std::error_code code;
  const fs::path going = final.string() + ".removed";
  fs::remove_all(going, code);  // what an interrupted removal left
  fs::remove_all(::rename(folder.c_str(), going.c_str()) == 0 ? going : folder, code);
}

/// `older` and those that are kept already get the names of one older each; who is too old goes. What fails
/// here costs an older checkpoint, never the new one.
void keep_older(const fs::path& older, const fs::path& final, std::uint32_t keep) {
  for (std::uint32_t i = keep; is_checkpoint(older_name(final, i)); ++i)
    remove_checkpoint(older_name(final, i), final);
  if (older.empty()) return;
  if (keep == 1) {
    remove_checkpoint(older, final);
    return;
  }
  remove_checkpoint(older_name(final, keep - 1), final);
  for (std::uint32_t i = keep - 1; i > 1; --i)
    ::rename(older_name(final, i - 1).c_str(), older_name(final, i).c_str());
  ::rename(older.c_str(), older_name(final, 1).c_str());
  std::error_code code;
  (void)sync_directory(fs::absolute(final, code).parent_path().string());
}

/// The older checkpoint is moved on, or removed, only when the new name is on the disk: a power cut leaves
/// one or the other.
Result<void> put_in_place(const fs::path& temporary, const fs::path& final, std::uint32_t keep) {
  std::error_code code;
  fs::path older;
  if (fs::exists(final, code)) {
    if (Result<void> done = exchange(temporary, final, older); !done) return done;
  } else if (::rename(temporary.c_str(), final.c_str()) != 0) {
    return errno_error(errno, "renaming " + temporary.string() + " to " + final.string());
  }
  const fs::path parent = fs::absolute(final, code).parent_path();
  if (Result<void> synced = sync_directory(parent.string()); !synced) return synced;
  keep_older(older, final, keep);
  return {};
}

}  // namespace

const TableSpec* Manifest::find_table(std::string_view name) const {
  const auto found =
      std::find_if(tables.begin(), tables.end(), [&](const auto& t) { return t.name == name; });
  return found == tables.end() ? nullptr : &*found;
}

std::uint32_t Manifest::shard_count(std::string_view table) const {
  return static_cast<std::uint32_t>(
      std::count_if(files.begin(), files.end(), [&](const auto& f) { return f.table == table; }));
}

std::uint64_t Manifest::row_count(std::string_view table) const {
  std::uint64_t total = 0;
  for (const FileEntry& entry : files) total += entry.table == table ? entry.rows : 0;
  return total;
}

std::string to_json(const FileEntry& entry) {
  return to_line(entry_to_json(entry));
}

Result<FileEntry> file_entry_from_json(std::string_view text) {
  const Result<Json> json = parse_json(text, "checkpoint file");
  if (!json) return json.error();
  return entry_from_json(*json);
}

Result<void> commit(const fs::path& temporary, const fs::path& final, const Manifest& manifest,
                    std::uint32_t keep) {
  const Result<std::string> text = manifest_to_text(manifest);
  if (!text) return text.error();
  if (Result<void> sizes = check_sizes(temporary, manifest); !sizes) return sizes;
  return commit_folder(temporary, final, *text, keep);
}

Result<void> commit_folder(const fs::path& temporary, const fs::path& final_folder, std::string_view manifest,
                           std::uint32_t keep) {
  assert(keep > 0);
  const fs::path final = final_folder.has_filename() ? final_folder : final_folder.parent_path();
  std::error_code code;
  if (fs::equivalent(temporary, final, code)) {
    return Error{Code::kInvalidArgument,
                 "a checkpoint cannot be committed onto its own temporary folder " + temporary.string()};
  }
  if (Result<void> free = check_replaceable(final); !free) return free;
  for (std::uint32_t i = 1; i < keep; ++i)
    if (Result<void> free = check_replaceable(older_name(final, i)); !free) return free;
  const std::string path = (temporary / kManifestName).string();
  if (Result<void> written = write_file_atomically(path, manifest); !written) return written;
  if (Result<void> synced = sync_directory(temporary.string()); !synced) return synced;
  return put_in_place(temporary, final, keep);
}

Result<void> check_sizes(const fs::path& folder, const Manifest& manifest) {
  for (const FileEntry& entry : manifest.files) {
    const fs::path path = folder / entry.file;
    std::error_code code;
    const std::uintmax_t bytes = fs::file_size(path, code);
    if (code) return Error{Code::kNotFound, path.string() + " is missing or not a file: " + code.message()};
    if (bytes != entry.bytes) {
      return Error{Code::kDataLoss, path.string() + " has " + std::to_string(bytes) + " bytes, expected " +
                                        std::to_string(entry.bytes)};
    }
  }
  return {};
}

Result<Manifest> read_manifest(const fs::path& folder, const OptimizerList& known) {
  const std::string path = (folder / kManifestName).string();
  std::error_code code;
  if (!fs::is_regular_file(path, code)) {
    const std::string previous = folder.string() + ".previous";  // left by an interrupted exchange()
    const bool kept = fs::is_regular_file(fs::path(previous) / kManifestName, code);
    return Error{Code::kNotFound, folder.string() + " holds no checkpoint: there is no " + path +
                                      (kept ? "; an older one stands in " + previous : "")};
  }
  const Result<std::string> text = read_file(path);
  if (!text) return text.error();
  const Result<Json> json = parse_json(*text, path);
  if (!json) return Error{Code::kDataLoss, json.error().message};
  Result<Manifest> manifest = manifest_from_json(*json, known);
  if (!manifest) return Error{Code::kDataLoss, path + ": " + manifest.error().message};
  return manifest;
}

}  // namespace troupe::shards
