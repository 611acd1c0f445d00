// The order of what is done on a table.
#include "table_work.hpp"

#include <memory>
#include <stdexcept>
#include <string>

#include <doctest/doctest.h>
#include <troupe/runtime/clock.hpp>

using namespace troupe;

namespace {

struct Work {
  /// A job of so many pieces, each of which is written down.
  TableWork::Job job(char name, int pieces) {
    return [this, name, pieces]() mutable {
      done += name;
      return --pieces == 0;
    };
  }
  void run() {
    while (loop.has_tasks()) loop.poll();
  }

  SimClock clock;
  LoopOptions options = [this] {
    LoopOptions made;
    made.on_exception = [this](const std::string& what) { thrown = what; };
    return made;
  }();
  Loop loop{clock, options};
  Loop::Turn turn{loop};
  std::string done, thrown;
  std::unique_ptr<TableWork> table = std::make_unique<TableWork>(loop);
};

}  // namespace

TEST_CASE("work on a table is done in order, large work in pieces with other things between") {
  Work work;
  CHECK(work.table->free());
  work.table->add(work.job('a', 1));
  CHECK(work.done == "a");  // at once
  CHECK(work.table->free());
  work.table->add(work.job('b', 3));
  CHECK_FALSE(work.table->free());
  work.table->add(work.job('c', 1));
  work.table->add(work.job('d', 2));
  CHECK(work.done == "ab");
  work.run();
  CHECK(work.done == "abbbcdd");
  work.table->add(work.job('e', 3));
  work.loop.post([&] { work.done += 'x'; });
  work.run();
  CHECK(work.done == "abbbcddeexe");
  CHECK(work.table->free());
}

TEST_CASE("what goes on in a job's place comes before all that wait") {
  Work work;
  work.table->add(work.job('a', 2));
  work.table->add([&] {
    work.done += 'b';
    work.table->next(work.job('c', 2));
    return true;
  });
  work.table->add(work.job('d', 1));
  work.run();
  CHECK(work.done == "aabccd");
}

TEST_CASE("a table that is held begins nothing, and says when what had begun has ended") {
  Work work;
  work.table->hold([&] { work.done += 'h'; });
  CHECK(work.done == "h");
  CHECK_FALSE(work.table->free());
  work.table->add(work.job('a', 2));
  work.run();
  CHECK(work.done == "h");
  work.table->let_go();
  work.run();
  CHECK(work.done == "haa");
  work.done.clear();
  work.table->add(work.job('b', 3));
  work.table->add(work.job('c', 1));
  work.table->hold([&] { work.done += 'h'; });
  work.run();
  CHECK(work.done == "bbbh");
  work.table->let_go();
  work.run();
  CHECK(work.done == "bbbhc");
}

TEST_CASE("a job that ends the table's work, or throws") {
  Work work;
  const auto kept = std::make_shared<int>();
  work.table->add(work.job('a', 2));
  work.table->add([&] {
    work.done += 'b';
    throw std::runtime_error("no");
    return true;
  });
  work.table->add([&] {
    work.done += 'c';
    work.table.reset();
    return true;
  });
  work.table->add([&, kept] {
    work.done += 'd';
    return true;
  });
  work.run();
  CHECK(work.done == "aabc");
  CHECK(work.thrown.find("work on a table") != std::string::npos);
  CHECK(kept.use_count() == 1);
}
