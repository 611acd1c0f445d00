#include "communicators/nccl_queue.hpp"

#include <algorithm>
#include <new>
#include <utility>

#include <troupe/runtime/device_range.hpp>
#include <troupe/runtime/gpu_memory.hpp>

namespace troupe::shards {
namespace {

// How often the watcher looks while something is under way: the longer that takes, the less often.
constexpr auto kLookFirst = std::chrono::microseconds(20);
constexpr auto kLookLast = std::chrono::microseconds(200);
// For so long after the last it goes on looking: being woken costs whoever calls more than a look.
constexpr auto kStaysAwake = std::chrono::milliseconds(50);
constexpr auto kAskForFaults = std::chrono::milliseconds(1);
// Who did not come is told by the members' agreement, which knows the name; so it may be the first to be
// late.
constexpr auto kAgreementFirst = std::chrono::seconds(1);
// What NCCL says of a lost member, its connection says better: if it does within so long.
constexpr auto kLossFirst = std::chrono::milliseconds(200);
// A member that has gone may have done its part of what is under way here.
constexpr auto kMayStillPass = std::chrono::milliseconds(20);
// How long NCCL may take to end what is under way before those who wait are told: it guards their memory.
constexpr Duration kEndsWithin = std::chrono::seconds(10);
constexpr Duration kEndsWithinAtLeast = std::chrono::seconds(2);
// Under way at once, some entries of the device's queue each: a call that finds that queue full waits inside
// the driver, where nobody could end it.
constexpr std::size_t kMostUnderWay = 100;

/// With its words, if there is memory for them.
Error copy_of(const Error& error) {
  try {
    return error;
  } catch (const std::bad_alloc&) {
    return {error.code, {}};
  }
}

std::string seconds_text(Duration time) {
  return std::to_string(std::chrono::duration<double>(time).count()) + " s";
}

}  // namespace

/// After NcclComms::enter().
class NcclQueue::Inside {
 public:
  explicit Inside(NcclComms& comms) : comms_(comms) {}
  ~Inside() { comms_.leave(); }
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;

 private:
  NcclComms& comms_;
};

/// A work on the stream.
class NcclQueue::Passing final : public Work::State {
 public:
  Passing(Event event, std::vector<Work> agreed, std::weak_ptr<NcclQueue> queue)
      : event_(std::move(event)), agreed_(std::move(agreed)), queue_(std::move(queue)) {}

  bool passed() const {
    return event_.done() &&
           std::ranges::all_of(agreed_, [](const Work& each) { return each.done() && each.wait(); });
  }
  bool disagreed() const {
    return std::ranges::any_of(agreed_, [](const Work& each) { return each.done() && !each.wait(); });
  }
  bool waits_for_members() const {
    return std::ranges::any_of(agreed_, [](const Work& each) { return !each.done(); });
  }
  const Event& event() const { return event_; }

  Result<void> before(const Stream& stream) override {
    if (const auto known = result()) return *known;
    return stream.wait_for(event_);
  }

 private:
  bool visible() const override { return true; }
  // What was ended has passed, too; so `over_` is looked at last.
  bool seen() const override {
    if (!passed()) return false;
    const auto queue = queue_.lock();
    return queue && !queue->over_;
  }
  void look() override {
    if (!passed()) return;
    if (const auto queue = queue_.lock()) queue->progress();
  }

  const Event event_;
  const std::vector<Work> agreed_;
  const std::weak_ptr<NcclQueue> queue_;
};

/// A work that is part of a group, and ends with it.
class NcclQueue::Grouped final : public Work::State {
 public:
  void is_part_of(const Work& whole) {
    const std::lock_guard lock(mutex_);
    whole_ = whole;
  }
  Result<void> before(const Stream& stream) override {
    const auto whole = whole_now();
    if (whole) return whole->before(stream);
    return Error{Code::kFailedPrecondition, "its group has not been given to the device yet"};
  }

 private:
  std::optional<Work> whole_now() const {
    const std::lock_guard lock(mutex_);
    return whole_;
  }
  bool visible() const override { return true; }
  bool seen() const override {
    const auto whole = whole_now();
    return whole && whole->done();
  }
  void look() override {
    if (const auto whole = whole_now()) (void)whole->wait(std::chrono::microseconds(1));
  }

  mutable std::mutex mutex_;
  std::optional<Work> whole_;
};

NcclQueue::NcclQueue(CommunicatorOptions options, Gpu gpu, Stream stream, std::shared_ptr<NcclComms> comms,
                     std::unique_ptr<GlooCommunicator> control)
    : options_(std::move(options)),
      gpu_(std::move(gpu)),
      stream_(std::move(stream)),
      comms_(std::move(comms)),
      control_(std::move(control)),
      spare_(Error{Code::kResourceExhausted, options_.name + ": no memory for a collective"}) {}

void NcclQueue::start(std::function<std::optional<Error>()> given_up, Steady::time_point due) {
  given_up_ = std::move(given_up);
  forming_due_ = due;
  watcher_ = std::thread([this] { watch(); });
  control_->when_ended([this](const Error& why) { why.code == Code::kUnavailable ? lose(why) : end(why); });
}

void NcclQueue::formed() {
  const std::lock_guard lock(mutex_);
  forming_due_.reset();
  given_up_ = {};
}

void NcclQueue::close() {
  end({Code::kCancelled, options_.name + " has been destroyed"});
  if (watcher_.joinable())
    watcher_.join();
  else
    comms_->end(kEndsWithin);  // it could not be started
  control_.reset();            // waits until its threads, which know this queue, have ended
}

bool NcclQueue::wait_for_room() {
  if (teller_ == std::this_thread::get_id()) return true;  // who is told of an end makes room by returning
  const std::size_t most = std::min(options_.max_waiting, kMostUnderWay);
  for (;;) {
    {
      const std::lock_guard lock(mutex_);
      if (ended_ || lost_) return false;
      if (under_way_.size() < most) return true;
    }
    progress();
    std::this_thread::yield();
  }
}

Work NcclQueue::begin(Given given, Launch launch) {
  if (!given.call) return ended_work(given.call.error());
  if (grouper_ == std::this_thread::get_id()) {
    group_.push_back({std::move(given), std::move(launch)});
    return Work(grouped_.emplace_back(std::make_shared<Grouped>()));
  }
  { const std::lock_guard behind_a_group(grouping_); }
  std::string what = given.call->text;
  Parts parts;
  parts.push_back({std::move(given), std::move(launch)});
  return begin(std::move(parts), what);
}

Work NcclQueue::group(UniqueFunction<void()>& calls) {
  if (grouper_ == std::this_thread::get_id()) {  // of one group that is being made already
    calls();
    return Work(grouped_.emplace_back(std::make_shared<Grouped>()));
  }
  Parts parts;
  std::vector<std::shared_ptr<Grouped>> works;
  {
    const std::lock_guard alone(grouping_);
    grouper_ = std::this_thread::get_id();
    struct Made {
      std::atomic<std::thread::id>& grouper;
      ~Made() { grouper = std::thread::id(); }
    } const made{grouper_};
    group_.clear();  // of one that has thrown
    grouped_.clear();
    calls();
    parts = std::exchange(group_, {});
    works = std::exchange(grouped_, {});
  }
  if (parts.empty()) {
    for (const auto& each : works) each->finish({});
    return ended_work({});
  }
  std::string what = parts.front().given.call->text;
  if (parts.size() > 1) what += " and " + std::to_string(parts.size() - 1) + " more";
  Work whole = begin(std::move(parts), what);
  for (const auto& each : works) each->is_part_of(whole);
  whole.then([works](const Result<void>& ended) {
    for (const auto& each : works) each->finish(ended);
  });
  return whole;
}

Work NcclQueue::begin(Parts parts, const std::string& what) {
  const bool room = wait_for_room();
  const std::lock_guard order(calls_);
  const auto begun = Steady::now();
  {
    const std::lock_guard lock(mutex_);
    if (!room || ended_ || lost_) return ended_work(ended_ ? *ended_ : *lost_);
    calling_what_ = what;
    calling_ = begun;
    if (idle_) changed_.notify_all();
  }
  // From here on the others have been told of it, or may have: if it comes to nothing here, the group has
  // ended.
  std::optional<Result<Work>> given_work;
  try {
    given_work = give_and_keep(parts, what, begun);
  } catch (...) {  // NOLINT(bugprone-empty-catch): no memory; below
  }
  std::unique_lock lock(mutex_);
  calling_.reset();
  changed_.notify_all();
  if (given_work && *given_work) return **given_work;
  if (!ended_ && given_work) end_unless_lost(lock, given_work->error());
  if (!ended_) set_ended_without_words();
  return ended_work(*ended_);
}

Result<Work> NcclQueue::give_and_keep(Parts& parts, const std::string& what, Steady::time_point begun) {
  Entry entry{nullptr, {}, what, begun};
  std::vector<Work> agreed;
  for (Part& part : parts) {
    Given& given = part.given;
    entry.kept.insert(entry.kept.end(), given.reads.begin(), given.reads.end());
    entry.kept.insert(entry.kept.end(), given.writes.begin(), given.writes.end());
    if (!options_.check_calls || options_.size == 1) continue;
    const Work asked =
        given.call->call ? control_->agree_on(*given.call) : control_->agree_on(given.transfers);
    if (asked.done())
      if (Result<void> refused = asked.wait(); !refused) return refused.error();
    agreed.push_back(asked);
  }
  Result<Event> event = give(parts, what);
  if (!event) return event.error();
  auto work = std::make_shared<Passing>(*std::move(event), std::move(agreed), weak_from_this());
  entry.work = work;
  const std::lock_guard lock(mutex_);
  if (finished_) return *ended_;
  active_ = Steady::now();
  under_way_.push_back(std::move(entry));
  return Work(std::move(work));
}

void NcclQueue::set_ended(Error why) {
  if (ended_) return;
  ended_ = std::move(why);
  over_ = true;
  changed_.notify_all();
}

void NcclQueue::set_ended_without_words() {
  if (spare_) set_ended(*std::exchange(spare_, std::nullopt));
}

void NcclQueue::end_unless_lost(std::unique_lock<std::mutex>& lock, Error why) {
  if (why.code != Code::kInvalidArgument)
    changed_.wait_for(lock, kLossFirst, [&] { return ended_ || lost_; });
  set_ended(lost_ ? *lost_ : std::move(why));
}

/// Several as one group of NCCL's.
int NcclQueue::launch(Parts& parts) {
  const NcclComm comm = comms_->comm();
  if (parts.size() == 1) return parts.front().launch(comm, stream_.native());
  int status = api().group_start();
  if (status != kNcclSuccess) return status;
  for (Part& part : parts) {
    status = part.launch(comm, stream_.native());
    if (status != kNcclSuccess && status != kNcclInProgress) break;
  }
  const int ended = api().group_end();
  return status != kNcclSuccess && status != kNcclInProgress ? status : ended;
}

Result<Event> NcclQueue::give(Parts& parts, const std::string& what) {
  const DeviceRange range("collective");
  const auto about = [&](const Error& error) { return with_context(error, options_.name + ", " + what); };
  for (const Part& part : parts) {
    for (const Tensor& tensor : part.given.reads)
      if (auto begun = begin_read(tensor.buffer(), stream_); !begun) return about(begun.error());
    for (const Tensor& tensor : part.given.writes)
      if (auto begun = begin_write(tensor.buffer(), stream_); !begun) return about(begun.error());
  }
  if (!comms_->enter()) return Error{Code::kCancelled, options_.name + " has ended"};
  const Inside inside(*comms_);
  {
    const CurrentGpu here(gpu_);
    int status = launch(parts);
    // A second communicator that does not wait either: somebody has set NCCL's environment so.
    while (status == kNcclInProgress && !over_) {
      std::this_thread::yield();
      if (const int asked = api().async_error(comms_->comm(), &status); asked != kNcclSuccess) status = asked;
    }
    if (status != kNcclSuccess) return about(api().error_of(status, "NCCL", comms_->comm()));
  }
  Result<Event> event = stream_.record();
  if (!event) return about(event.error());
  for (const Part& part : parts)
    for (const Tensor& tensor : part.given.writes) end_write(tensor.buffer(), *event);
  return event;
}

void NcclQueue::progress() {
  if (telling_.exchange(true)) return;
  teller_ = std::this_thread::get_id();
  for (;;) {
    Entry entry;
    {
      const std::lock_guard lock(mutex_);
      // Kernels that have been ended have passed, too: but that begins after ended_ is there.
      if (under_way_.empty() || ended_ || !under_way_.front().work->passed()) break;
      entry = std::move(under_way_.front());
      under_way_.pop_front();
      turn_ = active_ = Steady::now();
    }
    entry.kept.clear();  // given back before anybody is told
    entry.work->finish({});
  }
  teller_ = std::thread::id();
  telling_ = false;
}

void NcclQueue::end(Error why) {
  const std::lock_guard lock(mutex_);
  set_ended(std::move(why));
}

void NcclQueue::lose(Error why) {
  const std::lock_guard lock(mutex_);
  lost_ = std::move(why);
  lost_at_ = Steady::now();
  changed_.notify_all();
}

bool NcclQueue::lost_for_good() const {
  if (!lost_) return false;
  if (Steady::now() - lost_at_ >= kMayStillPass) return true;
  return under_way_.empty() ? !calling_ : under_way_.front().work->disagreed();
}

Result<void> NcclQueue::state() const {
  const std::lock_guard lock(mutex_);
  if (ended_ || lost_) return ended_ ? *ended_ : *lost_;
  return {};
}

void NcclQueue::wait_while_idle(std::unique_lock<std::mutex>& lock) {
  const auto nothing = [&] { return under_way_.empty() && !calling_ && !ended_ && !lost_; };
  if (!nothing() || Steady::now() - active_ < kStaysAwake) return;
  idle_ = true;
  changed_.wait(lock, [&] { return !nothing(); });
  idle_ = false;
}

void NcclQueue::watch() {
  // Whatever happens, what waits here ends.
  try {
    look_after();
  } catch (...) {  // NOLINT(bugprone-empty-catch): no memory; below
  }
  {
    const std::lock_guard lock(mutex_);
    if (!ended_) set_ended_without_words();
  }
  control_->abort(copy_of(*ended_));
  comms_->end(std::clamp(options_.timeout, kEndsWithinAtLeast, kEndsWithin));
  finish_all();
}

void NcclQueue::look_after() {
  std::unique_lock lock(mutex_);
  auto look = kLookFirst;
  auto asked = Steady::now();
  while (!ended_) {
    wait_while_idle(lock);
    const std::size_t before = under_way_.size();
    lock.unlock();
    progress();
    std::optional<Error> wrong;
    if (Steady::now() - asked >= kAskForFaults) {
      wrong = fault();
      if (!wrong) wrong = forming_fault();
      asked = Steady::now();
    }
    lock.lock();
    if (wrong && !ended_) end_unless_lost(lock, *std::move(wrong));
    if (lost_for_good()) set_ended(*lost_);
    if (std::optional<Error> time = late()) set_ended(*std::move(time));
    if (ended_) return;
    look = under_way_.size() < before ? kLookFirst : std::min(2 * look, kLookLast);
    changed_.wait_for(lock, look, [&] { return ended_.has_value(); });
  }
}

std::optional<Error> NcclQueue::forming_fault() {
  std::unique_lock lock(mutex_);
  if (!forming_due_) return {};
  const Steady::time_point due = *forming_due_;
  const auto given_up = given_up_;
  lock.unlock();
  if (given_up)
    if (std::optional<Error> why = given_up()) return why;
  if (Steady::now() < due) return {};
  return Error{Code::kDeadlineExceeded, options_.name + ": not all members came within the timeout"};
}

std::optional<Error> NcclQueue::fault() {
  std::optional<Event> front;
  {
    const std::lock_guard lock(mutex_);
    if (!under_way_.empty()) front = under_way_.front().work->event();
  }
  if (front && !front->done())
    if (auto checked = front->check(); !checked) return with_context(checked.error(), options_.name);
  // NCCL is not asked while somebody is inside: it may be about to change what it would say.
  const std::unique_lock order(calls_, std::try_to_lock);
  if (!order || !comms_->enter()) return {};
  const Inside inside(*comms_);
  int status = kNcclSuccess;
  const int asked = api().async_error(comms_->comm(), &status);
  if (asked != kNcclSuccess) status = asked;
  if (status == kNcclSuccess || status == kNcclInProgress) return {};
  return with_context(api().error_of(status, "NCCL", comms_->comm()), options_.name);
}

std::optional<Error> NcclQueue::late() const {
  const auto now = Steady::now();
  const auto error = [&](const std::string& what, const std::string& why) {
    return Error{Code::kDeadlineExceeded, options_.name + ": " + what + " has not ended within " +
                                              seconds_text(options_.timeout) + ": " + why};
  };
  if (!under_way_.empty()) {
    const Entry& front = under_way_.front();
    if (now < std::max(turn_, front.begun) + options_.timeout) return {};
    const std::string absent = front.work->waits_for_members() ? control_->missing() : "";
    return error(front.text, absent.empty()
                                 ? "a member is stuck, or too slow, or what comes before it on this GPU is"
                                 : "no sign of member " + absent);
  }
  if (calling_ && now >= std::max(turn_, *calling_) + options_.timeout)
    return error(calling_what_,
                 "NCCL has not come back from the call: it waits for a member, or for this GPU");
  return {};
}

void NcclQueue::finish_all() {
  while (telling_.exchange(true)) std::this_thread::yield();
  teller_ = std::this_thread::get_id();
  std::deque<Entry> left;
  {
    const std::lock_guard lock(mutex_);
    finished_ = true;
    left.swap(under_way_);
  }
  for (Entry& entry : left) {
    entry.kept.clear();
    entry.work->finish(copy_of(*ended_));  // which never changes again
  }
  teller_ = std::thread::id();
  telling_ = false;
}

}  // namespace troupe::shards
