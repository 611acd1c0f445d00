#include "control/dialling.hpp"

#include <sys/epoll.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include <troupe/runtime/config.hpp>

namespace troupe::rpc {

namespace {
/// RFC 8305's "connection attempt delay".
constexpr Duration kNextAfter = std::chrono::milliseconds(250);
/// More than any sensible name has.
constexpr std::size_t kMostAddresses = 16;
}  // namespace

class Dialling::Attempt final : public FdHandler {
 public:
  Attempt(Dialling& owner, const SocketAddress& to, UniqueFd fd)
      : address(to), owner_(owner), fd_(std::move(fd)) {}
  ~Attempt() override {
    if (fd_) owner_.loop_.unwatch(fd_.get());
  }
  Attempt(const Attempt&) = delete;
  Attempt& operator=(const Attempt&) = delete;

  Result<void> start() { return owner_.loop_.watch(fd_.get(), EPOLLOUT, *this); }
  void on_ready(std::uint32_t) override { owner_.on_attempt(*this); }
  int fd() const { return fd_.get(); }
  UniqueFd take_fd() {
    owner_.loop_.unwatch(fd_.get());
    return std::move(fd_);
  }

  const SocketAddress address;

 private:
  Dialling& owner_;
  UniqueFd fd_;
};

Dialling::Dialling(Loop& loop, Resolver& resolver, Destination to, const DialRules& rules, OnDone on_done)
    : loop_(loop),
      resolver_(resolver),
      to_(std::move(to)),
      rules_(rules),
      on_done_(std::move(on_done)),
      next_timer_([this] { try_next(); }),
      deadline_([this] { out_of_time(); }),
      over_([this] {
        const OnDone done = std::move(on_done_);
        done(why_not());
      }) {}

Dialling::~Dialling() {
  if (lookup_ != 0) resolver_.forget(lookup_);
}

void Dialling::start() {
  loop_.schedule_after(deadline_, rules_.patience);
  if (!to_.addresses.empty()) return on_found(to_.addresses);
  lookup_ = resolver_.look_up(to_.name, [this](Result<std::vector<SocketAddress>> found) {
    lookup_ = 0;
    on_found(std::move(found));
  });
}

void Dialling::on_found(Result<std::vector<SocketAddress>> found) {
  if (!found) {
    failures_.push_back(std::move(found).error());
    return end_if_over();
  }
  addresses_ = *std::move(found);
  if (addresses_.size() > kMostAddresses) addresses_.resize(kMostAddresses);
  if (rules_.this_machine_only) {
    const std::string first = addresses_.front().to_string();
    std::erase_if(addresses_, [](const SocketAddress& address) { return !address.is_local(); });
    if (addresses_.empty())
      failures_.push_back(
          {Code::kFailedPrecondition,
           "'" + to_.text + "' (" + first +
               ") is on another machine, so a shared secret is needed: set node.secret_file, or "
               "TROUPE_NODE_SECRET, to the same on all nodes"});
  }
  try_next();
}

void Dialling::try_next() {
  while (next_ < addresses_.size()) {
    const SocketAddress& address = addresses_[next_++];
    auto fd = connecting_socket(address);
    if (!fd) {
      failures_.push_back(fd.error());
      continue;
    }
    attempts_.emplace_back(*this, address, std::move(*fd));
    if (auto started = attempts_.back().start(); !started) {
      attempts_.pop_back();
      failures_.push_back(started.error());
      continue;
    }
    if (next_ < addresses_.size()) loop_.schedule_after(next_timer_, kNextAfter);
    return;
  }
  end_if_over();
}

void Dialling::on_attempt(Attempt& attempt) {
  const SocketAddress address = attempt.address;
  auto connected = connect_result(attempt.fd(), address);
  UniqueFd fd = attempt.take_fd();
  std::erase_if(attempts_, [&](const Attempt& other) { return &other == &attempt; });
  if (!connected) {
    failures_.push_back(connected.error());
    return try_next();
  }
  attempts_.clear();
  const OnDone done = std::move(on_done_);
  done(std::move(fd));
}

void Dialling::out_of_time() {
  const std::string time = troupe::to_string(rules_.patience);
  if (lookup_ != 0) {
    resolver_.forget(std::exchange(lookup_, 0));
    failures_.push_back(
        {Code::kUnavailable, "the name '" + to_.name.host + "' was not found within " + time});
  }
  for (const Attempt& attempt : attempts_) failures_.push_back(no_answer(attempt.address, time));
  attempts_.clear();
  next_ = addresses_.size();
  end_if_over();
}

void Dialling::end_if_over() {
  if (lookup_ != 0 || !attempts_.empty() || next_ < addresses_.size()) return;
  loop_.cancel(next_timer_);
  loop_.cancel(deadline_);
  loop_.schedule(over_, loop_.clock().now());
}

Error Dialling::why_not() const {
  Error all = failures_.empty() ? Error{Code::kUnavailable, "there is no address"} : failures_.front();
  for (std::size_t i = 1; i < failures_.size(); ++i) {
    all.message += "; " + failures_[i].message;
    // What only this side can mend is told of if nothing else has been found out.
    if (failures_[i].code == Code::kUnavailable) all.code = Code::kUnavailable;
  }
  if (failures_.size() > 1) all.message = "'" + to_.text + "': " + all.message;
  return all;
}

}  // namespace troupe::rpc
