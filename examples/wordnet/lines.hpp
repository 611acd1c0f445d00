#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <troupe/runtime/result.hpp>

namespace troupe::wordnet {

/// A text file, read whole, handed out line by line, that can say where it is.
class LineReader {
 public:
  /// Errors: read_file()'s, kNotFound for a missing file.
  static Result<LineReader> open(const std::filesystem::path& path);

  /// Sets `line` to the next line without its end ("\n" or "\r\n"); false at the end of the file. The view
  /// lives as long as this reader stays where it is.
  bool next(std::string_view& line);

  /// kInvalidArgument, "<file>:<line>: <what>", about the line that next() gave last.
  Error malformed(std::string_view what) const;

 private:
  std::filesystem::path path_;
  std::string text_;
  std::size_t position_ = 0;
  std::size_t line_number_ = 0;
};

/// The pieces of `line` between the separators, into `fields` (whose memory is reused). Two separators in
/// a row make an empty piece.
void split_fields(std::string_view line, char separator, std::vector<std::string_view>& fields);

}  // namespace troupe::wordnet
