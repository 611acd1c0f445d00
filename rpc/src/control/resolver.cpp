#include "control/resolver.hpp"

#include <netdb.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <deque>
#include <future>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <utility>

#include <troupe/runtime/config.hpp>
#include <troupe/runtime/process.hpp>

namespace troupe::rpc {

namespace {

/// At a time: one whose server of names is silent must not keep all others waiting.
constexpr std::size_t kMostThreads = 4;

struct FreeAddresses {
  void operator()(addrinfo* list) const { ::freeaddrinfo(list); }
};

/// Waits. Port 0.
Result<std::vector<SocketAddress>> ask_system(const std::string& host) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  const int failure = ::getaddrinfo(host.c_str(), nullptr, &hints, &list);
  const int system_failure = errno;
  const std::unique_ptr<addrinfo, FreeAddresses> owner(list);
  std::vector<SocketAddress> found;
  for (const addrinfo* entry = list; failure == 0 && entry; entry = entry->ai_next)
    if (entry->ai_family == AF_INET || entry->ai_family == AF_INET6)
      found.push_back(SocketAddress::of(*entry->ai_addr, entry->ai_addrlen));
  if (!found.empty()) return found;
  const std::string why = failure == EAI_SYSTEM ? std::strerror(system_failure)
                          : failure != 0        ? ::gai_strerror(failure)
                                                : "it has no address";
  return Error{Code::kUnavailable, "the name '" + host + "' cannot be looked up: " + why};
}

Result<std::vector<SocketAddress>> with_port(Result<std::vector<SocketAddress>> found, std::uint16_t port) {
  if (found)
    for (SocketAddress& address : *found) address = address.with_port(port);
  return found;
}

}  // namespace

/// Who waits for what has been asked.
struct Resolver::Waiting {
  struct Asked {
    HostPort name;
    OnFound on_found;
  };
  std::map<Lookup, Asked> asked;
  Lookup last = 0;

  void answer(const std::string& host, const Result<std::vector<SocketAddress>>& found) {
    std::vector<Lookup> whose;
    for (const auto& [lookup, one] : asked)
      if (one.name.host == host) whose.push_back(lookup);
    for (const Lookup lookup : whose) {
      // One that is told may forget another.
      const auto place = asked.find(lookup);
      if (place == asked.end()) continue;
      const Asked one = std::move(asked.extract(place).mapped());
      one.on_found(with_port(found, one.name.port));
    }
  }
};

/// What threads are to do.
struct Resolver::Desk {
  std::mutex mutex;
  Loop* loop = nullptr;  // null: nobody wants to know any more
  std::weak_ptr<Waiting> waiting;
  std::deque<std::string> hosts;
  std::set<std::string> under_way;  // or in `hosts`: asked once, whoever waits
  std::size_t threads = 0;

  static void work(const std::shared_ptr<Desk>& self) {
    std::unique_lock lock(self->mutex);
    while (self->loop && !self->hosts.empty()) {
      const std::string host = std::move(self->hosts.front());
      self->hosts.pop_front();
      lock.unlock();
      auto found = ask_system(host);
      lock.lock();
      self->under_way.erase(host);
      if (self->loop)
        self->loop->post([waiting = self->waiting, host, found = std::move(found)] {
          if (const auto still = waiting.lock()) still->answer(host, found);
        });
    }
    --self->threads;
  }
};

Resolver::Resolver(Loop& loop) : desk_(std::make_shared<Desk>()), waiting_(std::make_shared<Waiting>()) {
  desk_->loop = &loop;
  desk_->waiting = waiting_;
}

Resolver::~Resolver() {
  const std::lock_guard lock(desk_->mutex);
  desk_->loop = nullptr;
}

Resolver::Lookup Resolver::look_up(const HostPort& name, OnFound on_found) {
  const Lookup lookup = ++waiting_->last;
  waiting_->asked.emplace(lookup, Waiting::Asked{name, std::move(on_found)});
  const std::lock_guard lock(desk_->mutex);
  if (!desk_->under_way.insert(name.host).second) return lookup;
  desk_->hosts.push_back(name.host);
  if (desk_->threads >= kMostThreads) return lookup;
  auto thread = start_thread([desk = desk_] { Desk::work(desk); });
  if (thread) {
    thread->detach();
    ++desk_->threads;
    return lookup;
  }
  // One that is at work takes it up; if there is none, nobody will.
  if (desk_->threads > 0) return lookup;
  desk_->hosts.clear();
  desk_->under_way.clear();
  desk_->loop->post([waiting = desk_->waiting, host = name.host, why = thread.error()] {
    if (const auto still = waiting.lock())
      still->answer(host, with_context(why, "looking '" + host + "' up"));
  });
  return lookup;
}

void Resolver::forget(Lookup lookup) {
  waiting_->asked.erase(lookup);
}

Result<std::vector<SocketAddress>> look_up_and_wait(const HostPort& name, Duration patience) {
  std::promise<Result<std::vector<SocketAddress>>> found;
  auto answer = found.get_future();
  auto thread = start_thread(
      [found = std::move(found), host = name.host]() mutable { found.set_value(ask_system(host)); });
  if (!thread) return with_context(thread.error(), "looking '" + name.host + "' up");
  thread->detach();
  if (answer.wait_for(patience) != std::future_status::ready)
    return Error{Code::kUnavailable,
                 "the name '" + name.host + "' was not found within " + troupe::to_string(patience)};
  return with_port(answer.get(), name.port);
}

}  // namespace troupe::rpc
