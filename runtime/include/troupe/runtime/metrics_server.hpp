#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <troupe/runtime/result.hpp>

namespace troupe {

enum class MetricKind : std::uint8_t { kCounter, kGauge, kHistogram };

/// One series of a family at one moment.
struct MetricSample {
  std::vector<std::pair<std::string, std::string>> labels;  ///< name and value
  double value = 0;                                         ///< of a counter or gauge

  struct Bucket {
    double bound = 0;         ///< the largest value in it
    std::uint64_t count = 0;  ///< of this bucket alone
  };
  std::vector<Bucket> buckets = {};  ///< of a histogram, in rising order
  std::uint64_t above = 0;           ///< values past the last bound
  double sum = 0;                    ///< of all values of a histogram
};

/// Series of one name, in base units: seconds, bytes.
struct MetricFamily {
  std::string name;
  std::string help;
  MetricKind kind = MetricKind::kGauge;
  std::vector<MetricSample> samples = {};
};

/// Serves metrics over HTTP, as text in Prometheus's format, at the path /metrics. Has threads of its own,
/// which end with it.
class MetricsServer {
 public:
  /// What is to be served, asked for at each request, on a thread of the server's. Must return in bounded
  /// time: the destructor waits for it.
  using Collect = std::function<std::vector<MetricFamily>()>;

  /// `address`: "HOST:PORT", or a port alone for one of 127.0.0.1; port 0: one that is free. HOST is an IPv4
  /// address, an IPv6 address in brackets, or localhost; only who is named by 0.0.0.0 or [::] serves on all
  /// of the machine's addresses. kInvalidArgument: another form. kUnavailable: it cannot be listened on.
  static Result<std::unique_ptr<MetricsServer>> start(std::string_view address, Collect collect);
  ~MetricsServer();
  MetricsServer(const MetricsServer&) = delete;
  MetricsServer& operator=(const MetricsServer&) = delete;

  /// "127.0.0.1:43211", with the port in use.
  const std::string& address() const;

 private:
  struct Impl;
  explicit MetricsServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace troupe
