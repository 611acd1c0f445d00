#include <troupe/training/report.hpp>

#include <cmath>
#include <string_view>
#include <system_error>

#include <troupe/runtime/files.hpp>

namespace troupe::training {
namespace {

std::uint64_t percentile(const std::vector<std::uint64_t>& counts, std::uint64_t total, double share) {
  const double wanted = std::ceil(share * static_cast<double>(total));
  std::uint64_t seen = 0;
  for (std::size_t value = 0; value < counts.size(); ++value) {
    seen += counts[value];
    if (seen > 0 && static_cast<double>(seen) >= wanted) return value;
  }
  return 0;
}

}  // namespace

StalenessSummary summarize(const std::vector<std::uint64_t>& counts) {
  StalenessSummary summary;
  double sum = 0;
  for (std::size_t value = 0; value < counts.size(); ++value) {
    if (counts[value] == 0) continue;
    summary.pushes += counts[value];
    summary.max = value;
    sum += static_cast<double>(value) * static_cast<double>(counts[value]);
  }
  if (summary.pushes == 0) return summary;
  summary.mean = sum / static_cast<double>(summary.pushes);
  summary.p50 = percentile(counts, summary.pushes, 0.50);
  summary.p90 = percentile(counts, summary.pushes, 0.90);
  summary.p99 = percentile(counts, summary.pushes, 0.99);
  return summary;
}

Result<void> write_report(const RunReport& report, const std::filesystem::path& folder) {
  std::error_code failure;
  std::filesystem::create_directories(folder, failure);
  if (failure) return errno_error(failure.value(), "cannot make the folder " + folder.string());
  if (Result<void> written = write_file_atomically((folder / "result.json").string(), result_json(report));
      !written)
    return written;
  return write_file_atomically((folder / "report.html").string(), report_page(report));
}

}  // namespace troupe::training
