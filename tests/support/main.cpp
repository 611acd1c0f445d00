// The one main of every test program.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

namespace {

/// Where nodes of this test, and of the processes that it starts, keep what they would keep in the user's
/// home: the user's secret. Gone at the end.
class StateFolder {
 public:
  StateFolder() {
    path_ = (std::filesystem::temp_directory_path() / "troupe-test-state-XXXXXX").string();
    if (!::mkdtemp(path_.data())) std::abort();
    ::setenv("XDG_STATE_HOME", path_.c_str(), 1);
  }
  ~StateFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  StateFolder(const StateFolder&) = delete;
  StateFolder& operator=(const StateFolder&) = delete;

 private:
  std::string path_;
};

}  // namespace

int main(int argc, char** argv) {
  const StateFolder state;
  return doctest::Context(argc, argv).run();
}
