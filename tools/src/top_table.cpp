#include "top_table.hpp"

#include <algorithm>
#include <array>
#include <cstdio>

#include <troupe/shards/staleness_histogram.hpp>

namespace troupe::tools {

namespace {

using Counts = std::vector<std::uint64_t>;

/// Counts only grow, so what one look has the next has too.
Counts difference(const Counts& now, const Counts& before) {
  Counts made = now;
  for (std::size_t i = 0; i < std::min(made.size(), before.size()); ++i)
    made[i] -= std::min(made[i], before[i]);
  return made;
}

void add_to(Counts& sum, const Counts& more) {
  if (sum.size() < more.size()) sum.resize(more.size());
  for (std::size_t i = 0; i < more.size(); ++i) sum[i] += more[i];
}

/// Of all functions of a side, but for those questions that are our own.
struct SideSums {
  std::uint64_t calls = 0, errors = 0, in_flight = 0;
  Counts durations;
};

SideSums sums_of(const NodeMetrics& metrics, rpc::CallSide side) {
  SideSums sums;
  for (const rpc::FunctionMetrics& function : metrics.functions) {
    if (function.side != side || function.function == kNodeMetrics) continue;
    sums.calls += function.calls;
    sums.errors += function.errors();
    sums.in_flight += function.in_flight;
    add_to(sums.durations, function.durations);
  }
  return sums;
}

Counts staleness_of(const NodeMetrics& metrics) {
  Counts sum;
  for (const TableStats& table : metrics.tables) add_to(sum, table.staleness_counts);
  return sum;
}

double rate(std::uint64_t now, std::uint64_t before, double seconds) {
  return now > before ? static_cast<double>(now - before) / seconds : 0;
}

void fill_rates(TopRow& row, const NodeMetrics& now, const NodeMetrics& before) {
  const double seconds = static_cast<double>(now.age_ns - before.age_ns) / 1e9;
  if (seconds <= 0) return;
  row.has_rates = true;
  const SideSums out = sums_of(now, rpc::CallSide::kClient), in = sums_of(now, rpc::CallSide::kServer);
  const SideSums out_before = sums_of(before, rpc::CallSide::kClient),
                 in_before = sums_of(before, rpc::CallSide::kServer);
  row.calls_out = rate(out.calls, out_before.calls, seconds);
  row.calls_in = rate(in.calls, in_before.calls, seconds);
  row.errors = rate(out.errors + in.errors, out_before.errors + in_before.errors, seconds);
  const Counts out_times = difference(out.durations, out_before.durations);
  const Counts in_times = difference(in.durations, in_before.durations);
  row.out_p50_ns = rpc::duration_percentile(out_times, 0.5);
  row.out_p99_ns = rpc::duration_percentile(out_times, 0.99);
  row.in_p50_ns = rpc::duration_percentile(in_times, 0.5);
  row.in_p99_ns = rpc::duration_percentile(in_times, 0.99);
  row.bytes = rate(now.endpoint.bytes_sent + now.endpoint.bytes_received,
                   before.endpoint.bytes_sent + before.endpoint.bytes_received, seconds);
  const auto device_bytes = [](const DeviceCallMetrics& calls) {
    return calls.mapped_bytes + calls.staged_bytes + calls.arrived_bytes;
  };
  row.gpu_bytes = rate(device_bytes(now.device_calls), device_bytes(before.device_calls), seconds);
  row.busy = static_cast<double>(now.loop.busy_ns - before.loop.busy_ns) / 1e9 / seconds;
  const auto staleness =
      shards::StalenessHistogram::restore(difference(staleness_of(now), staleness_of(before)), 0, 0);
  if (staleness.total() == 0) return;
  row.staleness_p50 = staleness.percentile(0.5);
  row.staleness_p99 = staleness.percentile(0.99);
}

const NodeMetrics* find(const std::vector<NodeView>& views, std::uint64_t node_id) {
  const auto found = std::find_if(views.begin(), views.end(),
                                  [&](const NodeView& view) { return view.member.node_id == node_id; });
  return found != views.end() && found->metrics ? &*found->metrics : nullptr;
}

std::string state_of(const NodeView& view) {
  if (view.metrics) return "up";
  return view.metrics.error().code == Code::kDeadlineExceeded ? "busy" : "no answer";
}

std::string printed(const char* format, double value) {
  char text[32];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

/// Three digits that count.
std::string three_digits(double value) {
  return printed(value < 10 ? "%.2f" : value < 100 ? "%.1f" : "%.0f", value);
}

std::string text_of(const std::optional<std::uint64_t>& number) {
  return number ? std::to_string(*number) : "-";
}

constexpr std::size_t kTextColumns = 3;
constexpr std::size_t kGpuColumns = 2;  // the last; left out where no node has a GPU
using Cells = std::array<std::string, 15 + kGpuColumns>;

Cells cells_of(const TopRow& row) {
  Cells cells;
  cells.fill("-");
  cells[0] = row.node;
  cells[1] = row.role;
  cells[2] = row.state;
  if (!row.answers) return cells;
  cells[10] = std::to_string(row.in_flight);
  if (row.gpu_memory) cells[15] = short_number(*row.gpu_memory / 1e6);
  if (!row.has_rates) return cells;
  cells[3] = short_number(row.calls_out);
  cells[4] = short_duration(row.out_p50_ns);
  cells[5] = short_duration(row.out_p99_ns);
  cells[6] = short_number(row.calls_in);
  cells[7] = short_duration(row.in_p50_ns);
  cells[8] = short_duration(row.in_p99_ns);
  cells[9] = short_number(row.bytes / 1e6);
  cells[11] = short_number(row.errors);
  cells[12] = printed("%.0f%%", 100 * row.busy);
  cells[13] = text_of(row.staleness_p50);
  cells[14] = text_of(row.staleness_p99);
  if (row.gpu_memory) cells[16] = short_number(row.gpu_bytes / 1e6);
  return cells;
}

}  // namespace

std::string short_number(double value) {
  if (value < 0.005) return "0";
  for (const auto& [unit, name] : {std::pair{1e9, "G"}, std::pair{1e6, "M"}, std::pair{1e3, "k"}})
    if (value >= 0.9995 * unit) return three_digits(value / unit) + name;
  return three_digits(value);
}

std::string short_duration(double ns) {
  if (ns <= 0) return "-";
  for (const auto& [unit, name] : {std::pair{1e9, "s"}, std::pair{1e6, "ms"}, std::pair{1e3, "us"}})
    if (ns >= 0.9995 * unit) return three_digits(ns / unit) + name;
  return printed("%.0fns", ns);
}

std::vector<TopRow> top_rows(const std::vector<NodeView>& before, const std::vector<NodeView>& now) {
  std::vector<TopRow> rows;
  for (const NodeView& view : now) {
    TopRow& row = rows.emplace_back();
    row.node = view.member.name;
    row.role = view.member.role;
    row.state = state_of(view);
    if (!view.metrics) continue;
    row.answers = true;
    row.in_flight = sums_of(*view.metrics, rpc::CallSide::kClient).in_flight +
                    sums_of(*view.metrics, rpc::CallSide::kServer).in_flight;
    for (const GpuMetrics& gpu : view.metrics->gpus)
      row.gpu_memory = row.gpu_memory.value_or(0) + static_cast<double>(gpu.device_bytes);
    if (const NodeMetrics* earlier = find(before, view.member.node_id))
      fill_rates(row, *view.metrics, *earlier);
  }
  return rows;
}

std::vector<std::string> top_lines(const std::vector<TopRow>& rows) {
  std::vector<Cells> table{{"NODE", "ROLE", "STATE", "OUT/s", "p50", "p99", "IN/s", "p50", "p99", "MB/s",
                            "OPEN", "ERR/s", "BUSY", "STALE50", "STALE99", "GPU MB", "GPU MB/s"}};
  for (const TopRow& row : rows) table.push_back(cells_of(row));
  const bool any_gpu =
      std::ranges::any_of(rows, [](const TopRow& row) { return row.gpu_memory.has_value(); });
  const std::size_t columns = std::tuple_size_v<Cells> - (any_gpu ? 0 : kGpuColumns);
  std::array<std::size_t, std::tuple_size_v<Cells>> widths{};
  for (const Cells& cells : table)
    for (std::size_t i = 0; i < cells.size(); ++i) widths[i] = std::max(widths[i], cells[i].size());
  std::vector<std::string> lines;
  for (const Cells& cells : table) {
    std::string line;
    for (std::size_t i = 0; i < columns; ++i) {
      const std::string space(widths[i] - cells[i].size(), ' ');
      line += (i == 0 ? "" : "  ") + (i < kTextColumns ? cells[i] + space : space + cells[i]);
    }
    lines.push_back(std::move(line));
  }
  return lines;
}

std::vector<std::string> fit(std::vector<std::string> lines, std::size_t columns, std::size_t rows) {
  if (rows > 0 && lines.size() > rows) {
    const std::size_t hidden = lines.size() - rows + 1;
    lines.resize(rows - 1);
    lines.push_back("... and " + std::to_string(hidden) + " more; make the window higher");
  }
  for (std::string& line : lines) {
    const auto begins_character = [](char byte) { return (static_cast<unsigned char>(byte) & 0xc0) != 0x80; };
    std::size_t width = 0;
    for (std::size_t at = 0; at < line.size(); ++at) {
      if (!begins_character(line[at]) || width++ < columns) continue;
      line.resize(at);
      break;
    }
  }
  return lines;
}

}  // namespace troupe::tools
