#include "output.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>

namespace troupe::tools {

void Outlet::write_some() {
  // A pipe that polls writable has room for PIPE_BUF bytes; more could block.
  size_t size = std::min<size_t>(bytes_.size() - written_, PIPE_BUF);
  ssize_t done = write(fd_, bytes_.data() + written_, size);
  if (done < 0) {
    if (errno == EINTR || errno == EAGAIN) return;
    closed_ = true;
    clear();
    return;
  }
  written_ += static_cast<size_t>(done);
  if (written_ == bytes_.size()) {
    clear();
  } else if (written_ >= kFullBytes) {
    bytes_.erase(0, written_);
    written_ = 0;
  }
}

}  // namespace troupe::tools
