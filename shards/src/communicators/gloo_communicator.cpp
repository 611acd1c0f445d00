// The thread that calls Gloo, the one that looks at the time, and how a communicator ends.
#include "communicators/gloo_communicator.hpp"

#include <arpa/inet.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <new>
#include <utility>

namespace troupe::shards {
namespace {

using Steady = std::chrono::steady_clock;

/// Gloo would ask the resolver for anything else, and wait for it.
bool is_number(const std::string& address) {
  unsigned char bytes[sizeof(in6_addr)];
  return ::inet_pton(AF_INET, address.c_str(), bytes) == 1 ||
         ::inet_pton(AF_INET6, address.substr(0, address.find('%')).c_str(), bytes) == 1;
}

/// Ends the connecting of a mesh when its time is over, or when the options say so.
class FormingWatch {
 public:
  FormingWatch(const CommunicatorOptions& options, Steady::time_point due)
      : name_(options.name), given_up_(options.given_up), due_(due) {}
  ~FormingWatch() { (void)stop(); }
  FormingWatch(const FormingWatch&) = delete;
  FormingWatch& operator=(const FormingWatch&) = delete;

  void start(std::shared_ptr<GlooMesh> mesh) {
    thread_ = std::thread([this, mesh = std::move(mesh)] { watch(*mesh); });
  }
  /// Why it was ended, if it was.
  std::optional<Error> stop() {
    {
      const std::lock_guard lock(mutex_);
      stopped_ = true;
    }
    changed_.notify_all();
    if (thread_.joinable()) thread_.join();
    return ended_;
  }

 private:
  void watch(GlooMesh& mesh) {
    constexpr auto kLook = std::chrono::milliseconds(50);
    std::unique_lock lock(mutex_);
    while (!changed_.wait_until(lock, std::min(due_, Steady::now() + kLook), [&] { return stopped_; })) {
      if (given_up_) ended_ = given_up_();
      if (!ended_ && Steady::now() >= due_)
        ended_ = Error{Code::kDeadlineExceeded, name_ + ": not all members came within the timeout"};
      if (!ended_) continue;
      lock.unlock();
      return mesh.abort();
    }
  }

  const std::string name_;
  const std::function<std::optional<Error>()> given_up_;
  const Steady::time_point due_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopped_ = false;
  std::optional<Error> ended_;
  std::thread thread_;
};

/// What Gloo threw, without the place in its sources.
std::string text_of(const std::exception& error) {
  const std::string text = error.what();
  const std::size_t place = text.starts_with('[') ? text.find("] ") : std::string::npos;
  return place == std::string::npos ? text : text.substr(place + 2);
}

}  // namespace

GlooCommunicator::GlooCommunicator(CommunicatorOptions options, std::shared_ptr<GlooMesh> mesh)
    : options_(std::move(options)),
      rules_(options_.name, options_.rank, options_.size, std::nullopt),
      mesh_(std::move(mesh)),
      heard_(static_cast<std::size_t>(options_.size)) {
  const NoSigpipe inherited;
  try {
    for (void (GlooCommunicator::*body)() :
         {&GlooCommunicator::watch_time, &GlooCommunicator::work, &GlooCommunicator::watch_members})
      threads_.emplace_back(body, this);
  } catch (...) {
    close();
    throw;
  }
}

GlooCommunicator::~GlooCommunicator() {
  close();
}

void GlooCommunicator::close() {
  end({Code::kCancelled, options_.name + " has been destroyed"});
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  changed_.notify_all();
  if (threads_.empty()) mesh_->abort();
  for (std::thread& thread : threads_) thread.join();
}

Work GlooCommunicator::begin(Result<DescribedCall> call, UniqueFunction<Result<void>()> run, bool timed) {
  if (!call) return ended_work(call.error());
  Job job{*std::move(call), std::move(run), std::make_shared<Work::State>(), timed};
  Work handle(job.work);
  Result<void> refused;
  {
    const std::lock_guard lock(mutex_);
    if (ended_) {
      refused = *ended_;
    } else if (waiting_.size() >= options_.max_waiting) {
      refused = Error{Code::kResourceExhausted, options_.name + ": " + std::to_string(options_.max_waiting) +
                                                    " collectives wait already: wait for some"};
    } else {
      waiting_.push_back(std::move(job));
      changed_.notify_all();
      return handle;
    }
  }
  job.work->finish(std::move(refused));
  return handle;
}

void GlooCommunicator::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return closing_ || !waiting_.empty(); });
    if (waiting_.empty()) return;
    Job job = std::move(waiting_.front());
    waiting_.pop_front();
    Result<void> ended;
    if (ended_) {
      ended = *ended_;
    } else {
      if (job.timed) due_ = Steady::now() + options_.timeout;
      running_ = job.text;
      heard_.assign(heard_.size(), !job.call || !options_.check_calls);
      lock.unlock();
      ended = run(job);
      if (!ended) end(ended.error());
      lock.lock();
      due_.reset();
      if (!ended) ended = *ended_;  // what came first: that its time was over, for one
    }
    lock.unlock();
    std::shared_ptr<Work::State> work = std::move(job.work);
    job = {};  // the tensors are given back before anybody is told
    work->finish(std::move(ended));
    lock.lock();
  }
}

Result<void> GlooCommunicator::run(Job& job) {
  try {
    if (job.call) {
      job.call->number = ++calls_;
      if (options_.check_calls)
        if (Result<void> agreed = agree(job); !agreed) return agreed;
    }
    return job.run();
  } catch (const std::bad_alloc&) {
    return Error{Code::kResourceExhausted, options_.name + ", " + job.text + ": no memory for it"};
  } catch (const std::exception& error) {
    return Error{Code::kUnavailable, options_.name + ", " + job.text + ": " + text_of(error)};
  }
}

Result<void> GlooCommunicator::agree(const Job& job) {
  const auto members = static_cast<std::size_t>(size());
  std::vector<Call> mine(members, *job.call);
  std::vector<Call> theirs(members);
  for (std::size_t i = 0; i < members; ++i) {
    mine[i].sends = job.sends.empty() ? 0 : job.sends[i];
    mine[i].takes = job.takes.empty() ? 0 : job.takes[i];
  }
  std::vector<GlooMesh::Part> parts;
  for (int i = 0; i < size(); ++i)
    if (i != rank()) parts.push_back({i, static_cast<std::size_t>(i) * sizeof(Call), sizeof(Call)});
  mesh_->exchange(own_slot(1, 0), std::as_writable_bytes(std::span(mine)), parts,
                  std::as_writable_bytes(std::span(theirs)), parts, [&](int who) {
                    const std::lock_guard lock(mutex_);
                    heard_[static_cast<std::size_t>(who)] = true;
                  });
  const auto differs = [&](const Call& a, const Call& b) {
    return a.number != b.number || a.what != b.what || a.op != b.op || a.dtype != b.dtype ||
           a.root != b.root || a.elements != b.elements || a.counts != b.counts || a.sends != b.takes ||
           a.takes != b.sends;
  };
  for (int i = 0; i < size(); ++i) {
    const Call& other = theirs[static_cast<std::size_t>(i)];
    if (i == rank() || !differs(mine[static_cast<std::size_t>(i)], other)) continue;
    const bool known = other.what < kCallNames.size();
    return Error{
        Code::kInvalidArgument,
        options_.name + ": the members do not do the same: member " + std::to_string(rank()) +
            "'s collective " + std::to_string(job.call->number) + " is " + job.text + ", member " +
            std::to_string(i) + "'s " + std::to_string(other.number) + " is " +
            (known ? kCallNames[other.what] : "unknown") + " of " + std::to_string(other.elements) +
            " elements" +
            (known && other.what == job.call->what ? ": dtypes, operations, roots or counts differ" : "")};
  }
  return {};
}

std::string GlooCommunicator::missing() const {
  const std::lock_guard lock(mutex_);
  return missing_member();
}

std::string GlooCommunicator::missing_member() const {
  for (std::size_t i = 0; i < heard_.size(); ++i)
    if (!heard_[i] && i != static_cast<std::size_t>(rank())) return std::to_string(i);
  return "";
}

void GlooCommunicator::watch_members() {
  if (size() == 1) return;
  const int member = mesh_->wait_for_loss();
  const std::string who = member < 0 ? "a member" : "member " + std::to_string(member);
  end({Code::kUnavailable,
       options_.name + ": the connection to " + who + " has been closed: it is dead, or has left the group"});
}

void GlooCommunicator::watch_time() {
  std::unique_lock lock(mutex_);
  while (!ended_) {
    // What begins while this waits cannot be late before this wakes up.
    changed_.wait_until(lock, due_ ? *due_ : Steady::now() + options_.timeout);
    if (!due_ || ended_ || Steady::now() < *due_) continue;
    const std::string missing = missing_member();
    ended_ = Error{Code::kDeadlineExceeded,
                   options_.name + ": " + running_ + " has not ended within " +
                       std::to_string(std::chrono::duration<double>(options_.timeout).count()) + " s: " +
                       (missing.empty() ? "a member is stuck, or too slow" : "no sign of member " + missing)};
  }
  auto told = std::move(told_of_end_);
  const Error why = *ended_;
  lock.unlock();
  if (told) told(why);
  mesh_->abort();  // waits for Gloo's thread: so whoever ends the group leaves it to this one
}

void GlooCommunicator::end(Error why) {
  {
    const std::lock_guard lock(mutex_);
    if (ended_) return;
    ended_ = std::move(why);
  }
  changed_.notify_all();
}

void GlooCommunicator::when_ended(UniqueFunction<void(const Error& why)> told) {
  std::unique_lock lock(mutex_);
  if (!ended_) {
    told_of_end_ = std::move(told);
    return;
  }
  const Error why = *ended_;
  lock.unlock();
  told(why);
}

void GlooCommunicator::abort(Error why) {
  end(std::move(why));
}

Result<void> GlooCommunicator::state() const {
  const std::lock_guard lock(mutex_);
  if (ended_) return *ended_;
  return {};
}

Result<std::unique_ptr<Communicator>> make_gloo_communicator(CommunicatorOptions options,
                                                             AddressExchange exchange) {
  auto made = make_gloo(std::move(options), std::move(exchange));
  if (!made) return std::move(made).error();
  return std::unique_ptr<Communicator>(*std::move(made));
}

Result<std::unique_ptr<GlooCommunicator>> make_gloo(CommunicatorOptions options, AddressExchange exchange) {
  if (auto fault = fault_of(options)) return *std::move(fault);
  if (!is_number(options.address))
    return Error{Code::kInvalidArgument,
                 options.name + ": '" + options.address +
                     "' is no address in numbers: give one of this machine's that the other "
                     "members can reach"};
  options.timeout = std::min<Duration>(options.timeout, kLongestTimeout);
  const auto timeout = std::chrono::ceil<std::chrono::milliseconds>(options.timeout);
  const auto due = Steady::now() + timeout;
  const auto left = [&] { return std::max<Duration>(due - Steady::now(), Duration::zero()); };
  std::shared_ptr<GlooMesh> mesh;
  FormingWatch watch(options, due);
  const auto failed = [&](const std::string& what) {
    if (std::optional<Error> given_up = watch.stop()) return *given_up;
    return Error{Code::kUnavailable, options.name + ": its members do not come together: " + what};
  };
  try {
    const NoSigpipe no_sigpipe;
    mesh = std::make_shared<GlooMesh>(options.rank, options.size, options.address, timeout);
    Result<std::vector<std::string>> all = exchange(mesh->addresses(), left());
    if (!all) return with_context(all.error(), options.name);
    if (all->size() != static_cast<std::size_t>(options.size))
      return Error{Code::kInternal, options.name + ": " + std::to_string(all->size()) + " addresses for " +
                                        std::to_string(options.size) + " members"};
    watch.start(mesh);
    mesh->connect(*all);
    if (std::optional<Error> given_up = watch.stop()) return *given_up;
    return std::make_unique<GlooCommunicator>(std::move(options), mesh);
  } catch (const std::bad_alloc&) {
    (void)watch.stop();
    return Error{Code::kResourceExhausted, options.name + ": no memory to form it"};
  } catch (const std::exception& error) {
    return failed(text_of(error));
  }
}

}  // namespace troupe::shards
