#include <troupe/runtime/metrics_server.hpp>

#include <arpa/inet.h>
#include <httplib.h>
#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>
#include <signal.h>
#include <sys/socket.h>

#include <atomic>
#include <charconv>
#include <chrono>
#include <thread>

namespace troupe {

namespace {

constexpr std::size_t kThreads = 4;
/// With whoever has connected and asks nothing, or does not take the answer.
constexpr std::chrono::seconds kPatience{2};
constexpr std::size_t kMaxPayload = 4096;

struct HostPort {
  std::string host;
  int port = 0;
};

bool is_host(const std::string& host) {
  in6_addr parsed{};
  if (inet_pton(AF_INET, host.c_str(), &parsed) == 1) return true;
  return host.size() > 2 && host.front() == '[' && host.back() == ']' &&
         inet_pton(AF_INET6, host.substr(1, host.size() - 2).c_str(), &parsed) == 1;
}

Result<HostPort> parse(std::string_view address) {
  const auto colon = address.rfind(':');
  const bool has_host = colon != std::string_view::npos;
  const std::string_view digits = has_host ? address.substr(colon + 1) : address;
  HostPort parsed;
  parsed.host = has_host ? std::string(address.substr(0, colon)) : "";
  if (parsed.host.empty() || parsed.host == "localhost") parsed.host = "127.0.0.1";
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), parsed.port);
  const bool is_port = error == std::errc() && end == digits.data() + digits.size() && parsed.port >= 0 &&
                       parsed.port <= 65535;
  if (!is_port || !is_host(parsed.host))
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
    for (const auto& [name, value] : sample.labels) metric.label.push_back({name, value});
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

/// The library's server has the whole process ignore SIGPIPE, which is not ours to decide: with this around
/// its making all is as before, and its threads, which have the signal blocked, do without.
class KeepsSigpipe {
 public:
  KeepsSigpipe() { ::sigaction(SIGPIPE, nullptr, &before_); }
  ~KeepsSigpipe() { ::sigaction(SIGPIPE, &before_, nullptr); }
  KeepsSigpipe(const KeepsSigpipe&) = delete;
  KeepsSigpipe& operator=(const KeepsSigpipe&) = delete;

 private:
  struct sigaction before_ {};
};

void block_sigpipe() {
  sigset_t pipe;
  ::sigemptyset(&pipe);
  ::sigaddset(&pipe, SIGPIPE);
  ::pthread_sigmask(SIG_BLOCK, &pipe, nullptr);
}

/// Not SO_REUSEPORT, the library's choice: a port in use is an error.
void set_socket_options(int fd) {
  const int on = 1;
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
}

}  // namespace

struct MetricsServer::Impl {
  Collect collect;
  std::string address;
  httplib::Server server;
  std::atomic<bool> ended{false};
  std::thread thread;  // accepts; the server's others end with it
};

MetricsServer::MetricsServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

MetricsServer::~MetricsServer() {
  impl_->server.stop();
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
  httplib::Server& server = impl->server;
  server.set_socket_options([](int fd) { set_socket_options(fd); });
  server.set_tcp_nodelay(true);
  server.set_keep_alive_max_count(1);  // the destructor shall not wait for a scraper's next request
  server.set_keep_alive_timeout(kPatience.count());
  server.set_read_timeout(kPatience);
  server.set_write_timeout(kPatience);
  server.set_payload_max_length(kMaxPayload);
  server.new_task_queue = [] { return new httplib::ThreadPool(kThreads); };
  server.Get("/metrics", [impl = impl.get()](const httplib::Request&, httplib::Response& response) {
    response.set_content(text_of(impl->collect()), "text/plain; version=0.0.4; charset=utf-8");
  });
  const std::string host =
      parsed->host.front() == '[' ? parsed->host.substr(1, parsed->host.size() - 2) : parsed->host;
  if (parsed->port == 0)
    parsed->port = server.bind_to_any_port(host);
  else if (!server.bind_to_port(host, parsed->port))
    parsed->port = -1;
  if (parsed->port < 0)
    return Error{Code::kUnavailable, "metrics cannot be served at " + std::string(address) +
                                         ": the port is in use, or the address is not this machine's"};
  impl->address = parsed->host + ":" + std::to_string(parsed->port);
  impl->thread = std::thread([impl = impl.get()] {
    block_sigpipe();
    (void)impl->server.listen_after_bind();
    impl->ended = true;
  });
  // Until then stop() would do nothing.
  while (!server.is_running() && !impl->ended) std::this_thread::yield();
  return std::unique_ptr<MetricsServer>(new MetricsServer(std::move(impl)));
}

const std::string& MetricsServer::address() const {
  return impl_->address;
}

}  // namespace troupe
