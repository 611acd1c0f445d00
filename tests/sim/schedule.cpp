#include "schedule.hpp"

#include <algorithm>
#include <set>

namespace troupe::sim {

using namespace std::chrono_literals;

namespace {

constexpr Duration kTimeout = 300ms;
constexpr Duration kHeartbeat = 250ms;
constexpr Duration kSilence = 1s;
constexpr Duration kPause = 20ms;                           // between two actions, at most
constexpr Duration kShortStall = 100ms;                     // nobody takes a node for dead for it
constexpr Duration kLongStall = kSilence + 3 * kHeartbeat;  // everybody does
constexpr Duration kMargin = kSilence - 2 * kHeartbeat;     // in a stall so long a heartbeat may be missed
/// A connection attempt that met a cut fails after 5 s, and calls wait for it so long.
constexpr Duration kConnecting = 5100ms;
constexpr Duration kRound = 300ms;  // of waiting for the cluster to agree
constexpr int kRounds = 25;
constexpr int kTouched = 5;

}  // namespace

/// Carries out calls, and remembers that it did.
struct Worker {
  Worker(Schedule& in, std::uint64_t own_life, Node& own_node) : run(in), life(own_life), node(own_node) {}
  Schedule& run;
  std::uint64_t life;
  Node& node;

  std::int64_t execute(std::uint64_t call) {
    run.executed(call, life);
    return static_cast<std::int64_t>(call);
  }
  rpc::Future<std::int64_t> relay(std::uint64_t call, const std::string& to) {
    return node.rpc_async<std::int64_t>(to, "execute", call);
  }
  Result<std::int64_t> relay_sync(std::uint64_t call, const std::string& to) {
    const TimePoint begun = run.now();
    auto answer = node.rpc_sync<std::int64_t>(to, "execute", call);
    if (run.now() - begun > 1ms) run.history_.nested_wait({begun, run.now()});
    return answer;
  }
  static void methods(rpc::Methods<Worker>& methods) {
    methods.add("execute", &Worker::execute)
        .add("relay", &Worker::relay)
        .add("relay_sync", &Worker::relay_sync);
  }
};

Schedule::Schedule(std::uint64_t seed, const Plan& plan, caf::actor_system& system)
    : system_(system),
      plan_(plan),
      random_(seed),
      history_(kTimeout),
      world_({.seed = seed, .latency_jitter = 40us}) {
  world_.options().loss = plan_.hidden_loss;
  for (int index = 0; index < plan_.nodes; ++index) start(index);
  for (int action = 0; action < plan_.actions; ++action) {
    world_.run_for(pick_time(kPause));
    act();
  }
  finish();
}

// ---- Small things -------------------------------------------------------------------------------

/// FNV-1a over all numbers, and the time of each.
void Schedule::trace(std::initializer_list<std::uint64_t> words) {
  const auto add = [&](std::uint64_t word) {
    for (int i = 0; i < 8; ++i) hash_ = (hash_ ^ ((word >> (8 * i)) & 0xff)) * 0x100000001b3ULL;
  };
  add(static_cast<std::uint64_t>(now().ns));
  for (const std::uint64_t word : words) add(word);
}

Schedule::Member* Schedule::find(int index) {
  const auto found = members_.find(index);
  return found == members_.end() ? nullptr : &found->second;
}

int Schedule::pick_target() {
  // Also a node that never was.
  if (touched_.empty() || pick(3) != 0) return pick(plan_.nodes + 1);
  return touched_[static_cast<std::size_t>(pick(static_cast<int>(touched_.size())))];
}

// ---- What happens -------------------------------------------------------------------------------

void Schedule::act() {
  const int what = pick(100);
  const int someone = pick(plan_.nodes);
  const int other = 1 + pick(plan_.nodes - 1);  // not the first
  if (what < 42) {
    touched_.push_back(what < 24 || what >= 36 ? other : someone);
    if (touched_.size() > kTouched) touched_.erase(touched_.begin());
  }
  if (what < 8) return start_a_missing_one();
  if (what < 14) return kill(other);
  if (what < 18) return leave(other);
  if (what < 24) return cut(someone, other);
  if (what < 27) return isolate(other);
  if (what < 33) return mend();
  if (what < 38) return stall(what < 36 ? someone : other);
  for (int count = 1 + pick(4); count > 0; --count) call(true);
}

/// Node `index` is named n<index> and has the actor a<index>. Each life has a host of its own.
void Schedule::start(int index) {
  const std::uint64_t life = ++lives_;
  const std::string host = "h" + std::to_string(index) + "." + std::to_string(life);
  NodeOptions options;
  options.name = "n" + std::to_string(index);
  options.registry = index == 0 ? "" : members_.at(0).node->address();
  options.listen = host + ":0";
  options.secret = plan_.secret;
  options.join_timeout = 1s;
  options.default_timeout = kTimeout;
  options.heartbeat_interval = kHeartbeat;
  options.silence_limit = kSilence;
  options.clock = &world_.clock();
  options.own_thread = false;
  options.loop = world_.loop_options();
  options.node_id = life;
  options.system = &system_;
  options.make_transport = [this, host](Loop& loop) -> Result<std::unique_ptr<rpc::Transport>> {
    return world_.make_transport(loop, host);
  };
  auto node = Node::start(std::move(options));
  trace({2, static_cast<std::uint64_t>(index),
         static_cast<std::uint64_t>(node ? Code::kOk : node.error().code)});
  if (!node) {
    // The name of an earlier life that has not been found dead yet.
    if (node.error().code != Code::kAlreadyExists)
      faults_.push_back("n" + std::to_string(index) + " could not start: " + node.error().to_string());
    return;
  }
  auto spawned = (*node)->spawn<Worker>("a" + std::to_string(index), *this, life, **node);
  history_.begin_life(life, index, now());
  trace({3, static_cast<std::uint64_t>(spawned ? Code::kOk : spawned.error().code)});
  if (spawned) history_.has_actor(life);
  members_[index] = {std::move(*node), host, life};
}

void Schedule::start_a_missing_one() {
  std::vector<int> missing;
  for (int index = 0; index < plan_.nodes; ++index)
    if (!find(index)) missing.push_back(index);
  if (!missing.empty()) start(missing[static_cast<std::size_t>(pick(static_cast<int>(missing.size())))]);
}

void Schedule::kill(int index) {
  Member* member = find(index);
  if (!member) return;
  trace({4, member->life});
  history_.end_life(member->life, now());
  world_.kill(member->host);
  members_.erase(index);
}

void Schedule::leave(int index) {
  Member* member = find(index);
  if (!member) return;
  trace({5, member->life});
  history_.end_life(member->life, now());
  members_.erase(index);
}

void Schedule::cut(int a, int b) {
  const Member* first = find(a);
  const Member* second = find(b);
  if (a == b || !first || !second) return;
  cuts_.push_back({first->host, second->host, first->life, second->life, now()});
  world_.set_partition(first->host, second->host, true);
  trace({6, first->life, second->life});
  // Until it is mended it explains all; mend() says what it explains later. A node that loses the first one
  // may be given up by it, and does not come back.
  history_.trouble_between(first->life, second->life, {now(), TimePoint::never()});
  if (a == 0) history_.trouble(second->life, {now(), TimePoint::never()});
  if (b == 0) history_.trouble(first->life, {now(), TimePoint::never()});
}

/// From the first node and some others.
void Schedule::isolate(int index) {
  cut(0, index);
  for (int i = 0; i < 5; ++i) cut(pick(plan_.nodes), index);
}

void Schedule::mend() {
  if (cuts_.empty()) return;
  const auto at = static_cast<std::size_t>(pick(static_cast<int>(cuts_.size())));
  const Cut mended = cuts_[at];
  cuts_.erase(cuts_.begin() + static_cast<std::ptrdiff_t>(at));
  const bool cut_twice = std::any_of(cuts_.begin(), cuts_.end(), [&](const Cut& cut) {
    return std::minmax(cut.life_a, cut.life_b) == std::minmax(mended.life_a, mended.life_b);
  });
  if (cut_twice) return;
  world_.set_partition(mended.host_a, mended.host_b, false);
  trace({7, mended.life_a, mended.life_b});
  history_.end_trouble_between(mended.life_a, mended.life_b, now() + kConnecting);
}

/// SIGSTOP and SIGCONT; all others go on meanwhile.
void Schedule::stall(int index) {
  const Member* member = find(index);
  if (!member) return;
  const bool is_long = index != 0 && pick(3) == 0;
  const TimePoint begun = now();
  trace({8, member->life, is_long});
  world_.stop(member->host);
  stalled_ = member->life;
  for (int count = pick(4); count > 0; --count) call(false);
  world_.run_for(is_long ? kLongStall : pick_time(kShortStall));
  world_.resume(member->host);
  stalled_ = 0;
  const bool forgotten = now() - begun > kMargin;
  const Interval when{begun, forgotten ? TimePoint::never() : now() + 5ms};
  history_.stall(member->life, {begun, now()});
  if (index == 0)
    history_.trouble_everywhere({begun, now() + 5ms});
  else
    history_.trouble(member->life, when);
}

// ---- Calls --------------------------------------------------------------------------------------

/// `may_wait`: also in ways that let virtual time go on until the answer.
void Schedule::call(bool may_wait) {
  const int from = pick(plan_.nodes);
  const CallKind kinds[] = {CallKind::kAsync, CallKind::kAsync,     CallKind::kSync,
                            CallKind::kChain, CallKind::kSyncChain, CallKind::kOneWay};
  Call made;
  made.kind = kinds[pick(6)];
  if (!may_wait && made.kind == CallKind::kSync) made.kind = CallKind::kAsync;
  if (!may_wait && made.kind == CallKind::kSyncChain) made.kind = CallKind::kChain;
  const int last = pick_target();
  const int middle =
      (last + 1 + pick(plan_.nodes)) % (plan_.nodes + 1);  // another, or it would wait for itself
  Member* caller = find(from);
  if (!caller || caller->life == stalled_) return;
  made.caller = caller->life;
  made.begun = now();
  if (made.kind == CallKind::kChain || made.kind == CallKind::kSyncChain) made.path.push_back(middle);
  made.path.push_back(last);
  const CallKind kind = made.kind;
  const std::uint64_t number = history_.begin_call(std::move(made));
  trace({9, number});
  const std::string actor = "a" + std::to_string(last);
  const std::string relay = "a" + std::to_string(middle);
  Node& node = *caller->node;
  const auto end = [this, number](const Result<std::int64_t>& answer) { end_call(number, answer); };
  switch (kind) {
    case CallKind::kAsync:
      return node.rpc_async<std::int64_t>(actor, "execute", number).then(end);
    case CallKind::kSync:
      return end(node.rpc_sync<std::int64_t>(actor, "execute", number));
    case CallKind::kChain:
      return node.rpc_async<std::int64_t>(relay, "relay", number, actor).then(end);
    case CallKind::kSyncChain:
      return node.rpc_async<std::int64_t>(relay, "relay_sync", number, actor).then(end);
    case CallKind::kOneWay:
      if (auto handle = node.actor(actor)) caf::anon_send(*handle, std::string("execute"), number);
  }
}

void Schedule::end_call(std::uint64_t number, const Result<std::int64_t>& answer) {
  Call& call = history_.call(number);
  ++call.ended;
  call.ended_at = now();
  call.code = answer ? Code::kOk : answer.error().code;
  call.value = answer ? *answer : 0;
  trace({10, number, static_cast<std::uint64_t>(call.code)});
}

void Schedule::executed(std::uint64_t number, std::uint64_t life) {
  Call& call = history_.call(number);
  ++call.executed;
  call.executed_by = life;
  trace({11, number, life});
}

// ---- The end ------------------------------------------------------------------------------------

void Schedule::finish() {
  while (!cuts_.empty()) mend();
  world_.run_for(kTimeout + 10ms);
  for (std::string& fault : history_.faults(now())) faults_.push_back(std::move(fault));
  for (int round = 0; round < kRounds && !agreed(); ++round) world_.run_for(kRound);
  check_members();
  // All at once: fifty farewells would cost as much as the schedule.
  for (const auto& [index, member] : members_) world_.kill(member.host);
  for (int index = plan_.nodes - 1; index >= 0; --index) members_.erase(index);
}

/// Whether those whom the first node knows are those who still belong to it, and all of these know the same.
bool Schedule::agreed() {
  const Membership truth = members_.at(0).node->membership();
  std::set<std::uint64_t> known;
  for (const troupe::Member& member : truth.members) known.insert(member.node_id);
  std::size_t belonging = 0;
  for (auto& [index, member] : members_) {
    if (!known.contains(member.life)) continue;
    ++belonging;
    if (member.node->membership().version != truth.version) return false;
  }
  return belonging == truth.members.size();
}

void Schedule::check_members() {
  if (!agreed()) return faults_.push_back("the members do not agree on who is there");
  const Membership truth = members_.at(0).node->membership();
  std::set<std::uint64_t> known;
  for (const troupe::Member& member : truth.members) known.insert(member.node_id);
  for (auto& [index, member] : members_)
    if (!known.contains(member.life) && member.node->run().ok())
      faults_.push_back("n" + std::to_string(index) + " was given up, and does not know");
}

}  // namespace troupe::sim
