#include "zero/checkpoint.hpp"

#include <algorithm>
#include <map>
#include <span>
#include <stdexcept>
#include <utility>

#include <troupe/runtime/checksum.hpp>
#include <troupe/runtime/files.hpp>
#include <troupe/runtime/json.hpp>
#include <troupe/shards/checked_file.hpp>
#include <troupe/shards/file_io.hpp>
#include <troupe/shards/safetensors.hpp>

#include "zero/elements.hpp"

namespace troupe::training::zero {
namespace {

namespace fs = std::filesystem;

constexpr const char* kKind = "zero";
constexpr const char* kPartsTensor = "parts";
constexpr const char* kWeightsTensor = "weights";
constexpr std::uint64_t kColumns = 3;

Error lost(const fs::path& path, const std::string& why) {
  return {Code::kDataLoss, path.string() + ": " + why};
}

class BadCount : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A whole number from 0 on.
std::int64_t count_in(const Json& json, const char* name) {
  constexpr std::uint64_t kMost = std::uint64_t{1} << 62;
  const Json& value = json.at(name);
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() > kMost)
    throw BadCount(std::string(name) + " is " + to_line(value) + ", expected a whole number from 0 on");
  return value.get<std::int64_t>();
}

/// What this member has of a parameter: elements from .. from + n, at `at` of what it steps of a segment.
struct Part {
  int segment = 0;
  std::int64_t from = 0;
  std::int64_t at = 0;
  std::int64_t n = 0;
};

/// A file's part of a parameter.
struct Line {
  std::int64_t parameter = 0;
  std::int64_t from = 0;
  std::int64_t n = 0;
};
static_assert(sizeof(Line) == kColumns * sizeof(std::int64_t));

/// A tensor of a file, from its front to its end, with the checksum of the file so far.
class Output {
 public:
  explicit Output(const fs::path& path) : writer_(path) {}
  void write(std::span<const std::byte> bytes) {
    writer_.write(at_, bytes);
    crc_ = crc32c(bytes, crc_);
    at_ += bytes.size();
  }
  void write(const Tensor& values) { write({values.data(), values.bytes()}); }
  Result<void> finish() { return writer_.finish(); }
  std::uint64_t bytes() const { return at_; }
  std::uint32_t crc() const { return crc_; }

 private:
  shards::FileWriter writer_;
  std::uint64_t at_ = 0;
  std::uint32_t crc_ = 0;
};

/// The optimizer's numbers beside a segment's weights.
Tensor state_of(const Stepper& stepper, std::size_t field, const Segment& segment, std::int64_t n) {
  return part(stepper.state()[field], {segment.own_at, n});
}

}  // namespace

std::string to_text(const Saved& saved) {
  Json json = {{"kind", kKind},
               {"format_version", Saved::kFormatVersion},
               {"optimizer", saved.optimizer},
               {"parameters", Json::array()},
               {"files", Json::array()},
               {"steps", saved.steps},
               {"skipped", saved.skipped}};
  for (const ZeroParameter& each : saved.parameters) {
    const auto extents = each.shape.extents();
    json["parameters"].push_back({{"name", json_of_bytes(each.name)},
                                  {"shape", std::vector<std::int64_t>(extents.begin(), extents.end())}});
  }
  for (const shards::FileEntry& each : saved.files)
    json["files"].push_back({{"file", each.file}, {"bytes", each.bytes}, {"crc32c", each.crc32c}});
  if (saved.scaled)
    json["loss_scale"] = {{"scale", saved.scaler.scale},
                          {"overflows_left", saved.scaler.overflows_left},
                          {"good_steps", saved.scaler.good_steps}};
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

Result<Saved> read_saved(const fs::path& folder) {
  const fs::path path = folder / shards::kManifestName;
  std::error_code code;
  if (!fs::is_regular_file(path, code)) {
    const std::string previous = folder.string() + ".previous";  // left by an interrupted exchange
    const bool kept = fs::is_regular_file(fs::path(previous) / shards::kManifestName, code);
    return Error{Code::kNotFound, folder.string() + " holds no checkpoint: there is no " + path.string() +
                                      (kept ? "; an older one stands in " + previous : "")};
  }
  const Result<Json> json = read_json_file(path.string());
  if (!json) return Error{Code::kDataLoss, json.error().message};
  try {
    if (!json->is_object() || json->value("kind", "") != kKind)
      return lost(path, "is not the manifest of a checkpoint of this kind");
    if (json->at("format_version").get<std::uint32_t>() != Saved::kFormatVersion)
      return lost(path, "format_version is " + to_line(json->at("format_version")) + ", this program reads " +
                            std::to_string(Saved::kFormatVersion));
    Saved saved;
    saved.optimizer = json->at("optimizer").get<std::string>();
    saved.steps = static_cast<std::uint64_t>(count_in(*json, "steps"));
    saved.skipped = static_cast<std::uint64_t>(count_in(*json, "skipped"));
    for (const Json& each : json->at("parameters")) {
      const auto extents = each.at("shape").get<std::vector<std::int64_t>>();
      saved.parameters.push_back({bytes_of_json(each.at("name")), Shape(std::span(extents))});
    }
    for (const Json& each : json->at("files")) {
      shards::FileEntry entry;
      entry.file = each.at("file").get<std::string>();
      entry.bytes = static_cast<std::uint64_t>(count_in(each, "bytes"));
      entry.crc32c = static_cast<std::uint32_t>(count_in(each, "crc32c"));
      // Names from a manifest must not lead out of its folder.
      if (entry.file.empty() || fs::path(entry.file).filename() != entry.file || entry.file.front() == '.')
        return lost(path, "'" + entry.file + "' is not the name of a file in the folder");
      saved.files.push_back(std::move(entry));
    }
    if (const auto scale = json->find("loss_scale"); scale != json->end()) {
      saved.scaled = true;
      saved.scaler.scale = scale->at("scale").get<float>();
      const std::int64_t overflows = count_in(*scale, "overflows_left");
      saved.scaler.overflows_left = static_cast<std::int32_t>(std::min<std::int64_t>(overflows, 1 << 30));
      saved.scaler.good_steps = count_in(*scale, "good_steps");
      if (!(saved.scaler.scale >= LossScaler::kSmallest && saved.scaler.scale <= LossScaler::kLargest))
        return lost(path, "the loss scale is " + to_line(scale->at("scale")));
      if (overflows < 1) return lost(path, "overflows_left is 0");
    }
    return saved;
  } catch (const BadCount& error) {
    return lost(path, error.what());
  } catch (const Json::exception& error) {
    return lost(path, error.what());
  } catch (const BadTensor& error) {
    return lost(path, error.what());
  }
}

Result<shards::FileEntry> write_share(const fs::path& folder, int rank, const Plan& plan,
                                      const Weights& weights, const Stepper& stepper) {
  // Without what fills segments up.
  struct Kept {
    const Segment* segment;
    Range range;  ///< of what this member steps of it
  };
  std::vector<Line> lines;
  std::vector<Kept> kept;
  std::uint64_t n = 0;
  for (const Segment& segment : plan.segments()) {
    const Range share = plan.share(segment);
    const std::int64_t begin = plan.stepped(segment).at;
    for (const Piece& piece : plan.pieces(segment.region, share)) {
      lines.push_back({piece.parameter, piece.from, piece.n});
      kept.push_back({&segment, {piece.at - begin, piece.n}});
      n += static_cast<std::uint64_t>(piece.n);
    }
  }
  const auto entry_of = [&](const std::string& name) {
    return shards::SafetensorsEntry{name, "F32", {n}, 0, n * sizeof(float)};
  };
  const std::uint64_t count = lines.size();
  std::vector<shards::SafetensorsEntry> entries = {
      {kPartsTensor, "I64", {count, kColumns}, 0, count * sizeof(Line)}, entry_of(kWeightsTensor)};
  for (const std::string& name : stepper.names()) entries.push_back(entry_of(name));

  shards::FileEntry entry;
  entry.file = "zero." + std::to_string(rank) + ".safetensors";
  Output output(folder / entry.file);
  const std::string header = shards::encode_safetensors_header(entries, {{"member", std::to_string(rank)}});
  output.write(std::as_bytes(std::span(header)));
  output.write(std::as_bytes(std::span(lines)));
  for (const Kept& each : kept) output.write(part(weights.stepped(*each.segment), each.range));
  for (std::size_t field = 0; field < stepper.names().size(); ++field)
    for (const Kept& each : kept)
      output.write(part(state_of(stepper, field, *each.segment, plan.stepped(*each.segment).n), each.range));
  if (Result<void> done = output.finish(); !done) return done.error();
  entry.bytes = output.bytes();
  entry.crc32c = output.crc();
  return entry;
}

Result<void> check_files(const fs::path& folder, const std::vector<shards::FileEntry>& files) {
  for (std::size_t i = 0; i < files.size(); ++i) {
    std::error_code code;
    const fs::path path = folder / files[i].file;
    if (fs::file_size(path, code) == files[i].bytes && !code) continue;
    return Error{Code::kFailedPrecondition,
                 path.string() + ", which member " + std::to_string(i) +
                     " has written, is not there as it is: all members must see this folder"};
  }
  return {};
}

namespace {

/// Reads from the files of a checkpoint what one member steps.
class Reader {
 public:
  Reader(const Plan& plan, const Weights& weights, const Stepper& stepper)
      : plan_(plan), weights_(weights), stepper_(stepper) {
    for (std::size_t i = 0; i < plan.segments().size(); ++i) {
      const Segment& segment = plan.segments()[i];
      const Range range = plan.stepped(segment);
      for (const Piece& piece : plan.pieces(segment.region, range)) {
        parts_[piece.parameter].push_back({static_cast<int>(i), piece.from, piece.at - range.at, piece.n});
        missing_ += piece.n;
      }
    }
  }

  /// Whether each element has been there once.
  bool complete() {
    const auto key = [](const Line& line) { return std::pair(line.parameter, line.from); };
    std::sort(taken_.begin(), taken_.end(), [&](const Line& a, const Line& b) { return key(a) < key(b); });
    for (std::size_t i = 1; i < taken_.size(); ++i)
      if (taken_[i].parameter == taken_[i - 1].parameter &&
          taken_[i].from < taken_[i - 1].from + taken_[i - 1].n)
        return false;
    return missing_ == 0;
  }

  /// `all`: also what belongs to others, so that its checksum is known.
  Result<void> read(const fs::path& folder, const shards::FileEntry& entry, bool all) {
    Result<shards::CheckedFile> file = shards::CheckedFile::open(folder, entry);
    if (!file) return file.error();
    std::vector<Line> lines;
    if (Result<void> done = read_lines(*file, lines); !done) return done;
    std::int64_t n = 0;
    for (const Line& line : lines) n += line.n;
    if (!all && std::none_of(lines.begin(), lines.end(), [&](const Line& line) { return has(line); }))
      return {};
    for (std::size_t field = 0; field <= stepper_.names().size(); ++field) {
      const std::string name = field == 0 ? kWeightsTensor : stepper_.names()[field - 1];
      const shards::SafetensorsEntry* tensor = file->header().find(name);
      if (tensor == nullptr || tensor->dtype != "F32" ||
          tensor->bytes != static_cast<std::uint64_t>(n) * sizeof(float))
        return lost(file->path(), "has no tensor '" + name + "' with a number for each element");
      std::uint64_t at = tensor->begin;
      for (const Line& line : lines) {
        if (Result<void> done = read_line(*file, line, at, field); !done) return done;
        at += static_cast<std::uint64_t>(line.n) * sizeof(float);
      }
    }
    return all ? file->finish() : Result<void>();
  }

 private:
  /// Whether this member steps some of it.
  bool has(const Line& line) const {
    const auto found = parts_.find(static_cast<int>(line.parameter));
    return found != parts_.end() &&
           std::any_of(found->second.begin(), found->second.end(), [&](const Part& mine) {
             return mine.from < line.from + line.n && line.from < mine.from + mine.n;
           });
  }
  Result<void> read_lines(shards::CheckedFile& file, std::vector<Line>& lines) const {
    const shards::SafetensorsEntry* tensor = file.header().find(kPartsTensor);
    if (tensor == nullptr || tensor->dtype != "I64" || tensor->shape.size() != 2 ||
        tensor->shape[1] != kColumns)
      return lost(file.path(), "has no tensor 'parts'");
    lines.resize(tensor->shape[0]);
    if (Result<void> done = file.read(tensor->begin, std::as_writable_bytes(std::span(lines))); !done)
      return done;
    for (const Line& line : lines) {
      const bool known = line.parameter >= 0 && line.parameter < plan_.parameters();
      const std::int64_t whole = known ? plan_.place(static_cast<int>(line.parameter)).range.n : 0;
      if (!known || line.from < 0 || line.n < 0 || line.from > whole || line.n > whole - line.from)
        return lost(file.path(), "has a part of a parameter that is not there");
    }
    return {};
  }

  /// A line's numbers begin at `offset` of the file. Field 0: the weights.
  Result<void> read_line(shards::CheckedFile& file, const Line& line, std::uint64_t offset,
                         std::size_t field) {
    for (const Part& mine : parts_[static_cast<int>(line.parameter)]) {
      const std::int64_t from = std::max(mine.from, line.from);
      const std::int64_t n = std::min(mine.from + mine.n, line.from + line.n) - from;
      if (n <= 0) continue;
      const Segment& segment = plan_.segments()[static_cast<std::size_t>(mine.segment)];
      const Tensor all = field == 0 ? weights_.stepped(segment)
                                    : state_of(stepper_, field - 1, segment, plan_.stepped(segment).n);
      const Tensor to = part(all, {mine.at + from - mine.from, n});
      const std::uint64_t at = offset + static_cast<std::uint64_t>(from - line.from) * sizeof(float);
      if (Result<void> done = file.read(at, {to.data(), to.bytes()}); !done) return done;
      if (field != 0) continue;
      missing_ -= n;
      taken_.push_back({line.parameter, from, n});
    }
    return {};
  }

  const Plan& plan_;
  const Weights& weights_;
  const Stepper& stepper_;
  std::map<int, std::vector<Part>> parts_;  // of each parameter, ascending
  std::int64_t missing_ = 0;
  std::vector<Line> taken_;  // of what this member steps
};

}  // namespace

Result<void> read_stepped(const fs::path& folder, const Saved& saved, const Plan& plan,
                          const Weights& weights, const Stepper& stepper) {
  Reader reader(plan, weights, stepper);
  for (std::size_t i = 0; i < saved.files.size(); ++i) {
    // Each file's checksum is one member's task.
    const bool all = i % static_cast<std::size_t>(plan.members()) == static_cast<std::size_t>(plan.rank());
    if (Result<void> done = reader.read(folder, saved.files[i], all); !done) return done;
  }
  if (reader.complete()) return {};
  return lost(folder, "its files lack parts of parameters, or have some twice");
}

}  // namespace troupe::training::zero
