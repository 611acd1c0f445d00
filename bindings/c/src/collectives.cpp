#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include <troupe/training/zero.hpp>
#include <troupe/training/zero_config.hpp>

#include "handles.hpp"
#include "later.hpp"

using namespace troupe;
using namespace troupe::c;

struct troupe_group {
  std::shared_ptr<NodeBox> box;
  std::shared_ptr<shards::Communicator> communicator;
};

struct troupe_zero {
  std::shared_ptr<NodeBox> box;
  std::shared_ptr<shards::Communicator> communicator;
  std::unique_ptr<training::Zero> zero;
  std::size_t size = 0;
};

namespace {

Result<Collectives::Options> group_options(const troupe_group_options* options) {
  Collectives::Options how;
  if (!options) return how;
  troupe_group_options given;
  if (auto read = read_struct(options, given); !read) return read.error();
  if ((given.flags & ~(TROUPE_GROUP_ON_GPU | TROUPE_GROUP_UNCHECKED)) != 0)
    return Error{Code::kInvalidArgument, "troupe_group_options.flags has an unknown one"};
  how.timeout = timeout_of(given.timeout, how.timeout);
  how.address = text_of(given.address);
  how.check_calls = (given.flags & TROUPE_GROUP_UNCHECKED) == 0;
  if ((given.flags & TROUPE_GROUP_ON_GPU) != 0) {
    auto gpu = Gpu::open(given.gpu);
    if (!gpu) return gpu.error();
    how.gpu = std::move(*gpu);
  }
  return how;
}

Result<Collectives*> collectives_of(NodeBox& box) {
  const std::lock_guard lock(box.collectives_mutex);
  if (!box.collectives) {
    auto made = Collectives::on(*box.node);
    if (!made) return made.error();
    box.collectives = std::move(*made);
  }
  return box.collectives.get();
}

Result<shards::Work> begin(troupe_group* group, const troupe_collective* collective) {
  if (!group) return null_argument("group");
  if (!collective) return null_argument("collective");
  troupe_collective what;
  if (auto read = read_struct(collective, what); !read) return read.error();
  if (!what.tensor && what.kind != TROUPE_BARRIER) return null_argument("troupe_collective.tensor");
  const bool has_out = what.kind == TROUPE_ALL_GATHER || what.kind == TROUPE_REDUCE_SCATTER;
  if (has_out && !what.out) return null_argument("troupe_collective.out");
  if (what.reduction < TROUPE_SUM || what.reduction > TROUPE_MAX)
    return Error{Code::kInvalidArgument,
                 "there is no reduction " + std::to_string(static_cast<int>(what.reduction))};
  const auto op = static_cast<shards::ReduceOp>(what.reduction);
  shards::Communicator& all = *group->communicator;
  switch (what.kind) {
    case TROUPE_ALL_REDUCE:
      return all.all_reduce(what.tensor->tensor, op);
    case TROUPE_REDUCE:
      return all.reduce(what.tensor->tensor, op, what.root);
    case TROUPE_BROADCAST:
      return all.broadcast(what.tensor->tensor, what.root);
    case TROUPE_ALL_GATHER:
      return all.all_gather(what.tensor->tensor, what.out->tensor);
    case TROUPE_REDUCE_SCATTER:
      return all.reduce_scatter(what.tensor->tensor, what.out->tensor, op);
    case TROUPE_SEND:
      return all.send(what.tensor->tensor, what.root, what.tag);
    case TROUPE_RECEIVE:
      return all.receive(what.tensor->tensor, what.root, what.tag);
    case TROUPE_BARRIER:
      return all.barrier();
  }
  return Error{Code::kInvalidArgument,
               "there is no collective " + std::to_string(static_cast<int>(what.kind))};
}

/// Stands for what cannot be cancelled.
struct Uncancelled final : rpc::detail::FutureState<void> {
  using FutureState::FutureState;
  void cancel() override {}
};

/// For CompletionQueue::start(), which looks at the tag first: what has been begun cannot be taken back.
struct RunLater {
  troupe_group* group;
  const troupe_collective* collective;

  template <class Same>
  rpc::Future<Same> rpc_async_with(const rpc::CallOptions&) {
    // The node's loop lives until this has ended, because the group, which waits for that, lives.
    auto promise = std::make_shared<rpc::Promise<void>>(group->box->node->loop());
    rpc::Future<void> future = promise->future();
    // Whoever cancels it must not believe that its tensors are his again.
    const rpc::Future<void> whole(
        std::make_shared<Uncancelled>(&group->box->node->loop(), TimePoint::never()));
    promise->made_from(whole);
    const auto set = [gate = group->box->gate, promise, whole](const Result<void>& ended) {
      gate->post_late([promise, whole, ended] { promise->set(ended); });
    };
    if (auto work = begin(group, collective))
      work->then(set);
    else
      set(work.error());
    return future;
  }
};

/// Float32 numbers of the caller's, for as long as nobody else has them.
Tensor view_of(const float* numbers, const Shape& shape) {
  auto* const bytes = reinterpret_cast<std::byte*>(const_cast<float*>(numbers));
  const auto size = static_cast<std::size_t>(shape.elements()) * sizeof(float);
  return Tensor(DType::kFloat32, shape, Buffer::adopt(bytes, size, Device{}, [] {}));
}

Result<std::vector<training::ZeroParameter>> parameters_of(const troupe_zero_parameter* given,
                                                           std::size_t count) {
  std::vector<training::ZeroParameter> all;
  if (!given) {
    all.push_back({"weights", Shape{static_cast<std::int64_t>(count)}, 0});
    return all;
  }
  for (std::size_t i = 0; i < count; ++i) {
    if (!given[i].name) return null_argument("the name of a parameter");
    if (!given[i].shape && given[i].rank > 0) return null_argument("the shape of a parameter");
    all.push_back({given[i].name, Shape(std::span(given[i].shape, given[i].rank)), given[i].layer});
  }
  return all;
}

std::size_t elements_of(const training::ZeroParameter& parameter) {
  return static_cast<std::size_t>(parameter.shape.elements());
}

Result<void> check(const troupe_zero* zero, const void* numbers, std::size_t count) {
  if (!zero) return null_argument("zero");
  if (!numbers) return null_argument("the numbers");
  if (count == zero->size) return {};
  return Error{Code::kInvalidArgument, "the parameters have " + std::to_string(zero->size) +
                                           " numbers, not " + std::to_string(count)};
}

}  // namespace

troupe_status troupe_group_form(troupe_node* node, const char* name, const char* const* members, size_t count,
                                const troupe_group_options* options, troupe_group** group) {
  if (group) *group = nullptr;
  return guard([&]() -> Result<void> {
    if (!node) return null_argument("node");
    if (!name) return null_argument("name");
    if (!group) return null_argument("group");
    auto names = texts_of(members, count, "members");
    if (!names) return names.error();
    auto how = group_options(options);
    if (!how) return how.error();
    auto collectives = collectives_of(*node->box);
    if (!collectives) return collectives.error();
    auto handle = std::make_unique<troupe_group>();
    auto formed = (*collectives)->form({name, std::move(*names), options ? options->round : 0}, *how);
    if (!formed) return formed.error();
    handle->box = node->box;
    handle->communicator = std::move(*formed);
    *group = handle.release();
    return {};
  });
}

void troupe_group_free(troupe_group* group) {
  guard([&]() -> Result<void> {
    delete group;
    return {};
  });
}

int troupe_group_rank(const troupe_group* group) {
  return group ? group->communicator->rank() : -1;
}

int troupe_group_size(const troupe_group* group) {
  return group ? group->communicator->size() : 0;
}

void troupe_group_abort(troupe_group* group, const char* why) {
  guard([&]() -> Result<void> {
    if (group) group->communicator->abort({Code::kCancelled, why ? why : "ended by this member"});
    return {};
  });
}

troupe_status troupe_group_run(troupe_group* group, const troupe_collective* collective) {
  return guard([&]() -> Result<void> {
    auto work = begin(group, collective);
    return work ? work->wait() : Result<void>(work.error());
  });
}

troupe_status troupe_queue_run(troupe_queue* queue, troupe_group* group, uint64_t tag,
                               const troupe_collective* collective) {
  return guard([&]() -> Result<void> {
    if (!queue) return null_argument("queue");
    if (!group) return null_argument("group");
    if (!collective) return null_argument("collective");
    RunLater start{group, collective};
    return queue->queue->start<void>(start, tag, {});
  });
}

// ---- ZeRO -----------------------------------------------------------------------------------------

troupe_status troupe_zero_create(troupe_group* group, const troupe_zero_parameter* parameters, size_t count,
                                 const char* config, const float* initial, troupe_zero** zero) {
  if (zero) *zero = nullptr;
  return guard([&]() -> Result<void> {
    if (!group) return null_argument("group");
    if (!zero) return null_argument("zero");
    shards::Communicator& members = *group->communicator;
    if (!initial && members.rank() == 0) return null_argument("initial");
    auto all = parameters_of(parameters, count);
    if (!all) return all.error();
    training::ZeroOptions options;
    if (config) {
      auto read = training::parse_zero_config(config, "the configuration", members.size());
      if (!read) return read.error();
      options = std::move(read->options);
    }
    auto handle = std::make_unique<troupe_zero>();
    std::vector<const float*> first;
    for (const training::ZeroParameter& each : *all) {
      first.push_back(initial ? initial + handle->size : nullptr);
      handle->size += elements_of(each);
    }
    const auto shapes = *all;
    auto made = training::Zero::create(members, std::move(*all), std::move(options), [&](int index) {
      const auto at = static_cast<std::size_t>(index);
      return view_of(first[at], shapes[at].shape).clone();
    });
    if (!made) return made.error();
    handle->box = group->box;
    handle->communicator = group->communicator;
    handle->zero = std::move(*made);
    *zero = handle.release();
    return {};
  });
}

void troupe_zero_free(troupe_zero* zero) {
  guard([&]() -> Result<void> {
    delete zero;
    return {};
  });
}

size_t troupe_zero_size(const troupe_zero* zero) {
  return zero ? zero->size : 0;
}

float troupe_zero_loss_scale(const troupe_zero* zero) {
  return zero ? zero->zero->loss_scale() : 1;
}

troupe_status troupe_zero_pass(troupe_zero* zero, const float* gradients, size_t count) {
  return guard([&]() -> Result<void> {
    if (auto good = check(zero, gradients, count); !good) return good;
    const auto& parameters = zero->zero->parameters();
    std::size_t end = zero->size;
    for (std::size_t i = parameters.size(); i-- > 0;) {
      end -= elements_of(parameters[i]);
      if (auto taken =
              zero->zero->gradient(static_cast<int>(i), view_of(gradients + end, parameters[i].shape));
          !taken)
        return taken;
    }
    return {};
  });
}

troupe_status troupe_zero_step(troupe_zero* zero, troupe_zero_result* result) {
  return guard([&]() -> Result<void> {
    if (!zero) return null_argument("zero");
    if (auto good = check_struct(result, "troupe_zero_result"); result && !good) return good;
    auto step = zero->zero->step();
    if (!step) return step.error();
    if (!result) return {};
    troupe_zero_result filled = TROUPE_ZERO_RESULT_INIT;
    filled.step = step->step;
    filled.norm = step->norm;
    filled.skipped = step->skipped ? 1 : 0;
    filled.clipped = step->clipped ? 1 : 0;
    filled.learning_rate = step->learning_rate;
    filled.loss_scale = step->loss_scale;
    write_struct(filled, result);
    return {};
  });
}

troupe_status troupe_zero_weights(troupe_zero* zero, float* weights, size_t count) {
  return guard([&]() -> Result<void> {
    if (auto good = check(zero, weights, count); !good) return good;
    for (std::size_t i = 0; i < zero->zero->parameters().size(); ++i) {
      auto whole = zero->zero->weights(static_cast<int>(i));
      if (!whole) return whole.error();
      std::memcpy(weights, whole->data(), whole->bytes());
      weights += elements_of(zero->zero->parameters()[i]);
    }
    return {};
  });
}

troupe_status troupe_zero_save(troupe_zero* zero, const char* folder) {
  return guard([&]() -> Result<void> {
    if (!zero) return null_argument("zero");
    if (!folder) return null_argument("folder");
    return zero->zero->save(folder);
  });
}

troupe_status troupe_zero_restore(troupe_zero* zero, const char* folder) {
  return guard([&]() -> Result<void> {
    if (!zero) return null_argument("zero");
    if (!folder) return null_argument("folder");
    return zero->zero->restore(folder);
  });
}
