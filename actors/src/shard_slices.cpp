// The order of what is asked of a table's rows, and large requests in slices.
#include <algorithm>
#include <utility>

#include "shard_rows.hpp"
#include "table_work.hpp"

namespace troupe {

namespace {

/// Of rows: what is worked on at once, and how large the slices of the rest are.
constexpr std::uint64_t kAtOnce_bytes = std::uint64_t{4} << 20;
constexpr std::uint64_t kSlice_bytes = std::uint64_t{1} << 20;
/// Short rows take their time, too.
constexpr std::uint64_t kMostSlice_keys = 16384;

std::size_t slice_keys(const shards::TableSpec& spec) {
  return std::clamp<std::uint64_t>(kSlice_bytes / (spec.dim * sizeof(float)), 1, kMostSlice_keys);
}

bool is_large(const shards::TableSpec& spec, std::uint64_t rows) {
  return rows > std::min<std::uint64_t>(kAtOnce_bytes / (spec.dim * sizeof(float)), 4 * kMostSlice_keys) &&
         rows > 1;
}

bool is_large(const shards::TableSpec& spec, const Tensor& keys) {
  return is_large(spec, rows_named(keys));
}

}  // namespace

ShardServer::Table::Table(shards::TableShard table_shard, Loop& loop)
    : shard(std::move(table_shard)), work(std::make_unique<TableWork>(loop)) {}
ShardServer::Table::~Table() = default;

std::vector<std::unique_ptr<TableWork>> ShardServer::take_work(Tables& tables) {
  std::vector<std::unique_ptr<TableWork>> work;
  for (auto& [name, table] : tables) work.push_back(std::move(table->work));
  return work;
}

/// A large request: gradients, then rows, or one of them. A job of its table's work. Rows that are to be read
/// after a push are made before it, so that all that can fail comes first.
class ShardServer::Slices {
 public:
  using Then = UniqueFunction<void(Result<PushPullReply>)>;

  Slices(ShardServer& server, Table& table, rpc::SessionId caller)
      : server_(server), table_(table), caller_(caller), slice_(slice_keys(table.shard.spec())) {
    reply_.push.generation = reply_.pull.generation = table.generation;
    reply_.pull.rows = rows_for(0, table.shard, server.node_, server.pool_);
  }
  Result<void> add_push(const Tensor& keys, const Tensor& gradients, const PushHead& head) {
    auto pushed = copy_keys(table_.shard.spec(), keys, pushed_);
    if (!pushed) return pushed.error();
    auto values = gradients_of(table_.shard.spec(), gradients);
    if (!values) return values.error();
    gradients_ = std::move(*values);
    if (gradients_.dtype() != DType::kFloat32) {
      half_ = std::exchange(gradients_, Tensor::empty(DType::kFloat32, gradients_.shape(), &server_.pool_));
    }
    header_ = header_of(head);
    keeps_ = shards::in_rounds(table_.shard.spec().consistency);
    stage_ = half_.elements() > 0 ? Stage::kWiden : Stage::kMake;
    return {};
  }
  enum class Read : std::uint8_t { kPull, kPeek };
  Result<void> add_read(const Tensor& keys, Read how, bool as_kept) {
    auto wanted = copy_wanted(table_.shard.spec(), keys, wanted_);
    if (!wanted) return wanted.error();
    peeks_ = how == Read::kPeek;
    reply_.pull.rows = rows_for(wanted->size(), table_.shard, server_.node_, server_.pool_, as_kept);
    reads_ = true;
    return {};
  }
  /// Last: what `then` does may end all of this.
  void answer(Then then) { then_ = std::move(then); }

  bool operator()() {
    Result<bool> over = true;
    {
      const Work work(server_, server_.times_of(table_, caller_));
      over = go_on();
    }
    if (over && !*over) return false;
    when_there(later_, over ? Result<PushPullReply>(std::move(reply_)) : over.error(), std::move(then_));
    return true;
  }

 private:
  enum class Stage : std::uint8_t { kWiden, kMake, kPush, kRead };

  shards::RowKeys next_keys() const {
    const shards::RowKeys wanted = wanted_.view();
    return wanted.subspan(at_, std::min(slice_, wanted.size() - at_));
  }
  /// One slice; true: that was the last.
  Result<bool> go_on() {
    switch (stage_) {
      case Stage::kWiden:
        return widen();
      case Stage::kMake:
        return make();
      case Stage::kPush:
        return push();
      case Stage::kRead:
        return read();
    }
    return true;
  }
  /// Gradients of the table's type become float32.
  Result<bool> widen() {
    const auto all = static_cast<std::size_t>(half_.elements());
    const std::size_t some = std::min(all - at_, slice_ * static_cast<std::size_t>(table_.shard.spec().dim));
    shards::widen(half_.dtype(), half_.data() + at_ * size_of(half_.dtype()), some,
                  gradients_.as<float>().data() + at_);
    at_ += some;
    if (at_ < all) return false;
    half_ = Tensor();
    at_ = 0;
    stage_ = Stage::kMake;
    return false;
  }
  Result<bool> make() {
    if (at_ < wanted_.view().size()) {
      const auto keys = next_keys();
      if (auto made = table_.shard.make_rows(keys); !made) return made.error();
      at_ += keys.size();
      return false;
    }
    at_ = 0;
    const auto values = gradients_.as<const float>();
    if (keeps_) {
      table_.shard.begin_keep(header_, pushed_.view(), values);
    } else {
      table_.shard.begin_push(header_, pushed_.view(), values);
    }
    stage_ = Stage::kPush;
    return false;
  }
  Result<bool> push() {
    auto receipt = table_.shard.go_on_with_push(slice_);
    if (!receipt) return receipt.error();
    if (!*receipt) return false;
    reply_.push = to_reply(**receipt, table_.generation, keeps_);
    stage_ = Stage::kRead;
    return !reads_;
  }
  Result<bool> read() {
    const auto keys = next_keys();
    const shards::RowsOut out = rows_out(reply_.pull.rows, at_);
    shards::TableShard& shard = table_.shard;
    // What a device writes itself is there with the last slice; else each is waited for.
    shards::Completion* const later = out.memory == MemoryKind::kHost ? nullptr : &later_;
    const auto receipt = peeks_     ? shard.peek(keys, out, later)
                         : at_ == 0 ? shard.pull(keys, out, later)
                                    : shard.pull_more(keys, out, later);
    if (!receipt) return receipt.error();
    reply_.pull.version = receipt->version;
    at_ += keys.size();
    return at_ == wanted_.view().size();
  }

  ShardServer& server_;
  Table& table_;
  rpc::SessionId caller_;
  std::size_t slice_;
  Stage stage_ = Stage::kRead;
  shards::RowKeyList pushed_, wanted_;
  Tensor gradients_;  // float32
  Tensor half_;       // as they came, if they are to be made so
  shards::PushHeader header_;
  bool keeps_ = false;  // for a round
  bool reads_ = false, peeks_ = false;
  std::size_t at_ = 0;  // of wanted_
  PushPullReply reply_;
  shards::Completion later_;
  Then then_;
};

template <class Reply, class Call>
rpc::Future<Reply> ShardServer::in_turn(Table& table, const rpc::CallContext& context, Call call) {
  rpc::Promise<Reply> promise(node_.loop(), context.deadline);
  auto future = promise.future();
  auto answer = [](Call& asked, rpc::Promise<Reply>& waiting) {
    shards::Completion later;
    Result<Reply> reply = asked(later);
    // Last: it may do anything.
    when_there(later, std::move(reply), [waiting = std::move(waiting)](Result<Reply> there) mutable {
      waiting.set(std::move(there));
    });
  };
  if (table.work->free()) {
    answer(call, promise);
  } else {
    table.work->add([context, answer, call = std::move(call), promise = std::move(promise)]() mutable {
      if (!context.cancelled()) answer(call, promise);
      return true;
    });
  }
  return future;
}

void ShardServer::read_then(Table& table, rpc::SessionId caller, std::uint64_t waited_ns, const Tensor& keys,
                            const PullHead& head, UniqueFunction<void(Result<PullReply>)> then) {
  const bool large = is_large(table.shard.spec(), keys);
  if (table.work->free() && !large) {
    shards::Completion later;
    auto reply = read_for(table, caller, waited_ns, keys, head, later);
    return when_there(later, std::move(reply), std::move(then));
  }
  table.work->add([this, &table, caller, waited_ns, keys, head, large, then = std::move(then)]() mutable {
    if (!large || newer_route(table, head.route)) {
      shards::Completion later;
      auto reply = read_for(table, caller, waited_ns, keys, head, later);
      when_there(later, std::move(reply), std::move(then));
      return true;
    }
    if (CallerTimes* times = times_of(table, caller)) times->bound_ns += waited_ns;
    Slices slices(*this, table, caller);
    if (auto good = slices.add_read(keys, Slices::Read::kPull, head.as_kept); !good) {
      then(good.error());
      return true;
    }
    slices.answer([then = std::move(then)](Result<PushPullReply> reply) mutable {
      then(reply ? Result<PullReply>(std::move(reply->pull)) : reply.error());
    });
    table.work->next(std::move(slices));
    return true;
  });
}

rpc::Future<PullReply> ShardServer::peek(const rpc::CallContext& context, const std::string& name,
                                         const Tensor& named, const PullHead& head) {
  rpc::Promise<PullReply> promise(node_.loop(), context.deadline);
  const Tensor keys = own_ranges(named);
  auto table = find(name);
  if (table && !is_large((*table)->shard.spec(), keys) && !(*table)->work->free())
    return in_turn<PullReply>(**table, context, [this, name, keys, head](shards::Completion& later) {
      return peek_now(name, keys, head, later);
    });
  auto future = promise.future();
  Table* const at = table ? *table : nullptr;
  if (!at || newer_route(*at, head.route) || !is_large(at->shard.spec(), keys)) {
    shards::Completion later;
    auto reply = peek_now(name, keys, head, later);
    when_there(later, std::move(reply), [promise = std::move(promise)](Result<PullReply> there) mutable {
      promise.set(std::move(there));
    });
    return future;
  }
  Slices slices(*this, *at, context.session);
  if (auto good = slices.add_read(keys, Slices::Read::kPeek, head.as_kept); !good) {
    promise.set(good.error());
    return future;
  }
  slices.answer([promise = std::move(promise)](Result<PushPullReply> reply) mutable {
    promise.set(reply ? Result<PullReply>(std::move(reply->pull)) : reply.error());
  });
  at->work->add(std::move(slices));
  return future;
}

// A large push is admitted when its turn has come, like a small one.
rpc::Future<PushReply> ShardServer::push(const rpc::CallContext& context, const std::string& name,
                                         const Tensor& named, const Tensor& gradients, const PushHead& head) {
  const Tensor keys = own_ranges(named);
  auto table = find(name);
  if (!table) {
    rpc::Promise<PushReply> refused(node_.loop(), context.deadline);
    refused.set(table.error());
    return refused.future();
  }
  const bool whole = !is_large((*table)->shard.spec(), keys);
  if (whole && !(*table)->work->free())
    return in_turn<PushReply>(**table, context,
                              [this, context, name, keys, gradients, head](shards::Completion& /*later*/) {
                                return push_now(context, name, keys, gradients, head);
                              });
  rpc::Promise<PushReply> promise(node_.loop(), context.deadline);
  auto future = promise.future();
  if (whole) {
    promise.set(push_now(context, name, keys, gradients, head));
    return future;
  }
  (*table)->work->add(
      [this, at = *table, context, keys, gradients, head, promise = std::move(promise)]() mutable {
        if (context.cancelled()) return true;
        Slices slices(*this, *at, context.session);
        Result<PushReply> refused = refuse(*at, head).value_or(PushReply{});
        const bool taken = refused->outcome == PushOutcome::kApplied;
        if (auto good = slices.add_push(keys, gradients, head); !taken || !good) {
          promise.set(taken ? good.error() : std::move(refused));
          return true;
        }
        slices.answer([promise = std::move(promise)](Result<PushPullReply> reply) mutable {
          promise.set(reply ? Result<PushReply>(std::move(reply->push)) : reply.error());
        });
        at->work->next(std::move(slices));
        return true;
      });
  return future;
}

rpc::Future<PushPullReply> ShardServer::push_pull(const rpc::CallContext& context, const std::string& name,
                                                  const Tensor& pushed, const Tensor& gradients,
                                                  const PushHead& head, const Tensor& pulled) {
  const Tensor keys = own_ranges(pushed), pull_keys = own_ranges(pulled);
  auto table = find(name);
  if (!table) {
    rpc::Promise<PushPullReply> refused(node_.loop(), context.deadline);
    refused.set(table.error());
    return refused.future();
  }
  const shards::TableSpec& spec = (*table)->shard.spec();
  rpc::Promise<PushPullReply> promise(node_.loop(), context.deadline);
  auto future = promise.future();
  const bool small = !is_large(spec, keys) && !is_large(spec, pull_keys);
  if (small && (*table)->work->free()) {
    shards::Completion later;
    auto reply = push_pull_now(context, name, keys, gradients, head, pull_keys, later);
    when_there(later, std::move(reply), [promise = std::move(promise)](Result<PushPullReply> there) mutable {
      promise.set(std::move(there));
    });
    return future;
  }
  auto now = [this, context, name, keys, gradients, head, pull_keys](shards::Completion& later) {
    return push_pull_now(context, name, keys, gradients, head, pull_keys, later);
  };
  if (small) return in_turn<PushPullReply>(**table, context, std::move(now));
  (*table)->work->add([this, at = *table, context, keys, gradients, head, pull_keys, now = std::move(now),
                       promise = std::move(promise)]() mutable {
    if (context.cancelled()) return true;
    Slices slices(*this, *at, context.session);
    auto good = slices.add_push(keys, gradients, head);
    if (good) good = slices.add_read(pull_keys, Slices::Read::kPull, head.as_kept);
    if (!good || refuse(*at, head) || shards::in_rounds(at->shard.spec().consistency)) {
      shards::Completion later;                       // of no rows
      promise.set(good ? now(later) : good.error());  // which says why not
      return true;
    }
    slices.answer([promise = std::move(promise)](Result<PushPullReply> reply) mutable {
      promise.set(std::move(reply));
    });
    at->work->next(std::move(slices));
    return true;
  });
  return future;
}

rpc::Future<void> ShardServer::carry_out(const rpc::CallContext& context, const std::string& name,
                                         const shards::StepOrder& order) {
  rpc::Promise<void> promise(node_.loop(), context.deadline);
  auto future = promise.future();
  auto table = find(name);
  if (!table) {
    promise.set(table.error());
    return future;
  }
  (*table)->work->add([at = *table, context, order, slice = std::size_t{0},  // 0: it has not begun
                       promise = std::move(promise)]() mutable {
    shards::TableShard& shard = at->shard;
    if (slice == 0) {
      if (context.cancelled()) return true;
      slice = is_large(shard.spec(), shard.keys_of(order)) ? slice_keys(shard.spec()) : SIZE_MAX;
      shard.begin_order(order);
    }
    Result<bool> over = false;
    do over = shard.go_on_with_order(slice);
    while (slice == SIZE_MAX && over && !*over);
    if (over && !*over) return false;
    promise.set(over ? Result<void>() : over.error());  // last: it may do anything
    return true;
  });
  return future;
}

}  // namespace troupe
