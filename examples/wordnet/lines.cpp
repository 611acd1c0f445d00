#include "wordnet/lines.hpp"

#include <utility>

#include <troupe/runtime/files.hpp>

namespace troupe::wordnet {

Result<LineReader> LineReader::open(const std::filesystem::path& path) {
  Result<std::string> text = read_file(path.string());
  if (!text) return std::move(text).error();
  LineReader reader;
  reader.path_ = path;
  reader.text_ = std::move(*text);
  return reader;
}

bool LineReader::next(std::string_view& line) {
  if (position_ >= text_.size()) return false;
  std::size_t end = text_.find('\n', position_);
  if (end == std::string::npos) end = text_.size();
  line = std::string_view(text_).substr(position_, end - position_);
  if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
  position_ = end + 1;
  ++line_number_;
  return true;
}

Error LineReader::malformed(std::string_view what) const {
  return Error{Code::kInvalidArgument,
               path_.string() + ":" + std::to_string(line_number_) + ": " + std::string(what)};
}

void split_fields(std::string_view line, char separator, std::vector<std::string_view>& fields) {
  fields.clear();
  while (true) {
    const std::size_t end = line.find(separator);
    fields.push_back(line.substr(0, end));
    if (end == std::string_view::npos) return;
    line.remove_prefix(end + 1);
  }
}

}  // namespace troupe::wordnet
