#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace troupe::tools {

/// Cuts a stream of bytes into lines.
class LineCutter {
 public:
  /// A line longer than this is cut: memory stays bounded whatever a process prints.
  static constexpr size_t kMaxLineBytes = 8 << 20;

  /// Takes bytes, calls `line(std::string_view)` for each line that is complete, without its end.
  template <class Function>
  void add(std::string_view bytes, Function line) {
    for (size_t end = bytes.find('\n'); end != std::string_view::npos; end = bytes.find('\n')) {
      partial_.append(bytes.substr(0, end));
      emit(line);
      bytes.remove_prefix(end + 1);
    }
    partial_.append(bytes);
    if (partial_.size() >= kMaxLineBytes) emit(line);
  }

  /// The stream has ended: what is left is a line too.
  template <class Function>
  void finish(Function line) {
    if (!partial_.empty()) emit(line);
  }

 private:
  template <class Function>
  void emit(Function line) {
    if (partial_.ends_with('\r')) partial_.pop_back();
    line(std::string_view(partial_));
    partial_.clear();
  }

  std::string partial_;
};

/// Bytes on their way to a descriptor that may be slow. write_some() after poll() has said writable
/// does not block, without touching the descriptor's flags, which other processes share.
class Outlet {
 public:
  /// Past this many bytes we read no more output: the processes are slowed, memory stays bounded.
  static constexpr size_t kFullBytes = 1 << 20;

  explicit Outlet(int fd) : fd_(fd) {}

  void add(std::string_view bytes) {
    if (!closed_) bytes_.append(bytes);
  }
  void write_some();
  void clear() {
    bytes_.clear();
    written_ = 0;
  }

  int fd() const { return fd_; }
  bool pending() const { return written_ < bytes_.size(); }
  bool full() const { return bytes_.size() - written_ >= kFullBytes; }
  /// The reader is gone; everything since is dropped.
  bool closed() const { return closed_; }

 private:
  int fd_;
  std::string bytes_;
  size_t written_ = 0;
  bool closed_ = false;
};

}  // namespace troupe::tools
