#include "session/session_memory.hpp"

#include <signal.h>

#include <cerrno>
#include <utility>

namespace troupe::rpc {

namespace {
/// Of segments of one peer that are kept mapped between tensors.
constexpr std::size_t kMaxMappings = 1024;
}  // namespace

/// Collects leases whose tensors have gone, on whichever thread that was.
class SessionMemory::Returns : public std::enable_shared_from_this<Returns> {
 public:
  Returns(Loop& loop, std::function<void()> flush) : loop_(&loop), flush_(std::move(flush)) {}

  void add(std::uint64_t lease) {
    const std::lock_guard lock(mutex_);
    if (!loop_) return;
    leases_.push_back(lease);
    if (leases_.size() > 1) return;
    loop_->post([weak = weak_from_this()] {
      const auto self = weak.lock();
      if (!self) return;
      if (const auto flush = self->flush_) flush();  // a copy: it may end the session
    });
  }
  /// All that have been collected, behind those that are there. None, if there is no memory.
  void take(std::vector<std::uint64_t>& into) {
    const std::lock_guard lock(mutex_);
    if (into.empty()) return into.swap(leases_);
    into.insert(into.end(), leases_.begin(), leases_.end());
    leases_.clear();
  }
  void close() {
    const std::lock_guard lock(mutex_);
    loop_ = nullptr;
    flush_ = nullptr;
  }

 private:
  std::mutex mutex_;
  Loop* loop_;                   // null once the session has ended
  std::function<void()> flush_;  // changed with the loop's turn only
  std::vector<std::uint64_t> leases_;
};

void SessionMemory::lend(FrameLeases leases, bool is_answer) {
  for (auto& [lease, held] : leases.late) leases_.emplace(lease, std::move(held));
  if (is_answer) {
    for (const auto& [lease, bytes] : leases.device_leases) {
      answers_.emplace(lease, bytes);
      answer_bytes_ += bytes;
    }
  }
  for (SharedLease& lease : leases.leases) leases_.emplace(leases.first++, std::move(lease));
  for (auto& [lease, memory] : leases.device) device_leases_.emplace(lease, std::move(memory));
}

void SessionMemory::forget_answer(std::uint64_t lease) {
  const auto found = answers_.find(lease);
  if (found == answers_.end()) return;
  answer_bytes_ -= found->second;
  answers_.erase(found);
}

bool SessionMemory::open_probe(Loop& loop, std::function<void()> flush) {
  if (owner_ == 0 || !SharedMapping::open(owner_, probe_)) return false;
  returns_ = std::make_shared<Returns>(loop, std::move(flush));
  return true;
}

Result<Buffer> SessionMemory::open(const SharedPool::Location& location, std::uint64_t lease,
                                   std::uint64_t bytes) {
  if (!returns_) return Error{Code::kDataLoss, "a shared tensor came, but this side maps no memory"};
  auto found = mappings_.find(location.cookie);
  if (found == mappings_.end()) {
    auto mapping = SharedMapping::open(owner_, location);
    if (!mapping) return mapping.error();
    if (mappings_.size() >= kMaxMappings) mappings_.clear();
    found = mappings_.emplace(location.cookie, std::move(*mapping)).first;
  }
  return SharedMapping::view(found->second, location.offset, bytes,
                             [returns = returns_, lease] { returns->add(lease); });
}

std::vector<std::uint64_t> SessionMemory::leases_to_return() {
  if (returns_) returns_->take(returned_);
  return std::exchange(returned_, {});
}

void SessionMemory::return_later(std::vector<std::uint64_t>&& leases) {
  if (returned_.empty())
    returned_ = std::move(leases);
  else
    returned_.insert(returned_.end(), leases.begin(), leases.end());
}

std::vector<Buffer> SessionMemory::take_device_leases() {
  std::vector<Buffer> taken;
  taken.reserve(device_leases_.size());
  for (auto& [lease, memory] : device_leases_) taken.push_back(std::move(memory));
  device_leases_.clear();
  return taken;
}

bool SessionMemory::owner_lives() const {
  return owner_ <= 0 || ::kill(owner_, 0) == 0 || errno != ESRCH;
}

void SessionMemory::drop_closed() {
  std::erase_if(mappings_, [](const auto& entry) { return entry.second->is_closed(); });
}

void SessionMemory::end() {
  for (auto& [lease, held] : leases_) held.abandon();
  leases_.clear();
  device_leases_.clear();
  answers_.clear();
  answer_bytes_ = 0;
  mappings_.clear();
  if (returns_) std::exchange(returns_, nullptr)->close();
}

}  // namespace troupe::rpc
