#include "caf_embed/shard_process.hpp"

#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <stdexcept>

#include <troupe/actors/node.hpp>
#include <troupe/actors/shard_server.hpp>

namespace caf_embed {

using namespace troupe;

void keep_shard(const std::string& address, const std::string& checkpoint) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  auto node = Node::start({.name = "ps", .role = "server", .registry = address}).value();
  auto server = std::make_shared<ShardServer>(0U, 1U, *node);
  std::uint64_t rows = 0;
  if (!checkpoint.empty()) rows = server->restore_now(checkpoint).value();
  rpc::Methods<ShardServer> methods;
  ShardServer::methods(methods);
  // The application's own actor, called like any other: it does not matter that it is one of CAF's.
  node->wait_for_actor("ledger", std::chrono::seconds(10)).value();
  node->send("ledger", "note", "shard began with rows", static_cast<double>(rows)).value();
  node->spawn_state("shard", std::move(server), methods.table()).value();
  (void)node->run();
}

ShardProcess::ShardProcess(const std::string& address, const std::string& checkpoint) {
  std::array<std::string, 4> words{"caf_embed", "shard", address, checkpoint};
  std::array<char*, 5> argv{words[0].data(), words[1].data(), words[2].data(),
                            checkpoint.empty() ? nullptr : words[3].data(), nullptr};
  if (posix_spawn(&pid_, "/proc/self/exe", nullptr, nullptr, argv.data(), environ) != 0)
    throw std::runtime_error("cannot start the shard's process");
}

void ShardProcess::kill() {
  if (pid_ < 0) return;
  ::kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

ShardProcess::~ShardProcess() {
  kill();
}

}  // namespace caf_embed
