#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>

#include <troupe/runtime/gpu.hpp>

#include "communicators/nccl_api.hpp"

namespace troupe::shards {

/// The two communicators of NCCL's that stand behind one of ours.
///
/// The first is one that does not wait: it can be made, and given up, in time. But NCCL starts a thread for
/// each collective of such a one. So collectives go to a second, split from it, that waits. The two share
/// their means, and with these the word by which NCCL's kernels, and whoever is inside a call, are told to
/// stop: ending the first lets them go while the second is still there to be used by who is inside.
class NcclComms {
 public:
  /// With the thread that will end it: when a member has died is no time to ask for one.
  static std::shared_ptr<NcclComms> make(Gpu gpu, std::shared_ptr<const NcclApi> api);
  NcclComms(Gpu gpu, std::shared_ptr<const NcclApi> api) : gpu_(std::move(gpu)), api_(std::move(api)) {}
  NcclComms(const NcclComms&) = delete;
  NcclComms& operator=(const NcclComms&) = delete;

  /// Waits until all members have called it, or `over` says why not. Whatever comes out of it, end() follows.
  Result<void> form(const NcclId& id, int rank, int size, const std::function<std::optional<Error>()>& over);
  const NcclApi& api() const { return *api_; }
  /// To be used between enter() and leave(), which return false and do nothing once it is ending.
  NcclComm comm() const { return used_; }
  bool enter();
  void leave();

  /// Ends what is under way on this GPU and gives all back: must be called, and may be again. Waits for at
  /// most `patience`: what takes longer goes on by itself.
  void end(Duration patience);

 private:
  Result<void> settled(int status, const char* call, const std::function<std::optional<Error>()>& over) const;
  void end_when_told();

  const Gpu gpu_;
  const std::shared_ptr<const NcclApi> api_;
  NcclComm first_ = nullptr;
  NcclComm used_ = nullptr;  // written by a thread of NCCL's while it is split
  bool formed_ = false;

  std::mutex mutex_;
  std::condition_variable changed_;
  int inside_ = 0;
  bool ending_ = false;
  bool ended_ = false;
};

}  // namespace troupe::shards
