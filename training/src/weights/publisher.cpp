#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <set>
#include <utility>

#include <unistd.h>

#include <troupe/runtime/files.hpp>
#include <troupe/runtime/shared_pool.hpp>
#include <troupe/training/weight_stream.hpp>

#include "names.hpp"
#include "source.hpp"
#include "tree.hpp"

namespace troupe::training {

std::string own_place(const Node& node) {
  const auto boot = read_file("/proc/sys/kernel/random/boot_id");
  std::array<char, 64> space{};
  const ssize_t length = readlink("/proc/self/ns/pid", space.data(), space.size());
  if (!boot || length <= 0) return "node " + node.name();
  return boot->substr(0, boot->find('\n')) + " " +
         std::string(space.data(), static_cast<std::size_t>(length)) + " " + std::to_string(geteuid());
}

namespace {

/// The actor "<stream>.weights": tells readers whom to ask. With the turn.
class Root {
 public:
  Root(Node& node, std::string stream, std::uint64_t generation,
       const std::shared_ptr<const WeightLayout>& layout, const WeightPublisherOptions& options,
       std::shared_ptr<WeightSource> source)
      : node_(node),
        stream_(std::move(stream)),
        options_(options),
        source_(std::move(source)),
        tree_(options.place.empty() ? own_place(node) : options.place, options.fan_out) {
    place_.generation = generation;
    place_.part_bytes = options.part_bytes;
    place_.piece_bytes = options.find_changes ? options.piece_bytes : 0;
    for (const WeightSpec& spec : layout->specs) {
      place_.names.push_back(spec.name);
      place_.dtypes.push_back(static_cast<std::uint8_t>(spec.dtype));
      place_.shapes.emplace_back(spec.shape.extents().begin(), spec.shape.extents().end());
    }
  }
  Root(const Root&) = delete;
  Root& operator=(const Root&) = delete;

  void begin() {
    watch_ = node_.watch([this](const MembershipChange& change) {
      if (change.event != MembershipEvent::kLeft && change.event != MembershipEvent::kDied) return;
      remove(change.member.node_id);
    });
    listens_ = true;
  }
  void end() {
    if (std::exchange(listens_, false)) node_.unwatch(watch_);
  }
  static void methods(rpc::Methods<Root>& methods) {
    methods.add("join", &Root::join).add("leave", &Root::leave).add("newest", &Root::newest);
  }

  /// `avoid`: parents that the reader has complained of. `knows`: the generation whose layout it has.
  Result<WeightPlace> join(const rpc::CallContext& context, const std::string& place, bool serves,
                           const std::vector<std::string>& avoid, std::uint64_t knows) {
    const Caller caller = node_.caller_of(context);
    if (caller.node_id == 0 || caller.name.empty())
      return Error{Code::kFailedPrecondition, "only members of the cluster can join a stream"};
    if (place.size() > WeightLayout::kLongestName || avoid.size() > kMostAvoided)
      return Error{Code::kInvalidArgument, "no place has so long a name, and nobody complains of so many"};
    std::set<std::uint64_t> avoided;
    for (const std::string& each : avoid)
      if (const auto known = ids_.find(each); known != ids_.end()) avoided.insert(known->second);
    const auto parent = tree_.join(caller.node_id, place, serves, avoided);
    const std::string actor = source_actor(stream_, caller.name);
    actors_[caller.node_id] = actor;
    ids_[actor] = caller.node_id;
    WeightPlace answer;
    if (knows != place_.generation) answer = place_;
    answer.generation = place_.generation;
    answer.part_bytes = place_.part_bytes;
    answer.piece_bytes = place_.piece_bytes;
    answer.parent = parent.id == 0 ? source_actor(stream_, node_.name()) : actors_.at(parent.id);
    answer.same_place = parent.same_place;
    return answer;
  }
  static constexpr std::size_t kMostAvoided = 64;
  void leave(const rpc::CallContext& context) { remove(node_.caller_of(context).node_id); }
  /// Generation and number; 0: nothing was published.
  std::pair<std::uint64_t, std::uint64_t> newest() const {
    const auto version = source_->newest();
    return {place_.generation, version ? version->number : 0};
  }

  std::size_t readers() const { return tree_.size(); }
  std::size_t direct() const { return tree_.direct(); }

 private:
  void remove(std::uint64_t id) {
    tree_.leave(id);
    if (const auto actor = actors_.find(id); actor != actors_.end()) {
      if (const auto known = ids_.find(actor->second); known != ids_.end() && known->second == id)
        ids_.erase(known);
      actors_.erase(actor);
    }
  }

  Node& node_;
  std::string stream_;
  WeightPublisherOptions options_;
  std::shared_ptr<WeightSource> source_;
  WeightTree tree_;
  WeightPlace place_;  // without a parent
  std::map<std::uint64_t, std::string> actors_;
  std::map<std::string, std::uint64_t> ids_;
  std::uint64_t watch_ = 0;
  bool listens_ = false;
};

}  // namespace

struct WeightPublisher::State {
  Node* node = nullptr;
  std::string stream;
  WeightPublisherOptions options;
  std::shared_ptr<const WeightLayout> layout;
  std::uint64_t generation = 0;
  std::shared_ptr<WeightSource> source;  // of both: with the turn
  std::shared_ptr<Root> root;
  std::mutex publishing;  // one at a time; taken before the turn
  mutable std::mutex mutex;
  std::uint64_t last = 0;  // with `mutex`, as the other
  std::vector<Buffer> slabs;

  /// How many versions somebody besides has the memory of: drafts, readers that have mapped it, messages.
  std::size_t live() {
    const std::lock_guard lock(mutex);
    std::erase_if(slabs, [](const Buffer& each) { return each.unique(); });
    return slabs.size();
  }
  Result<void> not_on_loop() const {
    if (!node->loop().in_turn()) return {};
    return Error{Code::kFailedPrecondition,
                 "stream '" + stream + "': publishing takes long, and is not for the loop's thread"};
  }
  /// Memory for one more version, with nothing in the gaps between tensors.
  Result<Buffer> slab() {
    if (const std::size_t now = live(); now >= options.max_versions)
      return Error{Code::kResourceExhausted,
                   "stream '" + stream + "': " + std::to_string(now) +
                       " versions have memory, since some that are old are still being read: publish later, "
                       "or with a larger WeightPublisherOptions::max_versions"};
    try {
      const Tensor memory = Tensor::empty(DType::kUInt8, Shape{static_cast<std::int64_t>(layout->bytes)},
                                          node->endpoint().shared_pool());
      for (std::size_t i = 0; i < layout->specs.size(); ++i) {
        const std::uint64_t end = layout->offsets[i] + layout->bytes_of(i);
        const std::uint64_t next = i + 1 < layout->specs.size() ? layout->offsets[i + 1] : layout->bytes;
        std::memset(memory.data() + end, 0, next - end);
      }
      const std::lock_guard lock(mutex);
      slabs.push_back(memory.buffer());
      return memory.buffer();
    } catch (const std::bad_alloc&) {
      return Error{Code::kResourceExhausted, "stream '" + stream + "': no memory for a version of " +
                                                 std::to_string(layout->bytes) + " bytes"};
    }
  }
  std::vector<std::uint64_t> changes(const WeightVersion* before, const Buffer& now,
                                     std::uint64_t number) const;
  Result<std::uint64_t> publish(Buffer slab, std::map<std::string, std::string> metadata);
};

std::vector<std::uint64_t> WeightPublisher::State::changes(const WeightVersion* before, const Buffer& now,
                                                           std::uint64_t number) const {
  if (!options.find_changes) return {};
  const std::uint64_t pieces = layout->pieces(options.piece_bytes);
  if (!before) return std::vector<std::uint64_t>(pieces, number);
  std::vector<std::uint64_t> changed_in = before->changed_in;
  for (std::uint64_t i = 0; i < pieces; ++i) {
    const std::uint64_t begin = i * options.piece_bytes;
    const std::uint64_t bytes = std::min<std::uint64_t>(options.piece_bytes, layout->bytes - begin);
    if (std::memcmp(before->slab.data() + begin, now.data() + begin, bytes) != 0) changed_in[i] = number;
  }
  return changed_in;
}

Result<std::uint64_t> WeightPublisher::State::publish(Buffer slab,
                                                      std::map<std::string, std::string> metadata) {
  auto version = std::make_shared<WeightVersion>();
  version->layout = layout;
  version->generation = generation;
  version->number = last + 1;
  version->metadata = std::move(metadata);
  version->changed_in = changes(source->newest().get(), slab, version->number);
  version->slab = std::move(slab);
  {
    const std::lock_guard lock(mutex);
    ++last;
  }
  const std::uint64_t number = version->number;
  {
    const Loop::Turn turn(node->loop());
    source->set(std::move(version));
  }
  static_cast<void>(live());  // the one before may be free now
  return number;
}

Result<std::unique_ptr<WeightPublisher>> WeightPublisher::on(Node& node, const std::string& stream,
                                                             std::vector<WeightSpec> specs,
                                                             const WeightPublisherOptions& options) {
  if (stream.empty() || options.max_versions < 2 || options.fan_out == 0 || options.piece_bytes == 0 ||
      options.part_bytes == 0 || options.part_bytes > WeightSource::kLongestPart)
    return Error{
        Code::kInvalidArgument,
        "a stream of weights has a name, two versions at least, a fan_out of one at least, pieces of a "
        "byte at least, and parts of 1 B to 256 MiB"};
  auto layout = WeightLayout::of(std::move(specs));
  if (!layout) return std::move(layout).error();
  auto state = std::make_shared<State>();
  state->node = &node;
  state->stream = stream;
  state->options = options;
  state->layout = std::move(*layout);
  if (options.find_changes && state->layout->pieces(options.piece_bytes) == 0)
    return Error{Code::kInvalidArgument, "a version of " + std::to_string(state->layout->bytes) +
                                             " bytes has too many pieces of " +
                                             std::to_string(options.piece_bytes)};
  const Loop::Turn turn(node.loop());
  state->generation = std::max<std::uint64_t>(1, node.id() ^ (node.make_token() * 0x9e3779b97f4a7c15ULL));
  state->source = std::make_shared<WeightSource>(node);
  state->source->set_generation(state->generation);
  state->root =
      std::make_shared<Root>(node, stream, state->generation, state->layout, options, state->source);
  rpc::Methods<WeightSource> source_methods;
  WeightSource::methods(source_methods);
  rpc::Methods<Root> root_methods;
  Root::methods(root_methods);
  const std::string source_name = source_actor(stream, node.name());
  auto made = node.spawn_state(source_name, state->source, source_methods.table());
  if (made) {
    made = node.spawn_state(publisher_actor(stream), state->root, root_methods.table());
    if (!made) static_cast<void>(node.kill(source_name));
  }
  if (!made) return std::move(made).error();
  try {
    state->source->begin(nullptr);
    state->root->begin();
  } catch (...) {
    state->source->end();
    static_cast<void>(node.kill(source_name));
    static_cast<void>(node.kill(publisher_actor(stream)));
    throw;
  }
  return std::unique_ptr<WeightPublisher>(new WeightPublisher(std::move(state)));
}

WeightPublisher::~WeightPublisher() {
  Node& node = *state_->node;
  {
    const Loop::Turn turn(node.loop());
    state_->source->end();
    state_->root->end();
  }
  static_cast<void>(node.kill(publisher_actor(state_->stream)));
  static_cast<void>(node.kill(source_actor(state_->stream, node.name())));
}

Result<std::uint64_t> WeightPublisher::publish(std::span<const Tensor> tensors,
                                               std::map<std::string, std::string> metadata) {
  const WeightLayout& layout = *state_->layout;
  if (tensors.size() != layout.specs.size())
    return Error{Code::kInvalidArgument, "stream '" + state_->stream + "' has " +
                                             std::to_string(layout.specs.size()) + " tensors, not " +
                                             std::to_string(tensors.size())};
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const WeightSpec& spec = layout.specs[i];
    const Tensor& tensor = tensors[i];
    if (tensor.dtype() != spec.dtype || tensor.shape() != spec.shape || !tensor.is_contiguous() ||
        tensor.device().kind == MemoryKind::kDevice)
      return Error{Code::kInvalidArgument, "stream '" + state_->stream + "': tensor '" + spec.name + "' is " +
                                               std::string(to_string(spec.dtype)) + spec.shape.to_string() +
                                               ", dense and in host memory; this is " + tensor.to_string()};
  }
  if (auto free = state_->not_on_loop(); !free) return std::move(free).error();
  const std::lock_guard lock(state_->publishing);
  auto slab = state_->slab();
  if (!slab) return std::move(slab).error();
  for (std::size_t i = 0; i < tensors.size(); ++i)
    if (const std::uint64_t bytes = layout.bytes_of(i); bytes > 0)
      std::memcpy(slab->data() + layout.offsets[i], tensors[i].data(), bytes);
  return state_->publish(std::move(*slab), std::move(metadata));
}

Result<WeightDraft> WeightPublisher::draft() {
  if (auto free = state_->not_on_loop(); !free) return std::move(free).error();
  const std::lock_guard lock(state_->publishing);
  auto slab = state_->slab();
  if (!slab) return std::move(slab).error();
  return WeightDraft(state_->layout, std::move(*slab));
}

Result<std::uint64_t> WeightPublisher::publish(WeightDraft draft,
                                               std::map<std::string, std::string> metadata) {
  if (auto free = state_->not_on_loop(); !free) return std::move(free).error();
  if (draft.layout_ != state_->layout)
    return Error{Code::kInvalidArgument, "this draft has been published, or is of another stream"};
  const std::lock_guard lock(state_->publishing);
  {
    // Ours besides, and the draft's own.
    const std::lock_guard counting(state_->mutex);
    std::erase_if(state_->slabs, [&](const Buffer& each) { return each.block() == draft.slab_.block(); });
    if (!draft.slab_.unique()) {
      state_->slabs.push_back(draft.slab_);
      return Error{Code::kFailedPrecondition,
                   "somebody still has tensors of this draft, and could write into what is published: drop "
                   "them first"};
    }
    state_->slabs.push_back(draft.slab_);
  }
  return state_->publish(std::move(draft.slab_), std::move(metadata));
}

std::shared_ptr<const Weights> WeightPublisher::newest() const {
  auto version = state_->source->newest();
  return version ? std::make_shared<const Weights>(std::move(version)) : nullptr;
}

WeightPublisher::Stats WeightPublisher::stats() const {
  Stats stats;
  stats.versions = state_->live();
  {
    const std::lock_guard lock(state_->mutex);
    stats.published = state_->last;
  }
  const Loop::Turn turn(state_->node->loop());
  stats.readers = state_->root->readers();
  stats.direct = state_->root->direct();
  stats.bytes_out = state_->source->bytes_out();
  return stats;
}

}  // namespace troupe::training
