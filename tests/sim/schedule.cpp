#include "schedule.hpp"

#include <algorithm>
#include <set>

namespace troupe::sim {

using namespace std::chrono_literals;

namespace {

constexpr Duration kHeartbeat = 250ms;
constexpr Duration kPause = 20ms;                           // between two actions, at most
constexpr Duration kShortStall = 100ms;                     // nobody takes a node for dead for it
constexpr Duration kLongStall = kSilence + 3 * kHeartbeat;  // everybody does
constexpr Duration kMargin = kSilence - 2 * kHeartbeat;     // in a stall so long a heartbeat may be missed
/// A connection attempt that met a cut fails after 5 s, and calls wait for it so long.
constexpr Duration kConnecting = 5100ms;
constexpr Duration kDrain = 400ms;
constexpr Duration kOnTheWay = 300us;   // a message takes less
constexpr Duration kFarewell = 1100ms;  // after draining the first node is told, for a second at most
constexpr int kTouched = 5;
constexpr std::size_t kHeld = 6;  // objects to which references are kept

}  // namespace

/// Carries out calls, and remembers that it did.
struct Worker {
  Worker(Schedule& in, std::uint64_t own_life, Node& own_node) : run(in), life(own_life), node(own_node) {}
  Schedule& run;
  std::uint64_t life;
  Node& node;

  std::int64_t execute(std::uint64_t call) {
    run.executed(call, life);
    if (run.planted(Planted::kRunsTwice) && call % 16 == 0) run.executed(call, life);
    return static_cast<std::int64_t>(call);
  }
  rpc::Future<std::int64_t> relay(std::uint64_t call, const std::string& to) {
    run.taken(call, life);
    if (run.planted(Planted::kBreaksOff)) {
      rpc::Promise<std::int64_t> promise(node.loop());
      promise.set(Error{Code::kUnavailable, "on purpose"});
      return promise.future();
    }
    return node.rpc_async<std::int64_t>(to, "execute", call);
  }
  Result<std::int64_t> relay_sync(std::uint64_t call, const std::string& to) {
    run.taken(call, life);
    const TimePoint begun = run.now();
    auto answer = node.rpc_sync<std::int64_t>(to, "execute", call);
    if (run.now() - begun > 1ms) run.history_.nested_wait({begun, run.now()});
    return answer;
  }
  void stream(rpc::StreamWriter<std::int64_t> out, std::uint64_t call) {
    run.executed(call, life);
    for (std::uint64_t i = run.planted(Planted::kLosesItem) ? 1 : 0; i < items_of(call); ++i)
      if (!out.write(static_cast<std::int64_t>(i))) return;
    out.end();
  }
  Result<std::int64_t> meet(std::uint64_t call, std::uint64_t barrier, std::int64_t index,
                            const std::vector<std::string>& names) {
    run.executed(call, life);
    run.entered(barrier, static_cast<int>(index));
    if (run.planted(Planted::kOpensEarly)) run.left_together(barrier);
    const TimePoint begun = run.now();
    const auto met = node.barrier("b" + std::to_string(barrier), names, kBarrierTime);
    if (run.now() - begun > 1ms) run.history_.nested_wait({begun, run.now()});
    if (!met) return met.error();
    run.left_together(barrier);
    return static_cast<std::int64_t>(call);
  }
  static void methods(rpc::Methods<Worker>& methods) {
    methods.add("execute", &Worker::execute)
        .add("stream", &Worker::stream)
        .add("meet", &Worker::meet)
        .add("relay", &Worker::relay)
        .add("relay_sync", &Worker::relay_sync);
  }
};

namespace {
/// The one that runs on this thread: objects are made from what comes over the wire alone.
thread_local Schedule* running = nullptr;
}  // namespace

/// Made at another node, for one call.
struct Thing {
  static constexpr std::string_view type_name = "Thing";

  Thing(std::uint64_t call, std::int64_t host) : run(*running) {
    run.things_[this] = {call, static_cast<int>(host)};
  }
  ~Thing() {
    if (!run.planted(Planted::kKeepsObject)) run.things_.erase(this);
  }
  Thing(const Thing&) = delete;
  Thing& operator=(const Thing&) = delete;

  Schedule& run;

  std::int64_t execute(std::uint64_t call) {
    Schedule::Member* host = run.find(run.things_.at(this).host);
    run.executed(call, host ? host->life : 0);
    return static_cast<std::int64_t>(call);
  }
  static void methods(rpc::Methods<Thing>& methods) { methods.add("execute", &Thing::execute); }
};

Schedule::Schedule(std::uint64_t seed, const Plan& plan, caf::actor_system& system)
    : system_(system),
      plan_(plan),
      random_(seed),
      history_(kTimeout),
      world_({.seed = seed, .latency_jitter = 40us}) {
  running = this;
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
  if (what < 16) return leave(other);
  if (what < 18) return drain(other);
  if (what < 24) return cut(someone, other);
  if (what < 27) return isolate(other);
  if (what < 33) return mend();
  if (what < 38) return stall(what < 36 ? someone : other);
  if (what < 42) return meet();
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
  (*node)->constructible<Thing, std::uint64_t, std::int64_t>();
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

/// In order: what the node has taken is finished, what comes now is refused.
void Schedule::drain(int index) {
  for (int count = pick(6); count > 0; --count) call(false);
  world_.run_for(
      pick_time(kOnTheWay));  // some of these have come by then, and some of them have been answered
  const Member* found = find(index);
  if (!found) return;
  const Member& member = *found;
  const TimePoint begun = now();
  trace({14, member.life});
  history_.begin_leaving(member.life, begun);
  const auto drained = member.node->leave(kDrain);
  const Duration took = now() - begun;
  history_.end_life(member.life, now());
  trace({15, member.life, static_cast<std::uint64_t>(drained ? Code::kOk : drained.error().code)});
  if (drained) {
    history_.has_drained(member.life);
    ++drains_;
  } else if (drained.error().code != Code::kDeadlineExceeded || took < kDrain) {
    faults_.push_back("n" + std::to_string(index) + " gave up leaving after " + std::to_string(took.count()) +
                      " ns: " + drained.error().to_string());
  }
  if (took > kDrain + kFarewell)
    faults_.push_back("n" + std::to_string(index) + " took " + std::to_string(took.count()) + " ns to leave");
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
  const CallKind kinds[] = {CallKind::kAsync,   CallKind::kAsync,     CallKind::kSync,
                            CallKind::kChain,   CallKind::kSyncChain, CallKind::kOneWay,
                            CallKind::kRetried, CallKind::kStream,    CallKind::kObject};
  Call made;
  made.kind = kinds[pick(9)];
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
  make(kind, *caller->node, number, last, middle);
}

void Schedule::make(CallKind kind, Node& node, std::uint64_t number, int last, int middle) {
  const std::string actor = "a" + std::to_string(last);
  const std::string relay = "a" + std::to_string(middle);
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
      return;
    case CallKind::kRetried:
      return node
          .rpc_async_with<std::int64_t>({.timeout = kTimeout, .retry = {.max_attempts = 4}}, actor, "execute",
                                        number)
          .then(end);
    case CallKind::kStream:
      return read_stream(node, number, actor);
    case CallKind::kObject:
      return call_object(node, number, last);
    case CallKind::kMeeting:
      return;  // meet()
  }
}

void Schedule::read_stream(Node& node, std::uint64_t number, const std::string& actor) {
  readings_.push_back(
      std::make_shared<Reading>(Reading{number, node.stream<std::int64_t>(actor, "stream", number)}));
  read_next(readings_.back());
}

/// Kept by the schedule, not by its own continuation, which the node would end with.
void Schedule::read_next(const std::shared_ptr<Reading>& reading) {
  reading->reader.next_async(kTimeout).then(
      [this, weak = std::weak_ptr<Reading>(reading)](const Result<std::optional<std::int64_t>>& next) {
        const auto still = weak.lock();
        if (!still) return;
        Call& call = history_.call(still->call);
        if (!next || !*next) {
          const auto number = static_cast<std::int64_t>(still->call);
          return end_call(still->call, next ? Result<std::int64_t>(number) : next.error());
        }
        call.gap = call.gap || static_cast<std::uint64_t>(**next) != call.items;
        ++call.items;
        trace({12, still->call, call.items});
        read_next(still);
      });
}

void Schedule::call_object(Node& node, std::uint64_t number, int where) {
  RemoteRef<Thing> object =
      node.remote<Thing>("n" + std::to_string(where), number, static_cast<std::int64_t>(where));
  object.rpc_async<std::int64_t>("execute", number).then([this, number](const Result<std::int64_t>& answer) {
    end_call(number, answer);
  });
  held_.push_back(std::move(object));
  if (held_.size() > kHeld) held_.pop_front();
}

/// Some who are there wait for each other.
void Schedule::meet() {
  std::set<int> expected;
  for (int count = 2 + pick(3); count > 0; --count)
    if (const int index = pick(plan_.nodes); find(index)) expected.insert(index);
  const int from = pick(plan_.nodes);
  if (expected.size() < 2 || !find(from)) return;
  barriers_.push_back({expected, {}});
  const std::uint64_t barrier = barriers_.size() - 1;
  std::vector<std::string> names;
  names.reserve(expected.size());
  for (const int index : expected) names.push_back("n" + std::to_string(index));
  for (const int index : expected) {
    Member* caller = find(from);  // calls let no time pass, yet nothing here relies on that
    if (!caller) return;
    Call made;
    made.kind = CallKind::kMeeting;
    made.caller = caller->life;
    made.begun = now();
    made.path = {index};
    made.with.assign(expected.begin(), expected.end());
    const std::uint64_t number = history_.begin_call(std::move(made));
    trace({13, number, barrier});
    caller->node
        ->rpc_async<std::int64_t>("a" + std::to_string(index), "meet", number, barrier,
                                  static_cast<std::int64_t>(index), names)
        .then([this, number](const Result<std::int64_t>& answer) { end_call(number, answer); });
  }
}

void Schedule::entered(std::uint64_t barrier, int index) {
  barriers_[barrier].entered.insert(index);
}

void Schedule::left_together(std::uint64_t barrier) {
  const Barrier& all = barriers_[barrier];
  if (all.entered != all.expected)
    faults_.push_back("barrier b" + std::to_string(barrier) + " let go with " +
                      std::to_string(all.entered.size()) + " of " + std::to_string(all.expected.size()) +
                      " in it");
}

void Schedule::end_call(std::uint64_t number, const Result<std::int64_t>& answer) {
  Call& call = history_.call(number);
  ++call.ended;
  call.ended_at = now();
  call.code = answer ? Code::kOk : answer.error().code;
  call.value = answer ? *answer : 0;
  trace({10, number, static_cast<std::uint64_t>(call.code)});
}

void Schedule::taken(std::uint64_t number, std::uint64_t life) {
  history_.call(number).taken.emplace_back(life, now());
}

void Schedule::executed(std::uint64_t number, std::uint64_t life) {
  taken(number, life);
  Call& call = history_.call(number);
  call.twice_in_a_life = call.twice_in_a_life || (call.executed > 0 && call.executed_by == life);
  ++call.executed;
  call.executed_by = life;
  trace({11, number, life});
}

}  // namespace troupe::sim
