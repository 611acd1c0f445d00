#include <troupe/runtime/metrics_server.hpp>

#include <arpa/inet.h>
#include <httplib.h>
#include <poll.h>
#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <mutex>
#include <thread>

#include <troupe/runtime/host_port.hpp>
#include <troupe/runtime/process.hpp>
#include <troupe/runtime/text.hpp>

namespace troupe {

namespace {

constexpr std::size_t kThreads = 4;
/// With whoever has connected, until it has asked and taken the answer.
constexpr std::chrono::seconds kPatience{2};
constexpr std::size_t kMaxPayload = 4096;

bool is_number(const std::string& host) {
  in6_addr parsed{};
  return inet_pton(AF_INET, host.c_str(), &parsed) == 1 || inet_pton(AF_INET6, host.c_str(), &parsed) == 1;
}

/// "host:port", ":port" or "port": what is left out is the loopback device.
Result<HostPort> parse(std::string_view address) {
  const bool has_host = address.find(':') != std::string_view::npos && !address.starts_with(':');
  const std::string_view digits = address.starts_with(':') ? address.substr(1) : address;
  auto parsed = parse_host_port(has_host ? std::string(address) : "127.0.0.1:" + std::string(digits));
  if (parsed && parsed->host == "localhost") parsed->host = "127.0.0.1";
  if (!parsed || !is_number(parsed->host))
    return Error{Code::kInvalidArgument,
                 "metrics are served at an address like 127.0.0.1:9464 or [::1]:0, not '" +
                     std::string(address) + "'"};
  return parsed;
}

prometheus::ClientMetric::Histogram histogram_of(const MetricSample& sample) {
  prometheus::ClientMetric::Histogram made;
  std::uint64_t below = 0;
  for (const MetricSample::Bucket& bucket : sample.buckets)
    made.bucket.push_back({below += bucket.count, bucket.bound});
  made.sample_count = below + sample.above;
  made.sample_sum = sample.sum;
  return made;
}

prometheus::MetricFamily family_of(const MetricFamily& family) {
  prometheus::MetricFamily made;
  made.name = family.name;
  made.help = family.help;
  made.type = family.kind == MetricKind::kCounter ? prometheus::MetricType::Counter
              : family.kind == MetricKind::kGauge ? prometheus::MetricType::Gauge
                                                  : prometheus::MetricType::Histogram;
  for (const MetricSample& sample : family.samples) {
    prometheus::ClientMetric& metric = made.metric.emplace_back();
    for (const auto& [name, value] : sample.labels) metric.label.push_back({name, to_utf8(value)});
    if (family.kind == MetricKind::kCounter) metric.counter.value = sample.value;
    if (family.kind == MetricKind::kGauge) metric.gauge.value = sample.value;
    if (family.kind == MetricKind::kHistogram) metric.histogram = histogram_of(sample);
  }
  return made;
}

/// What a scraper is given.
std::string text_of(const std::vector<MetricFamily>& families) {
  std::vector<prometheus::MetricFamily> all;
  all.reserve(families.size());
  for (const MetricFamily& family : families) all.push_back(family_of(family));
  return prometheus::TextSerializer().Serialize(all);
}

/// The library's server has the whole process ignore SIGPIPE when it is made, which is not ours to decide:
/// with this around it all is as before. One at a time, or one would take the other's ignoring for what was
/// before.
class KeepsSigpipe {
 public:
  KeepsSigpipe() : lock_(one_at_a_time()) { ::sigaction(SIGPIPE, nullptr, &before_); }
  ~KeepsSigpipe() { ::sigaction(SIGPIPE, &before_, nullptr); }
  KeepsSigpipe(const KeepsSigpipe&) = delete;
  KeepsSigpipe& operator=(const KeepsSigpipe&) = delete;

 private:
  static std::mutex& one_at_a_time() {
    static std::mutex mutex;
    return mutex;
  }
  const std::lock_guard<std::mutex> lock_;
  struct sigaction before_ {};
};

/// A scraper's connection. It has kPatience in all: the library's own begins anew with each byte, so that who
/// sends one now and then would hold up the server's end.
class Connection final : public httplib::Stream {
 public:
  explicit Connection(int fd) : fd_(fd) {}
  ~Connection() override {
    ::shutdown(fd_, SHUT_RDWR);
    ::close(fd_);
  }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  bool is_readable() const override { return begin_ < end_ || wait_for(POLLIN); }
  bool is_writable() const override { return wait_for(POLLOUT); }
  ssize_t read(char* to, std::size_t size) override {
    if (begin_ == end_) {
      if (!wait_for(POLLIN)) return -1;
      const ssize_t got = ::recv(fd_, read_.data(), read_.size(), MSG_DONTWAIT);
      if (got <= 0) return got;
      begin_ = 0;
      end_ = static_cast<std::size_t>(got);
    }
    const std::size_t here = std::min(size, end_ - begin_);
    std::memcpy(to, read_.data() + begin_, here);
    begin_ += here;
    return static_cast<ssize_t>(here);
  }
  ssize_t write(const char* from, std::size_t size) override {
    for (std::size_t sent = 0; sent < size;) {
      if (!wait_for(POLLOUT)) return -1;
      const ssize_t n = ::send(fd_, from + sent, size - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
      if (n < 0 && errno != EAGAIN && errno != EINTR) return -1;
      if (n > 0) sent += static_cast<std::size_t>(n);
    }
    return static_cast<ssize_t>(size);
  }
  // Nobody asks who it is.
  void get_remote_ip_and_port(std::string&, int&) const override {}
  void get_local_ip_and_port(std::string&, int&) const override {}
  socket_t socket() const override { return fd_; }

 private:
  bool wait_for(short events) const {
    for (;;) {
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline_ - SteadyClock::now());
      if (left.count() <= 0) return false;
      pollfd waited{fd_, events, 0};
      const int ready = ::poll(&waited, 1, static_cast<int>(left.count()));
      if (ready >= 0 || errno != EINTR) return ready == 1;
    }
  }

  using SteadyClock = std::chrono::steady_clock;
  const int fd_;
  const SteadyClock::time_point deadline_ = SteadyClock::now() + kPatience;
  std::array<char, 4096> read_{};
  std::size_t begin_ = 0, end_ = 0;  // what of read_ is not taken yet
};

class Server final : public httplib::Server {
 public:
  /// Listens already, but of who comes while it is busy the library lets five wait: the others' connecting
  /// would take seconds.
  void let_more_wait() { ::listen(svr_sock_, SOMAXCONN); }
  /// Who waits for an answer now gets none.
  void end() {
    ending_ = true;
    stop();
  }

 private:
  bool process_and_close_socket(socket_t socket) override {
    Connection connection(socket);
    bool closed = false;
    return !ending_ && process_request(connection, true, closed, nullptr);
  }
  std::atomic<bool> ending_{false};
};

/// Not SO_REUSEPORT, the library's choice: a port in use is an error.
void set_socket_options(int fd) {
  const int on = 1;
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
}

}  // namespace

struct MetricsServer::Impl {
  Collect collect;
  std::string address;
  Server server;
  std::atomic<bool> ended{false};
  std::thread thread;  // accepts; the server's others end with it
  HomeProcess process;
};

MetricsServer::MetricsServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

MetricsServer::~MetricsServer() {
  if (impl_->process.left()) {  // its threads are not here to be ended
    (void)impl_.release();
    return;
  }
  impl_->server.end();
  impl_->thread.join();
}

Result<std::unique_ptr<MetricsServer>> MetricsServer::start(std::string_view address, Collect collect) {
  auto parsed = parse(address);
  if (!parsed) return std::move(parsed).error();
  std::unique_ptr<Impl> impl;
  {
    const KeepsSigpipe keeps;
    impl = std::make_unique<Impl>();
  }
  impl->collect = std::move(collect);
  Server& server = impl->server;
  server.set_socket_options([](int fd) { set_socket_options(fd); });
  server.set_tcp_nodelay(true);
  server.set_payload_max_length(kMaxPayload);
  server.new_task_queue = [] { return new httplib::ThreadPool(kThreads); };
  server.Get("/metrics", [impl = impl.get()](const httplib::Request&, httplib::Response& response) {
    response.set_content(text_of(impl->collect()), "text/plain; version=0.0.4; charset=utf-8");
  });
  const std::string& host = parsed->host;
  const int port = parsed->port == 0                         ? server.bind_to_any_port(host)
                   : server.bind_to_port(host, parsed->port) ? parsed->port
                                                             : -1;
  if (port < 0)
    return Error{Code::kUnavailable, "metrics cannot be served at " + std::string(address) +
                                         ": the port is in use, or the address is not this machine's"};
  server.let_more_wait();
  impl->address = HostPort{host, static_cast<std::uint16_t>(port)}.to_string();
  // The library makes its threads itself, and ends the process if it gets none.
  if (auto room = room_for_threads(kThreads + 1); !room)
    return with_context(room.error(), "metrics cannot be served at " + std::string(address));
  auto thread = start_thread([impl = impl.get()] {
    (void)impl->server.listen_after_bind();
    impl->ended = true;
  });
  if (!thread) return thread.error();
  impl->thread = std::move(*thread);
  // Until then stop() would do nothing.
  while (!server.is_running() && !impl->ended) std::this_thread::yield();
  return std::unique_ptr<MetricsServer>(new MetricsServer(std::move(impl)));
}

const std::string& MetricsServer::address() const {
  return impl_->address;
}

}  // namespace troupe
