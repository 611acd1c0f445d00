#pragma once

namespace troupe::rpc::shm {

/// Two sides that each write one word and then look at the other's: at least one must see the other's word,
/// or both may wait for ever. That takes a fence between writing and looking on both sides, unless one side
/// can have the other's processor make its fence for it: who seldom looks (before it sleeps) pays for who
/// looks with each message. The system call for it is membarrier(2), which also reaches other processes, if
/// they have said so.
class AsymmetricFence {
 public:
  /// Whether this process can call order_all(), and processors that run it obey others'. Makes it so the
  /// first time. Any thread.
  static bool available();
  /// When it returns, each processor that runs a thread of a process for which available() has been true has
  /// made a full fence. Precondition: available().
  static void order_all();
};

}  // namespace troupe::rpc::shm
