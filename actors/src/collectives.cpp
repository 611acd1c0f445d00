#include <troupe/actors/collectives.hpp>

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <utility>

#include <troupe/actors/node.hpp>
#include <troupe/rpc/gather.hpp>
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

/// The communicators that live or are being formed, and the members of each.
struct Collectives::Shared {
  struct Group {
    std::vector<std::string> members;
    std::weak_ptr<shards::Communicator> communicator;
    std::optional<Error> given_up;  ///< while it is formed
  };
  std::mutex mutex;
  std::vector<std::shared_ptr<Group>> groups;
  /// Ended by gone(), whose last owner it may have become: destroying them takes a while, which the loop has
  /// not.
  std::vector<std::shared_ptr<shards::Communicator>> ended;

  std::shared_ptr<Group> add(const std::vector<std::string>& members) {
    auto group = std::make_shared<Group>();
    group->members = members;
    std::vector<std::shared_ptr<shards::Communicator>> dropped;
    const std::lock_guard lock(mutex);
    dropped.swap(ended);
    // Of the others only this owner is left when neither a communicator nor form() has them.
    std::erase_if(groups,
                  [](const auto& each) { return each.use_count() == 1 && each->communicator.expired(); });
    groups.push_back(group);
    return group;
  }
  void formed(Group& group, const std::shared_ptr<shards::Communicator>& communicator) {
    const std::lock_guard lock(mutex);
    group.communicator = communicator;
    if (group.given_up) communicator->abort(*group.given_up);
  }
  std::optional<Error> given_up(const Group& group) {
    const std::lock_guard lock(mutex);
    return group.given_up;
  }
  void gone(const std::string& node, const std::string& why) {
    const std::lock_guard lock(mutex);
    for (const auto& group : groups) {
      if (std::find(group->members.begin(), group->members.end(), node) == group->members.end()) continue;
      Error error{Code::kUnavailable, "member '" + node + "' " + why};
      if (auto communicator = group->communicator.lock()) {
        communicator->abort(std::move(error));
        ended.push_back(std::move(communicator));
      } else {
        group->given_up = std::move(error);
      }
    }
  }
};

/// Where this node's sockets are, for the others. Loop only.
class Collectives::AddressBook : public std::enable_shared_from_this<AddressBook> {
 public:
  explicit AddressBook(Node& node) : node_(node) {}

  static void methods(rpc::Methods<AddressBook>& methods) {
    methods.add("offer", &AddressBook::offer);
    methods.add("withdraw", &AddressBook::withdraw);
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
    asking_ -= waiting.mapped().size();
    for (auto& asked : waiting.mapped()) asked.second.promise.set(answer(key, asked.second.members));
    return {};
  }

  /// It has none any more.
  Result<void> withdraw(const rpc::CallContext& context, const std::string& name, std::uint64_t round) {
    if (context.session != rpc::kLocal)
      return Error{Code::kPermissionDenied, "only a node itself says where its sockets are"};
    const Key key{name, round};
    offers_.erase(key);
    std::erase(order_, key);
    return {};
  }

  /// Its address for a group, as soon as it has one.
  rpc::Future<Tensor> address(const rpc::CallContext& context, const std::string& name, std::uint64_t round,
                              const std::vector<std::string>& members) {
    const bool short_names = std::all_of(members.begin(), members.end(),
                                         [](const std::string& each) { return each.size() <= kLongestName; });
    if (members.size() > kMostMembers || name.size() > kLongestName || !short_names)
      return refused({Code::kInvalidArgument, "no group has so many members, or names so long"});
    if (asking_ >= kMostAsking)
      return refused(
          {Code::kResourceExhausted, std::to_string(kMostAsking) + " wait here for addresses already"});
    const Key key{name, round};
    rpc::Promise<Tensor> promise(node_.loop(), context.deadline);
    auto future = promise.future();
    if (offers_.contains(key)) {
      promise.set(answer(key, members));
      return future;
    }
    const std::uint64_t number = ++asked_;
    // The call may be all that still keeps this object.
    promise.on_cancel([weak = weak_from_this(), key, number] {
      if (const auto self = weak.lock()) self->forget(key, number);
    });
    waiting_[key].emplace(number, Asked{members, std::move(promise)});
    ++asking_;
    return future;
  }

 private:
  static constexpr std::size_t kMostOffers = 256;
  static constexpr std::size_t kMostAsking = 16'384;
  static constexpr std::size_t kMostMembers = 4096;
  static constexpr std::size_t kLongestName = 1024;
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
  rpc::Future<Tensor> refused(Error error) const {
    rpc::Promise<Tensor> promise(node_.loop());
    promise.set(std::move(error));
    return promise.future();
  }
  void forget(const Key& key, std::uint64_t number) {
    const auto found = waiting_.find(key);
    if (found == waiting_.end()) return;
    const auto gone = found->second.extract(number);  // dropped last: that may call others
    asking_ -= gone.empty() ? 0 : 1;
    if (found->second.empty()) waiting_.erase(found);
  }

  Node& node_;
  std::map<Key, Offer> offers_;
  std::deque<Key> order_;
  std::map<Key, std::map<std::uint64_t, Asked>> waiting_;
  std::uint64_t asked_ = 0;
  std::size_t asking_ = 0;  // in waiting_
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
  shared_->add({});  // and drops what has ended
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
  const int own_rank = own.rank;
  own.timeout = std::min<Duration>(options.timeout, std::chrono::hours(24 * 365));
  own.check_calls = options.check_calls;
  own.address = options.address;
  if (own.address.empty()) {
    const Result<HostPort> at = parse_host_port(node_.address());
    own.address = at ? at->host : "127.0.0.1";  // a path of this machine: the others are on it
  }

  const std::shared_ptr<Shared::Group> entry = shared_->add(group.members);
  own.given_up = [shared = shared_, entry] { return shared->given_up(*entry); };
  bool offered = false;
  const auto exchange = [&](const std::string& mine, Duration timeout) {
    offered = true;
    return tell_addresses(group, mine, timeout, own_rank, [&] { return shared_->given_up(*entry); });
  };
  Result<std::unique_ptr<shards::Communicator>> made =
      options.gpu
          ? shards::make_nccl_communicator(std::move(own), {*options.gpu, options.nccl_library}, exchange)
          : shards::make_gloo_communicator(std::move(own), exchange);
  if (!made) {
    // Who comes later must not find sockets that are closed.
    if (offered) (void)node_.rpc_sync<void>(actor_of(node_.name()), "withdraw", group.name, group.round);
    return std::move(made).error();
  }
  std::shared_ptr<shards::Communicator> communicator = std::move(*made);
  shared_->formed(*entry, communicator);
  return communicator;
}

Result<std::vector<std::string>> Collectives::tell_addresses(
    const CollectiveGroup& group, const std::string& mine, Duration timeout, int rank,
    const std::function<std::optional<Error>()>& given_up) {
  const auto due = std::chrono::steady_clock::now() + timeout;
  const auto about = [](const CollectiveGroup& of, Error error, std::size_t member) {
    return with_context(std::move(error),
                        text_of({of.name, of.round}) + ": member '" + of.members[member] + "'");
  };
  Result<void> offered = node_.rpc_sync_with<void>({.timeout = timeout}, actor_of(node_.name()), "offer",
                                                   group.name, group.round, group.members, as_tensor(mine));
  if (!offered) return std::move(offered).error();
  // Whoever does not come must not hide that another one has died.
  constexpr Duration kLook = std::chrono::milliseconds(100);
  for (std::size_t i = 0; i < group.members.size(); ++i) {
    if (static_cast<int>(i) == rank) continue;
    for (;;) {
      if (std::optional<Error> why = given_up()) return std::move(*why);
      Result<void> there = node_.wait_for_actor(actor_of(group.members[i]), std::min(left(due), kLook));
      if (there) break;
      if (there.error().code != Code::kDeadlineExceeded || left(due) == Duration::zero())
        return about(group, std::move(there).error(), i);
    }
  }
  std::vector<rpc::Future<Tensor>> asked;
  std::vector<std::size_t> of;
  for (std::size_t i = 0; i < group.members.size(); ++i) {
    if (static_cast<int>(i) == rank) continue;
    of.push_back(i);
    asked.push_back(node_
                        .rpc_async_with<Tensor>({.timeout = left(due)}, actor_of(group.members[i]), "address",
                                                group.name, group.round, group.members)
                        .then([about, group, i](Result<Tensor> theirs) -> Result<Tensor> {
                          if (!theirs) return about(group, std::move(theirs).error(), i);
                          return theirs;
                        }));
  }
  const Result<std::vector<Tensor>> addresses = rpc::when_all(node_.loop(), std::move(asked)).get();
  if (!addresses) return addresses.error();
  std::vector<std::string> all(group.members.size());
  for (std::size_t k = 0; k < of.size(); ++k) {
    const Tensor& theirs = (*addresses)[k];
    if (theirs.dtype() != DType::kUInt8 || !theirs.is_contiguous())
      return about(group, {Code::kInvalidArgument, "its address is no bytes but " + theirs.to_string()},
                   of[k]);
    const auto bytes = theirs.as<const std::uint8_t>();
    all[of[k]].assign(bytes.begin(), bytes.end());
  }
  return all;
}

}  // namespace troupe
