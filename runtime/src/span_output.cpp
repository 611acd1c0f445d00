#include "span_output.hpp"

#include <fcntl.h>
#include <httplib.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <string_view>

namespace troupe {

namespace {

constexpr std::string_view kDefaultPath = "/v1/traces";

/// Several processes may append to one file: a line is one write.
class SpanFile final : public SpanOutput {
 public:
  explicit SpanFile(int fd) : fd_(fd) {}
  ~SpanFile() override { ::close(fd_); }
  SpanFile(const SpanFile&) = delete;
  SpanFile& operator=(const SpanFile&) = delete;

  Result<void> send(const std::string& request, Duration) override {
    const std::string line = request + "\n";
    for (std::size_t done = 0; done < line.size();) {
      const ssize_t wrote = ::write(fd_, line.data() + done, line.size() - done);
      if (wrote < 0 && errno == EINTR) continue;
      if (wrote < 0) return errno_error(errno, "writing the trace file");
      done += static_cast<std::size_t>(wrote);
    }
    return {};
  }

 private:
  int fd_;
};

/// OTLP says which answers may be tried again.
bool may_come_later(int status) {
  return status == 429 || status == 502 || status == 503 || status == 504;
}

class SpanPost final : public SpanOutput {
 public:
  SpanPost(const std::string& server, std::string path)
      : server_(server), client_(server), path_(std::move(path)) {
    client_.set_keep_alive(true);
  }

  Result<void> send(const std::string& request, Duration timeout) override {
    if (stopped_) return Error{Code::kCancelled, "the node ends"};
    const auto bound =
        std::chrono::duration_cast<std::chrono::microseconds>(std::max(timeout, Duration(1'000'000)));
    client_.set_connection_timeout(bound);
    client_.set_read_timeout(bound);
    client_.set_write_timeout(bound);
    const auto answer = client_.Post(path_, request, "application/json");
    if (!answer)
      return Error{Code::kUnavailable, server_ + " does not answer: " + httplib::to_string(answer.error())};
    if (answer->status / 100 == 2) return {};
    return Error{may_come_later(answer->status) ? Code::kUnavailable : Code::kFailedPrecondition,
                 server_ + path_ + " answers with status " + std::to_string(answer->status)};
  }
  void stop() override {
    stopped_ = true;
    client_.stop();
  }

 private:
  const std::string server_;
  httplib::Client client_;
  const std::string path_;
  std::atomic<bool> stopped_{false};
};

}  // namespace

Result<std::unique_ptr<SpanOutput>> open_span_file(const std::string& path) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0) return errno_error(errno, "the trace file '" + path + "'");
  return std::unique_ptr<SpanOutput>(std::make_unique<SpanFile>(fd));
}

Result<std::unique_ptr<SpanOutput>> open_span_post(const std::string& url) {
  constexpr std::string_view kScheme = "http://";
  const auto wrong = [&](const std::string& why) {
    return Error{Code::kInvalidArgument, "the trace endpoint '" + url + "' " + why +
                                             "; give http://host:port, for instance http://127.0.0.1:4318"};
  };
  if (url.starts_with("https://"))
    return wrong("is encrypted, which is not supported yet: run a collector on this machine");
  if (!url.starts_with(kScheme)) return wrong("does not begin with http://");
  const std::size_t end = std::min(url.find('/', kScheme.size()), url.size());
  const std::string server = url.substr(0, end);
  const std::string path = end + 1 >= url.size() ? std::string(kDefaultPath) : url.substr(end);
  if (server.size() == kScheme.size()) return wrong("names no host");
  if (server.find_first_of(" @?#", kScheme.size()) != std::string::npos) return wrong("is not understood");
  auto output = std::make_unique<SpanPost>(server, path);
  return std::unique_ptr<SpanOutput>(std::move(output));
}

}  // namespace troupe
