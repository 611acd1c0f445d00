// Raw UCX beside Troupe's transport over it:  ucx_raw_bench [shm|tcp|auto ...]
#include <cstdio>
#include <string>
#include <vector>

#include "harness.hpp"
#include "ucx_raw.hpp"
#include "ucx_raw_transport.hpp"

namespace {

using troupe::bench::print_json;
using troupe::bench::RawResult;

constexpr std::size_t kKiB = 1024;

bool report(const std::string& name, const RawResult& result, const char* unit) {
  if (result.ok) {
    print_json(name, result.value, unit);
  } else {
    std::fprintf(stderr, "%s: %s\n", name.c_str(), result.error.c_str());
  }
  return result.ok;
}

bool compare(const std::string& name, const RawResult& result, const char* unit, const std::string& reference,
             const RawResult& raw) {
  if (result.ok && raw.ok) print_json(name, result.value, unit, reference, raw.value);
  return result.ok && raw.ok;
}

bool measure(const std::string& tls) {
  const bool tcp = tls == "tcp";
  const std::size_t turns = tcp ? 5000 : 100000;
  bool ok = true;
  const RawResult rtt = troupe::bench::raw_am_rtt(64, tls, turns);
  const std::string rtt_name = "raw_ucx_rtt_64B_" + tls;
  ok &= report(rtt_name, rtt, "us");
  ok &= compare("transport_rtt_100B_" + tls, troupe::bench::transport_rtt(100, tls, turns), "us", rtt_name,
                rtt);
  ok &= report("raw_ucx_rate_64B_" + tls, troupe::bench::raw_am_rate(64, 256, tls, tcp ? 100000 : 1000000),
               "1/s");
  for (const std::size_t kib : {std::size_t{4}, std::size_t{16}, std::size_t{64}, kKiB, 16 * kKiB}) {
    const std::string size = kib < kKiB ? std::to_string(kib) + "KB_" : std::to_string(kib / kKiB) + "MB_";
    const std::string raw_name = "raw_ucx_bandwidth_" + size + tls;
    const RawResult raw = troupe::bench::raw_am_bandwidth(kib * kKiB, 8, tls);
    ok &= report(raw_name, raw, "GB/s");
    ok &= compare("transport_bandwidth_" + size + tls,
                  troupe::bench::transport_bandwidth(kib * kKiB, 1, 8, tls), "GB/s", raw_name, raw);
    ok &= compare("transport_bandwidth_2parts_" + size + tls,
                  troupe::bench::transport_bandwidth(kib * kKiB, 2, 8, tls), "GB/s", raw_name, raw);
  }
  return ok;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> transports(argv + 1, argv + argc);
  if (transports.empty()) transports = {"shm", "tcp", "auto"};
  bool ok = true;
  for (const std::string& tls : transports) ok &= measure(tls);
  return ok ? 0 : 1;
}
