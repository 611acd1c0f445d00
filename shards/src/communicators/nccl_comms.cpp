#include "communicators/nccl_comms.hpp"

#include <chrono>
#include <thread>
#include <utility>

namespace troupe::shards {

Result<void> NcclComms::settled(int status, const char* call,
                                const std::function<std::optional<Error>()>& over) const {
  constexpr auto kLook = std::chrono::microseconds(500);
  // A call may have returned with success what is still under way.
  for (;;) {
    if (status != kNcclSuccess && status != kNcclInProgress) return api_->error_of(status, call, first_);
    if (const int asked = api_->async_error(first_, &status); asked != kNcclSuccess)
      return api_->error_of(asked, call, first_);
    if (status == kNcclSuccess) return {};
    if (std::optional<Error> why = over()) return *std::move(why);
    std::this_thread::sleep_for(kLook);
  }
}

Result<void> NcclComms::form(const NcclId& id, int rank, int size,
                             const std::function<std::optional<Error>()>& over) {
  const CurrentGpu here(gpu_);
  NcclConfig first;
  first.blocking = 0;
  first.split_share = 1;
  int status = api_->init(&first_, size, id, rank, &first);
  if (first_ == nullptr) return api_->error_of(status, "ncclCommInitRankConfig", nullptr);
  if (auto made = settled(status, "ncclCommInitRankConfig", over); !made) return made;
  NcclConfig second;
  second.blocking = 1;
  status = api_->split(first_, 0, rank, &used_, &second);
  if (auto made = settled(status, "ncclCommSplit", over); !made) return made;
  if (used_ == nullptr) return Error{Code::kInternal, "ncclCommSplit made no communicator"};
  formed_ = true;
  return {};
}

bool NcclComms::enter() {
  const std::lock_guard lock(mutex_);
  if (ending_) return false;
  ++inside_;
  return true;
}

void NcclComms::leave() {
  const std::lock_guard lock(mutex_);
  --inside_;
  if (ending_) changed_.notify_all();
}

std::shared_ptr<NcclComms> NcclComms::make(Gpu gpu, std::shared_ptr<const NcclApi> api) {
  auto made = std::make_shared<NcclComms>(std::move(gpu), std::move(api));
  std::thread([made] { made->end_when_told(); }).detach();
  return made;
}

void NcclComms::end_when_told() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return ending_; });
  lock.unlock();
  {
    const CurrentGpu here(gpu_);
    // What is said by these has been said already, or is about the end.
    if (first_ != nullptr) static_cast<void>(api_->abort(first_));
    lock.lock();
    changed_.wait(lock, [&] { return inside_ == 0; });
    lock.unlock();
    // One that was not split to the end is NCCL's own affair.
    if (formed_) static_cast<void>(api_->abort(used_));
  }
  lock.lock();
  ended_ = true;
  changed_.notify_all();
}

void NcclComms::end(Duration patience) {
  std::unique_lock lock(mutex_);
  ending_ = true;
  changed_.notify_all();
  changed_.wait_for(lock, patience, [&] { return ended_; });
}

}  // namespace troupe::shards
