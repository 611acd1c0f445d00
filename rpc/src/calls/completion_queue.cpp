#include <troupe/rpc/completion_queue.hpp>

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <deque>
#include <mutex>
#include <new>
#include <string>
#include <unordered_map>

namespace troupe::rpc {

/// Kept by the calls, too, which may end after the queue.
class CompletionQueue::Shared {
 public:
  Shared(int descriptor, std::size_t max_calls) : descriptor_(descriptor), max_calls_(max_calls) {}
  ~Shared() { ::close(descriptor_); }
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;

  int descriptor() const { return descriptor_; }
  /// Whether this is another process than the one that opened it: nothing but the descriptor is whole here.
  bool forked() const { return ::getpid() != owner_; }
  void close_descriptor() { ::close(descriptor_); }

  Result<void> reserve(std::uint64_t tag) {
    const std::lock_guard lock(mutex_);
    if (open_.size() + done_.size() >= max_calls_)
      return Error{Code::kResourceExhausted,
                   std::to_string(open_.size()) + " calls of this queue are open and " +
                       std::to_string(done_.size()) + " completions are not fetched yet: fetch some first"};
    if (!open_.try_emplace(tag).second)
      return Error{Code::kAlreadyExists, "a call with the tag " + std::to_string(tag) + " is open already"};
    return {};
  }
  void set_open(std::uint64_t tag, Loop& loop, std::weak_ptr<detail::Cancellable> call) {
    const std::lock_guard lock(mutex_);
    if (const auto found = open_.find(tag); found != open_.end()) found->second = {&loop, std::move(call)};
  }
  void fill(Completion completion) {
    const std::lock_guard lock(mutex_);
    open_.erase(completion.tag());
    if (closed_) return;
    done_.push_back(std::move(completion));
    if (done_.size() == 1) signal();
  }
  std::optional<Completion> pop() {
    const std::lock_guard lock(mutex_);
    if (done_.empty()) return std::nullopt;
    std::optional<Completion> first(std::move(done_.front()));
    done_.pop_front();
    if (done_.empty()) unsignal();
    return first;
  }
  std::size_t size() const {
    const std::lock_guard lock(mutex_);
    return open_.size() + done_.size();
  }
  void cancel(std::uint64_t tag) {
    const std::lock_guard lock(mutex_);
    if (const auto found = open_.find(tag); found != open_.end()) cancel(found->second);
  }
  void close() {
    std::deque<Completion> unread;  // goes without the lock
    const std::lock_guard lock(mutex_);
    closed_ = true;
    for (const auto& [tag, open] : open_) cancel(open);
    unread.swap(done_);
  }

 private:
  struct Open {
    Loop* loop = nullptr;  // lives at least until the call has filled its place
    std::weak_ptr<detail::Cancellable> call = {};
  };
  static void cancel(const Open& open) {
    if (!open.loop) return;  // it is just being begun
    open.loop->post([call = open.call] {
      if (const auto still = call.lock()) still->cancel();
    });
  }
  void signal() const {
    const std::uint64_t one = 1;
    // It cannot be full: it is 0 while nothing is here.
    [[maybe_unused]] const ssize_t written = ::write(descriptor_, &one, sizeof one);
  }
  void unsignal() const {
    std::uint64_t count = 0;
    [[maybe_unused]] const ssize_t read = ::read(descriptor_, &count, sizeof count);
  }

  const int descriptor_;
  const std::size_t max_calls_;
  const pid_t owner_ = ::getpid();
  mutable std::mutex mutex_;
  std::unordered_map<std::uint64_t, Open> open_;
  std::deque<Completion> done_;
  bool closed_ = false;
};

CompletionQueue::CompletionQueue(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}

Result<std::unique_ptr<CompletionQueue>> CompletionQueue::open(std::size_t max_calls) {
  const int descriptor = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (descriptor < 0) return errno_error(errno, "opening a completion queue");
  return std::unique_ptr<CompletionQueue>(
      new CompletionQueue(std::make_shared<Shared>(descriptor, max_calls)));
}

CompletionQueue::~CompletionQueue() {
  if (!shared_->forked()) {
    shared_->close();
    return;
  }
  // Its mutex may be locked for ever here, by a thread that only the parent has: so the rest stays as it is.
  shared_->close_descriptor();
  // The reference is moved to where nobody ends it.
  alignas(std::shared_ptr<Shared>) std::byte abandoned[sizeof(std::shared_ptr<Shared>)];
  new (abandoned) std::shared_ptr<Shared>(std::move(shared_));
}

int CompletionQueue::descriptor() const {
  return shared_->descriptor();
}

Result<void> CompletionQueue::reserve(std::uint64_t tag) {
  if (shared_->forked())
    return Error{Code::kFailedPrecondition,
                 "a completion queue is of the process that opened it, not of those that are forked from it"};
  return shared_->reserve(tag);
}

void CompletionQueue::set_open(std::uint64_t tag, Loop& loop, std::weak_ptr<detail::Cancellable> call) {
  shared_->set_open(tag, loop, std::move(call));
}

void CompletionQueue::fill(Shared& queue, Completion completion) {
  queue.fill(std::move(completion));
}

void CompletionQueue::cancel(std::uint64_t tag) {
  if (!shared_->forked()) shared_->cancel(tag);
}

std::optional<Completion> CompletionQueue::pop() {
  if (shared_->forked()) return std::nullopt;
  return shared_->pop();
}

std::optional<Completion> CompletionQueue::wait(Duration timeout) {
  using Clock = std::chrono::steady_clock;
  constexpr Duration kLongest = std::chrono::hours(1);  // what one poll(2) is given
  const auto begun = Clock::now();
  for (;;) {
    if (auto first = pop()) return first;
    const Duration left = timeout == kNoDeadline ? kLongest : timeout - (Clock::now() - begun);
    if (left <= Duration::zero() || shared_->forked()) return std::nullopt;
    pollfd waited{shared_->descriptor(), POLLIN, 0};
    const auto ms = std::chrono::ceil<std::chrono::milliseconds>(std::min(left, kLongest)).count();
    ::poll(&waited, 1, static_cast<int>(ms));
  }
}

std::size_t CompletionQueue::size() const {
  return shared_->forked() ? 0 : shared_->size();
}

}  // namespace troupe::rpc
