// The secret that processes of one user share unless they are told another.
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include <troupe/runtime/files.hpp>

#include "cluster.hpp"
#include "process.hpp"
#include "support/temporary_folder.hpp"
#include "user_secret.hpp"

using namespace troupe;
using namespace troupe::test;
namespace fs = std::filesystem;

namespace {

mode_t mode_of(const std::string& path) {
  struct stat status {};
  REQUIRE(::lstat(path.c_str(), &status) == 0);
  return status.st_mode & 07777U;
}

/// A variable of our own environment, as it was before at the end.
class OwnVariable {
 public:
  OwnVariable(const char* name, const std::string& value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    value.empty() ? ::unsetenv(name) : ::setenv(name, value.c_str(), 1);
  }
  ~OwnVariable() { before_.empty() ? ::unsetenv(name_) : ::setenv(name_, before_.c_str(), 1); }
  OwnVariable(const OwnVariable&) = delete;
  OwnVariable& operator=(const OwnVariable&) = delete;

 private:
  const char* name_;
  std::string before_;
};

}  // namespace

TEST_CASE("a user's secret is made on first use, for the user alone, and found again") {
  const TemporaryFolder home;
  const UserSecretPlace place{::geteuid(), {home / "state/troupe"}};
  const auto first = user_secret(place);
  REQUIRE_MESSAGE(first.ok(), text_of(first));
  CHECK(first->size() == 64);
  CHECK(mode_of(place.folders[0]) == 0700);
  CHECK(mode_of(place.folders[0] + "/secret") == 0600);
  const auto second = user_secret(place);
  REQUIRE_MESSAGE(second.ok(), text_of(second));
  CHECK(*second == *first);
  // Nothing else is left in the folder.
  CHECK(std::distance(fs::directory_iterator(place.folders[0]), fs::directory_iterator()) == 1);
}

TEST_CASE("who makes the secret at the same time has the same") {
  for (int round = 0; round < 20; ++round) {
    const TemporaryFolder home;
    const UserSecretPlace place{::geteuid(), {home / "troupe"}};
    std::array<std::string, 8> secrets;
    {
      std::vector<std::jthread> threads;
      threads.reserve(secrets.size());
      for (std::string& secret : secrets)
        threads.emplace_back([&] {
          const auto made = user_secret(place);
          secret = made ? *made : made.error().to_string();
        });
    }
    CHECK(secrets[0].size() == 64);
    for (const std::string& secret : secrets) CHECK(secret == secrets[0]);
  }
}

TEST_CASE("a secret that others can read, or have made, is refused, with what to do") {
  const TemporaryFolder home;
  const UserSecretPlace place{::geteuid(), {home / "troupe"}};
  const std::string file = place.folders[0] + "/secret";
  REQUIRE(user_secret(place).ok());
  const auto fault = [&](const UserSecretPlace& at) {
    const auto secret = user_secret(at);
    CHECK(code_of(secret) == Code::kPermissionDenied);
    return text_of(secret);
  };
  REQUIRE(::chmod(file.c_str(), 0640) == 0);
  CHECK(contains(fault(place), "chmod 600 " + file));
  REQUIRE(::chmod(file.c_str(), 0600) == 0);
  REQUIRE(::chmod(place.folders[0].c_str(), 0777) == 0);
  CHECK(contains(fault(place), "chmod 700 " + place.folders[0]));
  REQUIRE(::chmod(place.folders[0].c_str(), 0700) == 0);
  // Another user's: seen from the other side.
  CHECK(contains(fault({::geteuid() + 1, place.folders}), "it belongs to user"));
  fs::rename(file, file + "2");
  REQUIRE(::symlink((file + "2").c_str(), file.c_str()) == 0);
  CHECK(contains(fault(place), "it is a link"));
  fs::remove(file);
  REQUIRE(write_file_atomically(file, "short\n").ok());
  REQUIRE(::chmod(file.c_str(), 0600) == 0);
  CHECK(code_of(user_secret(place)) == Code::kDataLoss);
}

TEST_CASE("where the first place cannot be written the next one is taken; with none it says what to set") {
  const TemporaryFolder home;
  const UserSecretPlace place{::geteuid(), {"/proc/no/such/troupe", home / "troupe"}};
  const auto secret = user_secret(place);
  REQUIRE_MESSAGE(secret.ok(), text_of(secret));
  CHECK(fs::exists(home / "troupe/secret"));
  const auto nowhere = user_secret({::geteuid(), {"/proc/no/such/troupe"}});
  CHECK(code_of(nowhere) == Code::kUnavailable);
  CHECK(contains(text_of(nowhere), "XDG_STATE_HOME"));
  CHECK(contains(text_of(nowhere), "node.secret_file"));
}

TEST_CASE("the place is the user's state folder, or that of a home that is the user's own") {
  const TemporaryFolder home;
  {
    const OwnVariable state("XDG_STATE_HOME", home / "state");
    CHECK(user_secret_place().folders[0] == home / "state/troupe");
  }
  const OwnVariable state("XDG_STATE_HOME", "");
  const OwnVariable own("HOME", home.path().string());
  CHECK(user_secret_place().folders[0] == home / ".local/state/troupe");
  CHECK(user_secret_place().folders.back() == "/tmp/troupe-" + std::to_string(::geteuid()));
  if (::geteuid() != 0) return;
  REQUIRE(::chown(home.path().c_str(), 12345, 12345) == 0);
  CHECK(user_secret_place().folders[0] != home / ".local/state/troupe");
}

TEST_CASE("a node without a secret keeps other users of the machine out, unless it is told to have none") {
  if (::geteuid() != 0) {
    MESSAGE("skipped: needs root, to be two users");
    return;
  }
  const TemporaryFolder home;
  const TemporaryFolder theirs;
  REQUIRE(::chown(theirs.path().c_str(), 65534, 65534) == 0);
  const OwnVariable state("XDG_STATE_HOME", home.path().string());
  auto own = Node::start({.name = "alice"});
  REQUIRE_MESSAGE(own.ok(), text_of(own));
  auto also_own = Node::start({.name = "bob", .registry = (*own)->address()});
  CHECK_MESSAGE(also_own.ok(), text_of(also_own));
  const auto as_nobody = [&](const std::string& registry, const char* secret) {
    std::vector<std::string> command{"setpriv",       "--reuid=65534",
                                     "--regid=65534", "--clear-groups",
                                     "env",           "XDG_STATE_HOME=" + theirs.path().string()};
    if (*secret) command.push_back(std::string("TROUPE_NODE_SECRET=") + secret);
    const auto node = NodeProcess{.name = "mallory", .registry = registry, .transports = "tcp"}.command();
    command.insert(command.end(), node.begin(), node.end());
    Process process(command);
    return process.line();
  };
  const std::string refused = as_nobody((*own)->address(), "");
  CHECK_MESSAGE(contains(refused, "UNAUTHENTICATED"), refused);
  CHECK_MESSAGE(contains(refused, "each user of a machine"), refused);
  auto open = Node::start({.name = "carol", .secret = "none"});
  REQUIRE_MESSAGE(open.ok(), text_of(open));
  const std::string taken = as_nobody((*open)->address(), "none");
  CHECK_MESSAGE(taken.starts_with("ready "), taken);
}
