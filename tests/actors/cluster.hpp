#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <caf/all.hpp>
#include <troupe/actors/caf.hpp>
#include <troupe/actors/node.hpp>
#include <troupe/rpc/sim.hpp>

/// Clusters for tests: RealCluster has its nodes in this process, in real time, over shared memory unless
/// told otherwise, TcpCluster over TCP, SimCluster in virtual time. Tests of what holds in all are templates
/// over them.
namespace troupe::test {

/// The bound on any wait in real time, for sanitizers on a busy machine; nothing waits so long on success.
inline constexpr Duration kPatience = std::chrono::seconds(30);

/// A CAF system with one quiet scheduler thread, which all nodes of a cluster share.
class SharedSystem {
 public:
  SharedSystem() {
    register_caf_types();
    use_waiting_scheduler(config_, 1);
    system_ = std::make_unique<caf::actor_system>(config_);
  }
  caf::actor_system& get() { return *system_; }

 private:
  caf::actor_system_config config_;
  std::unique_ptr<caf::actor_system> system_;
};

/// Something that happens once, on any thread.
class Signal {
 public:
  void set() {
    const std::lock_guard lock(mutex_);
    set_ = true;
    changed_.notify_all();
  }
  bool is_set() const {
    const std::lock_guard lock(mutex_);
    return set_;
  }
  bool wait_for(Duration timeout) const {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, timeout, [&] { return set_; });
  }

 private:
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  bool set_ = false;
};

class Cluster {
 public:
  Cluster() = default;
  virtual ~Cluster() = default;
  Cluster(const Cluster&) = delete;
  Cluster& operator=(const Cluster&) = delete;

  /// Starts a node with these options and what the kind of cluster and the first node add to them.
  Result<std::unique_ptr<Node>> start(NodeOptions options) {
    options.system = &system_.get();
    if (options.registry.empty()) options.registry = registry;
    prepare(options);
    auto node = Node::start(std::move(options));
    if (node && registry.empty()) registry = (*node)->address();
    return node;
  }
  /// A node that must start, kept by the cluster.
  Node& add(const std::string& name, const std::string& role = "worker") {
    auto node = start({.name = name, .role = role});
    REQUIRE_MESSAGE(node.ok(), (node.ok() ? "" : node.error().to_string()));
    return *(nodes_[name] = std::move(*node));
  }
  Node& operator[](const std::string& name) { return *nodes_.at(name); }
  void end(const std::string& name) { nodes_.erase(name); }
  std::unique_ptr<Node> take(const std::string& name) {
    auto node = std::move(nodes_.at(name));
    nodes_.erase(name);
    return node;
  }
  /// Lets the cluster live until the signal; false: it did not come within the bound.
  virtual bool wait(const Signal& signal) = 0;
  caf::actor_system& system() { return system_.get(); }

  std::string registry;

 protected:
  virtual void prepare(NodeOptions& options) = 0;
  void end_all() {
    while (!nodes_.empty()) nodes_.erase(--nodes_.end());
  }

 private:
  SharedSystem system_;
  std::map<std::string, std::unique_ptr<Node>> nodes_;
};

class RealCluster : public Cluster {
 public:
  explicit RealCluster(std::string transports = "auto") : transports_(std::move(transports)) {}
  ~RealCluster() override { end_all(); }
  bool wait(const Signal& signal) override { return signal.wait_for(kPatience); }

 protected:
  void prepare(NodeOptions& options) override {
    if (transports_ != "auto") options.transport.transports = transports_;
  }

 private:
  std::string transports_;
};

class TcpCluster final : public RealCluster {
 public:
  TcpCluster() : RealCluster("tcp") {}
};

class SimCluster final : public Cluster {
 public:
  explicit SimCluster(rpc::SimOptions options = {}) : world(options) {}
  ~SimCluster() override { end_all(); }
  bool wait(const Signal& signal) override {
    return world.run_until([&] { return signal.is_set(); }, world.clock().now() + kPatience);
  }
  Duration since(TimePoint start) { return world.clock().now() - start; }

  rpc::SimWorld world;

 protected:
  void prepare(NodeOptions& options) override {
    options.clock = &world.clock();
    options.own_thread = false;
    options.loop = world.loop_options();
    // A second node of a name lives on a host of its own, which may fail apart from the first one's.
    const int life = ++lives_[options.name];
    const std::string host = life == 1 ? options.name : options.name + "-" + std::to_string(life);
    options.listen = host + ":0";
    if (options.node_id == 0) options.node_id = ++last_id_;
    options.make_transport = [this, host](Loop& loop) -> Result<std::unique_ptr<rpc::Transport>> {
      return world.make_transport(loop, host);
    };
  }

 private:
  std::uint64_t last_id_ = 0;
  std::map<std::string, int> lives_;
};

#define TROUPE_REAL_CLUSTERS ::troupe::test::RealCluster, ::troupe::test::TcpCluster
#define TROUPE_CLUSTERS ::troupe::test::RealCluster, ::troupe::test::TcpCluster, ::troupe::test::SimCluster

/// The changes that one node hears of.
class Changes {
 public:
  explicit Changes(Node& node) : node_(node) {
    watch_ = node.watch([this](const MembershipChange& change) {
      const std::lock_guard lock(mutex_);
      seen_.push_back(change);
      for (auto& wanted : wanted_)
        if (wanted.matches(change)) wanted.signal->set();
    });
  }
  ~Changes() { node_.unwatch(watch_); }
  Changes(const Changes&) = delete;
  Changes& operator=(const Changes&) = delete;

  /// A signal for the change `event` of a node or actor of this name; set at once if it was seen before.
  std::shared_ptr<const Signal> signal(MembershipEvent event, const std::string& name) {
    const std::lock_guard lock(mutex_);
    wanted_.push_back({event, name, std::make_shared<Signal>()});
    for (const MembershipChange& change : seen_)
      if (wanted_.back().matches(change)) wanted_.back().signal->set();
    return wanted_.back().signal;
  }
  std::vector<MembershipChange> seen() const {
    const std::lock_guard lock(mutex_);
    return seen_;
  }

 private:
  struct Wanted {
    MembershipEvent event;
    std::string name;
    std::shared_ptr<Signal> signal;
    bool matches(const MembershipChange& change) const {
      return change.event == event && (change.member.name == name || change.actor.name == name);
    }
  };
  Node& node_;
  std::uint64_t watch_ = 0;
  mutable std::mutex mutex_;
  std::vector<MembershipChange> seen_;
  std::vector<Wanted> wanted_;
};

/// The code of what must be an error.
template <class T>
Code code_of(const Result<T>& result) {
  return result ? Code::kOk : result.error().code;
}
template <class T>
std::string text_of(const Result<T>& result) {
  return result ? "a value" : result.error().to_string();
}
inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace troupe::test

namespace doctest {
template <>
struct StringMaker<troupe::Code> {
  static String convert(troupe::Code code) { return std::string(troupe::to_string(code)).c_str(); }
};
}  // namespace doctest
