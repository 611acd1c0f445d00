// The report page as a browser lays it out: nothing is wider than the screen. Skipped where there is no
// Chromium.
#include <doctest/doctest.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <string>

#include <troupe/training/report.hpp>
#include "support/temporary_folder.hpp"

namespace troupe::training {
namespace {

/// With all that a page can have, long names among it.
RunReport large_report() {
  RunReport report;
  report.data = "WordNet: 116,650 entities, 18 relations, 229,402 training triples, and a line that goes on";
  report.settings = {{"--dimension", "100"},
                     {"--data", "/a/path/that/is/long/and/has/no/space/in/it/at/all"}};
  report.servers = 4;
  report.words.examples = "triples";
  report.test = {{"mrr", "MRR", 0.55}, {"hits_at_1", "Hits@1", 0.52}, {"hits_at_10", "Hits@10", 0.6}};
  report.test_examples = 3000;
  report.train_seconds = 3600;
  report.evaluation_seconds = 120;
  report.examples = 4'500'000'000;
  for (int i = 0; i < 200; ++i)
    report.loss.push_back({static_cast<double>(i * 18), 5.0 / static_cast<double>(1 + i)});
  for (std::uint64_t i = 1; i <= 20; ++i)
    report.epochs.push_back(
        {i, static_cast<double>(i * 180), 1.0 / static_cast<double>(i), Metric{"mrr", "MRR", 0.5}});
  for (int i = 0; i < 12; ++i) {
    WorkerReport worker{"worker-" + std::to_string(i) + "-on-a-machine-with-a-long-name",
                        i % 3 == 0 ? 0.4 : 1.0,
                        5'000'000,
                        300'000'000,
                        i % 5 != 0,
                        {{1, 50000}, {1800, 51000}, {3600, 49000}},
                        {3000, 100, 200, 250, 50}};
    worker.dropped = static_cast<std::uint64_t>(i) * 1000;
    report.workers.push_back(worker);
  }
  report.consistency = {{"k-of-n, 4, scaled", {10, 20, 60, 9, 1}, 75000, 400, 1200, 0.55},
                        {"bounded staleness, 16", {100, 2000, 600, 90, 10}, 65000, 800, 1200, 0.54}};
  report.latencies = {{"push (all tables)", 1'000'000'000, 100, 200, 400, 800, 123'456'789},
                      {"next (of the coordinator)", 1000, 100.25, 200.5, 400.75, 800.125, 900.5}};
  report.failures = {
      {35.5, "worker-1-on-a-machine-with-a-long-name", "killed by signal 9 while it was at work"}};
  report.sections = {{"Own section", "A note.", "", "<b>wolf.n.01</b>", true}};
  return report;
}

std::string output_of(const std::string& command) {
  std::FILE* const pipe = ::popen(command.c_str(), "r");
  if (pipe == nullptr) return {};
  std::string text;
  std::array<char, 4096> some{};
  for (std::size_t got = 0; (got = std::fread(some.data(), 1, some.size(), pipe)) > 0;)
    text.append(some.data(), got);
  ::pclose(pipe);
  return text;
}

std::string attribute(const std::string& text) {
  std::string quoted;
  for (const char c : text) {
    if (c == '&') {
      quoted += "&amp;";
    } else if (c == '"') {
      quoted += "&quot;";
    } else {
      quoted += c;
    }
  }
  return quoted;
}

/// The page in frames of these widths, and a script that writes how far it, and each of its tables and cards,
/// goes over their edges.
std::string frames(const std::string& page) {
  std::string text = "<!doctype html><title>waiting</title>";
  for (const char* width : {"1200", "390", "360"})
    text += std::string("<iframe width=\"") + width + "\" height=\"900\" srcdoc=\"" + attribute(page) +
            "\"></iframe>";
  return text + R"(<p id="found"></p><script>
onload = () => {
  let lines = '';
  for (const frame of document.querySelectorAll('iframe')) {
    const page = frame.contentDocument, root = page.documentElement;
    let worst = root.scrollWidth - root.clientWidth, what = 'page';
    for (const each of page.querySelectorAll('table, .card, .tile, header, td, th')) {
      const over = Math.max(each.scrollWidth - each.clientWidth,
                            each.getBoundingClientRect().right - root.clientWidth);
      if (each.clientWidth > 0 && over > worst) { worst = over; what = each.tagName + ': ' + each.textContent.slice(0, 40); }
    }
    lines += '[' + frame.width + ' over ' + Math.ceil(worst) + ' ' + what + ' tables '
             + page.querySelectorAll('table').length + ']';
  }
  document.getElementById('found').textContent = 'found' + lines;
};
</script>)";
}

TEST_CASE("the page's tables fit 1,200 pixels and a phone") {
  const std::string browser = output_of("command -v chromium || command -v chromium-browser");
  if (browser.empty()) {
    MESSAGE("skipped: there is no chromium");
    return;
  }
  const test::TemporaryFolder folder;
  folder.write("frames.html", frames(report_page(large_report())));
  const std::string command =
      "timeout 60 " + browser.substr(0, browser.find('\n')) +
      " --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --user-data-dir=" +
      (folder / "profile") + " --virtual-time-budget=5000 --dump-dom file://" + (folder / "frames.html") +
      " 2>/dev/null";
  const std::string text = output_of(command);
  const std::size_t at = text.rfind("found[");
  if (at == std::string::npos) {
    MESSAGE("skipped: chromium does not run here");
    return;
  }
  const std::string found = text.substr(at, text.find('<', at) - at);
  for (const char* width : {"[1200 over ", "[390 over ", "[360 over "}) {
    const std::size_t line = found.find(width);
    REQUIRE_MESSAGE(line != std::string::npos, found);
    CHECK_MESSAGE(std::atoi(found.c_str() + line + std::string(width).size()) <= 0, found);
  }
  CHECK(found.find("tables 0") == std::string::npos);
}

}  // namespace
}  // namespace troupe::training
