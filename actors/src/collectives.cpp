#include <troupe/actors/collectives.hpp>

#include <algorithm>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <utility>

#include <troupe/actors/node.hpp>
#include <troupe/rpc/methods.hpp>
#include <troupe/runtime/host_port.hpp>

namespace troupe {

namespace {

using Key = std::pair<std::string, std::uint64_t>;  // name and round

std::string actor_of(const std::string& node) {
  return node + ".collectives";
}

std::string text_of(const Key& key) {
  return "group '" + key.first + "', round " + std::to_string(key.second);
}

Duration left(std::chrono::steady_clock::time_point due) {
  return std::max<Duration>(due - std::chrono::steady_clock::now(), Duration::zero());
}

/// Addresses are bytes: as elements they pass through any peer as they are.
Tensor as_tensor(const std::string& bytes) {
  return Tensor::of(std::span(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size()));
}

}  // namespace

/// The communicators that live, and the members of each.
struct Collectives::Shared {
  struct Formed {
    std::weak_ptr<shards::Communicator> communicator;
    std::vector<std::string> members;
  };
  std::mutex mutex;
  std::vector<Formed> formed;

  void add(const std::shared_ptr<shards::Communicator>& communicator,
           const std::vector<std::string>& members) {
    const std::lock_guard lock(mutex);
    std::erase_if(formed, [](const Formed& each) { return each.communicator.expired(); });
    formed.push_back({communicator, members});
  }
  void gone(const std::string& node, const std::string& why) {
    std::vector<std::shared_ptr<shards::Communicator>> ended;
    {
      const std::lock_guard lock(mutex);
      for (const Formed& each : formed)
        if (std::find(each.members.begin(), each.members.end(), node) != each.members.end())
          if (auto communicator = each.communicator.lock()) ended.push_back(std::move(communicator));
    }
    for (const auto& communicator : ended)
      communicator->abort({Code::kUnavailable, communicator->name() + ": member '" + node + "' " + why});
  }
};

/// Where this node's sockets are, for the others. Loop only.
class Collectives::AddressBook {
 public:
  explicit AddressBook(Node& node) : node_(node) {}

  static void methods(rpc::Methods<AddressBook>& methods) {
    methods.add("offer", &AddressBook::offer);
    methods.add("address", &AddressBook::address);
  }

  /// This node itself has sockets for a group.
  Result<void> offer(const rpc::CallContext& context, const std::string& name, std::uint64_t round,
                     const std::vector<std::string>& members, const Tensor& bytes) {
    if (context.session != rpc::kLocal)
      return Error{Code::kPermissionDenied, "only a node itself says where its sockets are"};
    const auto data = bytes.as<const std::uint8_t>();
    const Key key{name, round};
    if (!offers_.contains(key)) order_.push_back(key);
    offers_[key] = {members, std::string(data.begin(), data.end())};
    // Whoever is still to ask for one of so long ago will not form that group.
    if (order_.size() > kMostOffers) {
      offers_.erase(order_.front());
      order_.pop_front();
    }
    const auto waiting = waiting_.extract(key);
    if (waiting.empty()) return {};
    for (auto& asked : waiting.mapped()) asked.second.promise.set(answer(key, asked.second.members));
    return {};
  }

  /// Its address for a group, as soon as it has one.
  rpc::Future<Tensor> address(const rpc::CallContext& context, const std::string& name, std::uint64_t round,
                              const std::vector<std::string>& members) {
    const Key key{name, round};
    rpc::Promise<Tensor> promise(node_.loop(), context.deadline);
    auto future = promise.future();
    if (offers_.contains(key)) {
      promise.set(answer(key, members));
      return future;
    }
    const std::uint64_t number = ++asked_;
    promise.on_cancel([this, key, number] { forget(key, number); });
    waiting_[key].emplace(number, Asked{members, std::move(promise)});
    return future;
  }

 private:
  static constexpr std::size_t kMostOffers = 256;
  struct Offer {
    std::vector<std::string> members;
    std::string bytes;
  };
  struct Asked {
    std::vector<std::string> members;
    rpc::Promise<Tensor> promise;
  };

  Result<Tensor> answer(const Key& key, const std::vector<std::string>& members) const {
    const Offer& offer = offers_.at(key);
    if (offer.members == members) return as_tensor(offer.bytes);
    return Error{Code::kInvalidArgument,
                 text_of(key) + ": node '" + node_.name() + "' forms it with other members"};
  }
  void forget(const Key& key, std::uint64_t number) {
    const auto found = waiting_.find(key);
    if (found == waiting_.end()) return;
    const auto gone = found->second.extract(number);  // dropped last: that may call others
    if (found->second.empty()) waiting_.erase(found);
  }

  Node& node_;
  std::map<Key, Offer> offers_;
  std::deque<Key> order_;
  std::map<Key, std::map<std::uint64_t, Asked>> waiting_;
  std::uint64_t asked_ = 0;
};

Result<std::unique_ptr<Collectives>> Collectives::on(Node& node) {
  std::unique_ptr<Collectives> made(new Collectives(node));
  Result<void> spawned = node.spawn<AddressBook>(actor_of(node.name()), std::ref(node));
  if (!spawned) return std::move(spawned).error();
  made->watch_ = node.watch([shared = made->shared_](const MembershipChange& change) {
    if (change.event == MembershipEvent::kDied)
      shared->gone(change.member.name, "has died: " + change.reason);
    if (change.event == MembershipEvent::kLeft) shared->gone(change.member.name, "has left");
  });
  return made;
}

Collectives::Collectives(Node& node) : node_(node), shared_(std::make_shared<Shared>()) {}

Collectives::~Collectives() {
  if (watch_ == 0) return;
  node_.unwatch(watch_);
  (void)node_.kill(actor_of(node_.name()));
}

Result<std::shared_ptr<shards::Communicator>> Collectives::form(const CollectiveGroup& group,
                                                                const Options& options) {
  const Key key{group.name, group.round};
  const auto self = std::find(group.members.begin(), group.members.end(), node_.name());
  if (self == group.members.end())
    return Error{Code::kInvalidArgument,
                 text_of(key) + ": node '" + node_.name() + "' is not among its members"};
  if (std::set<std::string>(group.members.begin(), group.members.end()).size() != group.members.size())
    return Error{Code::kInvalidArgument, text_of(key) + ": a member comes twice"};

  shards::CommunicatorOptions own;
  own.name = group.name;
  own.rank = static_cast<int>(self - group.members.begin());
  own.size = static_cast<int>(group.members.size());
  own.timeout = options.timeout;
  own.check_calls = options.check_calls;
  own.address = options.address;
  if (own.address.empty()) {
    const Result<HostPort> at = parse_host_port(node_.address());
    own.address = at ? at->host : "127.0.0.1";  // a path of this machine: the others are on it
  }

  const auto exchange = [&](const std::string& mine, Duration timeout) -> Result<std::vector<std::string>> {
    const auto due = std::chrono::steady_clock::now() + timeout;
    Result<void> offered = node_.rpc_sync_with<void>({.timeout = timeout}, actor_of(node_.name()), "offer",
                                                     group.name, group.round, group.members, as_tensor(mine));
    if (!offered) return std::move(offered).error();
    std::vector<std::optional<rpc::Future<Tensor>>> asked(group.members.size());
    for (std::size_t i = 0; i < asked.size(); ++i) {
      if (static_cast<int>(i) == own.rank) continue;
      const std::string actor = actor_of(group.members[i]);
      if (Result<void> there = node_.wait_for_actor(actor, left(due)); !there)
        return with_context(std::move(there).error(), text_of(key) + ": member '" + group.members[i] + "'");
      asked[i] = node_.rpc_async_with<Tensor>({.timeout = left(due)}, actor, "address", group.name,
                                              group.round, group.members);
    }
    std::vector<std::string> all(group.members.size());
    for (std::size_t i = 0; i < asked.size(); ++i) {
      if (!asked[i]) continue;
      const Result<Tensor> theirs = asked[i]->get();
      if (!theirs) return with_context(theirs.error(), text_of(key) + ": member '" + group.members[i] + "'");
      const auto bytes = theirs->as<const std::uint8_t>();
      all[i].assign(bytes.begin(), bytes.end());
    }
    return all;
  };

  try {
    Result<std::unique_ptr<shards::Communicator>> made =
        shards::make_gloo_communicator(std::move(own), exchange);
    if (!made) return std::move(made).error();
    std::shared_ptr<shards::Communicator> communicator = std::move(*made);
    shared_->add(communicator, group.members);
    // Who went before the watcher could know of the group.
    const std::vector<Member> there = node_.membership().members;
    for (const std::string& member : group.members)
      if (std::none_of(there.begin(), there.end(), [&](const Member& each) { return each.name == member; }))
        shared_->gone(member, "has gone");
    return communicator;
  } catch (const BadTensor& wrong) {
    return wrong.error();
  }
}

}  // namespace troupe
