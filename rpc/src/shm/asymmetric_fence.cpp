#include "shm/asymmetric_fence.hpp"

#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cassert>

namespace troupe::rpc::shm {

bool AsymmetricFence::available() {
  static const bool answer = ::syscall(__NR_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0) == 0;
  return answer;
}

void AsymmetricFence::order_all() {
  [[maybe_unused]] const long done = ::syscall(__NR_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0);
  assert(done == 0);
}

}  // namespace troupe::rpc::shm
