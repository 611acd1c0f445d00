#include <troupe/shards/file_io.hpp>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>
#include <vector>

#include <troupe/runtime/checksum.hpp>

namespace troupe::shards {
namespace {

constexpr std::size_t kBufferBytes = std::size_t{1} << 20;

}  // namespace

FileWriter::FileWriter(std::filesystem::path path)
    : path_(std::move(path)), file_(::open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)) {
  if (file_.get() < 0) result_ = errno_error(errno, "making " + path_.string());
}

FileWriter::~FileWriter() {
  if (!finished_ && file_.get() >= 0) ::unlink(path_.c_str());
}

void FileWriter::write(std::uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty() && result_) {
    const ssize_t written = ::pwrite(file_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written >= 0) {
      bytes = bytes.subspan(static_cast<std::size_t>(written));
      offset += static_cast<std::uint64_t>(written);
    } else if (errno != EINTR) {
      result_ = errno_error(errno, "writing " + path_.string());
    }
  }
}

Result<void> FileWriter::finish() {
  if (result_ && ::fsync(file_.get()) != 0) result_ = errno_error(errno, "syncing " + path_.string());
  if (result_ && ::close(file_.release()) != 0) result_ = errno_error(errno, "closing " + path_.string());
  finished_ = result_.ok();
  return result_;
}

Result<FileReader> FileReader::open(const std::filesystem::path& path) {
  UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));  // a pipe must not block
  if (file.get() < 0) {
    if (errno == ENOENT) return Error{Code::kNotFound, path.string() + " does not exist"};
    return errno_error(errno, "opening " + path.string());
  }
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) return errno_error(errno, "looking at " + path.string());
  if (!S_ISREG(status.st_mode)) return Error{Code::kDataLoss, path.string() + " is not a file"};
  return FileReader(path, std::move(file), static_cast<std::uint64_t>(status.st_size));
}

Result<void> FileReader::read(std::uint64_t offset, std::span<std::byte> to) const {
  while (!to.empty()) {
    const ssize_t got = ::pread(file_.get(), to.data(), to.size(), static_cast<off_t>(offset));
    if (got > 0) {
      to = to.subspan(static_cast<std::size_t>(got));
      offset += static_cast<std::uint64_t>(got);
    } else if (got == 0) {
      return Error{Code::kDataLoss, path_.string() + " ends at byte " + std::to_string(offset) +
                                        ", expected " + std::to_string(to.size()) + " more"};
    } else if (errno != EINTR) {
      return errno_error(errno, "reading " + path_.string());
    }
  }
  return {};
}

Result<std::uint32_t> FileReader::checksum() const {
  std::vector<std::byte> buffer(kBufferBytes);
  std::uint32_t crc = 0;
  for (std::uint64_t offset = 0; offset < size_; offset += buffer.size()) {
    buffer.resize(std::min<std::uint64_t>(buffer.size(), size_ - offset));
    if (Result<void> done = read(offset, buffer); !done) return done.error();
    crc = troupe::crc32c(buffer, crc);
  }
  return crc;
}

}  // namespace troupe::shards
