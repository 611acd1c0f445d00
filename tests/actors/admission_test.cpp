// A cluster with a shared secret: who knows it joins, who does not is told so.
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include <troupe/runtime/files.hpp>

#include "cluster.hpp"
#include "states.hpp"

using namespace troupe;
using namespace troupe::test;

namespace {

const std::string kSecret = "a secret that only tests know";

/// A file with some contents and permissions, gone at the end.
class SecretFile {
 public:
  SecretFile(const std::string& text, mode_t mode)
      : path((std::filesystem::temp_directory_path() / ("troupe-secret-" + std::to_string(getpid())))
                 .string()) {
    REQUIRE(write_file_atomically(path, text).ok());
    REQUIRE(::chmod(path.c_str(), mode) == 0);
  }
  ~SecretFile() { std::filesystem::remove(path); }
  SecretFile(const SecretFile&) = delete;
  SecretFile& operator=(const SecretFile&) = delete;

  const std::string path;
};

}  // namespace

TEST_CASE_TEMPLATE("nodes with one secret make a cluster, those with another or none do not join it", Kind,
                   TROUPE_CLUSTERS) {
  Kind cluster;
  auto alice = cluster.start({.name = "alice", .secret = kSecret});
  REQUIRE_MESSAGE(alice.ok(), text_of(alice));
  auto bob = cluster.start({.name = "bob", .secret = kSecret});
  REQUIRE_MESSAGE(bob.ok(), text_of(bob));
  auto carol = cluster.start({.name = "carol", .secret = kSecret});
  REQUIRE_MESSAGE(carol.ok(), text_of(carol));
  REQUIRE((*carol)->template spawn<Calculator>("calculator").ok());
  REQUIRE((*bob)->wait_for_actor("calculator", kPatience).ok());
  CHECK((*bob)->template rpc_sync<std::int64_t>("calculator", "count").value() ==
        1);  // not by the first node

  for (const std::string& wrong : {std::string(), std::string("what mallory thinks it is")}) {
    auto mallory = cluster.start({.name = "mallory", .secret = wrong});
    CHECK(code_of(mallory) == Code::kUnauthenticated);
    CHECK(contains(text_of(mallory), "secret"));
  }
  CHECK((*alice)->membership().members.size() == 3);
}

TEST_CASE("a secret may stand in a file, that not everybody can read") {
  RealCluster cluster;
  {
    const SecretFile file(kSecret + "\n", 0600);
    auto alice = cluster.start({.name = "alice", .listen = "0.0.0.0:0", .secret_file = file.path});
    REQUIRE_MESSAGE(alice.ok(), text_of(alice));
    const std::string port = (*alice)->address().substr((*alice)->address().rfind(':'));
    auto bob = cluster.start({.name = "bob", .registry = "127.0.0.1" + port, .secret = kSecret});
    CHECK_MESSAGE(bob.ok(), text_of(bob));
  }
  {
    const SecretFile file(kSecret, 0644);
    const auto open = Node::start({.name = "alice", .secret_file = file.path});
    CHECK(code_of(open) == Code::kPermissionDenied);
    CHECK(contains(text_of(open), "chmod 600"));
  }
  {
    const SecretFile file("\n", 0600);
    CHECK(code_of(Node::start({.name = "alice", .secret_file = file.path})) == Code::kInvalidArgument);
  }
  CHECK(code_of(Node::start({.name = "alice", .secret_file = "/no/such/file"})) == Code::kNotFound);
}

TEST_CASE("a secret is the same with the line end of its file, and spaces are none") {
  RealCluster cluster;
  auto alice = cluster.start({.name = "alice", .secret = kSecret});
  REQUIRE_MESSAGE(alice.ok(), text_of(alice));
  const auto bob = cluster.start({.name = "bob", .secret = kSecret + "\r\n"});
  CHECK_MESSAGE(bob.ok(), text_of(bob));
  CHECK(code_of(cluster.start({.name = "carol", .secret = " \n"})) == Code::kInvalidArgument);
}

TEST_CASE("without a secret a node does not start where other machines reach it, nor joins there") {
  const auto open = Node::start({.name = "alice", .listen = "0.0.0.0:0"});
  CHECK(code_of(open) == Code::kFailedPrecondition);
  CHECK(contains(text_of(open), "TROUPE_NODE_SECRET"));
  const auto far = Node::start({.name = "bob", .registry = "192.0.2.1:4000"});
  CHECK(code_of(far) == Code::kFailedPrecondition);
  CHECK(code_of(Node::start({.name = "carol", .secret = "short"})) == Code::kInvalidArgument);
}
