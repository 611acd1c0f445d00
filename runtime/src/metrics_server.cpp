#include <troupe/runtime/metrics_server.hpp>

#include <arpa/inet.h>
#include <prometheus/collectable.h>
#include <prometheus/exposer.h>
#include <prometheus/metric_family.h>

#include <charconv>
#include <exception>
#include <future>
#include <optional>

namespace troupe {

namespace {

constexpr std::size_t kThreads = 2;

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

class Collector final : public prometheus::Collectable {
 public:
  explicit Collector(MetricsServer::Collect collect) : collect_(std::move(collect)) {}
  /// On a thread of its own: the server's have stacks of 100 KiB, which is no place for somebody else's code.
  std::vector<prometheus::MetricFamily> Collect() const override {
    return std::async(std::launch::async,
                      [this] {
                        std::vector<prometheus::MetricFamily> all;
                        for (const MetricFamily& family : collect_()) all.push_back(family_of(family));
                        return all;
                      })
        .get();
  }

 private:
  MetricsServer::Collect collect_;
};

}  // namespace

struct MetricsServer::Impl {
  std::shared_ptr<Collector> collector;
  std::optional<prometheus::Exposer> exposer;  // ends before what it collects
  std::string address;
};

MetricsServer::MetricsServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
MetricsServer::~MetricsServer() = default;

Result<std::unique_ptr<MetricsServer>> MetricsServer::start(std::string_view address, Collect collect) {
  auto parsed = parse(address);
  if (!parsed) return std::move(parsed).error();
  auto impl = std::make_unique<Impl>();
  impl->collector = std::make_shared<Collector>(std::move(collect));
  const std::string asked = parsed->host + ":" + std::to_string(parsed->port);
  try {
    impl->exposer.emplace(asked, kThreads);
    impl->exposer->RegisterCollectable(impl->collector);
  } catch (const std::exception&) {  // it says no more than "possible problem binding to port"
    return Error{Code::kUnavailable, "metrics cannot be served at " + asked +
                                         ": the port is in use, or the address is not this machine's"};
  }
  const std::vector<int> ports = impl->exposer->GetListeningPorts();
  impl->address = parsed->host + ":" + std::to_string(ports.empty() ? parsed->port : ports.front());
  return std::unique_ptr<MetricsServer>(new MetricsServer(std::move(impl)));
}

const std::string& MetricsServer::address() const {
  return impl_->address;
}

}  // namespace troupe
