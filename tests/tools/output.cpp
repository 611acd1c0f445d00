#include "output.hpp"

#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <random>
#include <string>
#include <vector>

#include "support/seed.hpp"

using troupe::tools::LineCutter;
using troupe::tools::Outlet;

TEST_CASE("bytes in any portions become the same lines") {
  const std::string text = "one\n\ntwo\r\nthree without end";
  std::mt19937 random(static_cast<unsigned>(troupe::test::test_seed()));
  for (int round = 0; round < 100; ++round) {
    LineCutter cutter;
    std::vector<std::string> lines;
    auto keep = [&](std::string_view line) { lines.emplace_back(line); };
    for (size_t at = 0; at < text.size();) {
      size_t size = std::min<size_t>(text.size() - at, 1 + random() % 5);
      cutter.add(std::string_view(text).substr(at, size), keep);
      at += size;
    }
    cutter.finish(keep);
    CHECK(lines == std::vector<std::string>{"one", "", "two", "three without end"});
  }
}

TEST_CASE("a line without end is cut, so that memory stays bounded") {
  LineCutter cutter;
  size_t longest = 0, total = 0;
  std::string portion(1 << 16, 'x');
  auto measure = [&](std::string_view line) {
    longest = std::max(longest, line.size());
    total += line.size();
  };
  for (int i = 0; i < 300; ++i) cutter.add(portion, measure);
  cutter.finish(measure);
  CHECK(longest == LineCutter::kMaxLineBytes);
  CHECK(total == 300 * portion.size());
}

TEST_CASE("an outlet writes what was added, in order, and drops all once its reader is gone") {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  Outlet outlet(ends[1]);
  std::string text;
  for (int i = 0; i < 2000; ++i) text += std::to_string(i) + " ";
  outlet.add(text.substr(0, 100));
  outlet.add(text.substr(100));
  std::string received;
  std::vector<char> buffer(1 << 16);
  while (outlet.pending()) {
    outlet.write_some();
    received.append(buffer.data(), static_cast<size_t>(read(ends[0], buffer.data(), buffer.size())));
  }
  CHECK(received == text);
  close(ends[0]);
  auto before = std::signal(SIGPIPE, SIG_IGN);
  outlet.add("lost");
  outlet.write_some();
  CHECK(outlet.closed());
  CHECK_FALSE(outlet.pending());
  std::signal(SIGPIPE, before);
  close(ends[1]);
}
