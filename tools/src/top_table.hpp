#pragma once

#include <optional>
#include <string>
#include <vector>

#include <troupe/actors/observer.hpp>

namespace troupe::tools {

/// What `troupe top` shows of one node: rates between two looks at it. A plain value.
struct TopRow {
  std::string node, role, state;
  bool answers = false;                   ///< else nothing below means anything
  bool has_rates = false;                 ///< there were two looks at this life of the node
  double calls_out = 0, calls_in = 0;     ///< a second
  double out_p50_ns = 0, out_p99_ns = 0;  ///< 0: no call has ended meanwhile
  double in_p50_ns = 0, in_p99_ns = 0;
  double bytes = 0;   ///< a second, sent and received
  double errors = 0;  ///< of calls made and answered, a second
  std::uint64_t in_flight = 0;
  double busy = 0;                                            ///< share of the loop's time, 0..1
  std::optional<std::uint64_t> staleness_p50, staleness_p99;  ///< of pushes meanwhile, on shard servers
  std::optional<double> gpu_memory;  ///< bytes of its pools in devices; none: it has no GPU
  double gpu_bytes = 0;              ///< of device tensors, sent and received, a second
};

/// `before`: the look before this one, if there was one; nodes are matched by their id.
std::vector<TopRow> top_rows(const std::vector<NodeView>& before, const std::vector<NodeView>& now);

/// Lines of a table, without line ends; what they hold is aligned in columns.
std::vector<std::string> top_lines(const std::vector<TopRow>& rows);

/// What of them fits on a terminal: lines are cut, and when there are too many the last one says how many are
/// not shown. Characters count as one column each.
std::vector<std::string> fit(std::vector<std::string> lines, std::size_t columns, std::size_t rows);

/// "0", "7.2", "941", "1.24k", "52.1M".
std::string short_number(double value);
/// "850ns", "1.2us", "3.4ms", "2.1s"; "-" for 0.
std::string short_duration(double ns);

}  // namespace troupe::tools
