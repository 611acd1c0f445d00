// How a shard server's tables are made, saved and restored: what takes long is done by another thread, or in
// pages between other calls.
#include <algorithm>
#include <new>
#include <utility>

#include "shard_deciding.hpp"
#include "shard_saving.hpp"
#include "table_work.hpp"

namespace troupe {

namespace {

/// Pages that wait for the disk at most, a megabyte each.
constexpr int kPagesOnTheirWay = 4;
/// Dense shards up to so many bytes are made at once.
constexpr std::uint64_t kMadeAtOnce_bytes = std::uint64_t{4} << 20;

}  // namespace

// ---- Making tables ------------------------------------------------------------------------------

rpc::Future<void> ShardServer::create_table(const rpc::CallContext& context, const std::string& spec_text) {
  auto spec = shards::TableSpec::from_json(spec_text, shore_->known());
  if (spec) return make_if_missing(context, *spec, shore_->own_slots(*spec));
  rpc::Promise<void> promise(node_.loop(), context.deadline);
  promise.set(spec.error());
  return promise.future();
}

rpc::Future<void> ShardServer::make_if_missing(const rpc::CallContext& context, const shards::TableSpec& spec,
                                               shards::SlotSet slots) {
  rpc::Promise<void> promise(node_.loop(), context.deadline);
  auto future = promise.future();
  const std::string name = spec.name;
  const auto known = tables_.find(name);
  const auto making = making_.find(name);
  const shards::TableSpec* present = known != tables_.end()    ? &known->second->shard.spec()
                                     : making != making_.end() ? &making->second.spec
                                                               : nullptr;
  const auto place = [this, name](Result<shards::TableShard> shard) -> Result<void> {
    if (!shard) return shard.error();
    auto table = std::make_unique<Table>(std::move(*shard), node_.loop());
    table->generation = generation_;
    tables_.emplace(name, std::move(table));
    return {};
  };
  if (present && *present != spec) {
    promise.set(Error{Code::kFailedPrecondition,
                      "table '" + name + "' exists with another specification: " + present->to_json()});
  } else if (known != tables_.end()) {
    promise.set(Result<void>());
  } else if (making != making_.end()) {
    making->second.waiting.push_back(std::move(promise));
  } else if (spec.rows <=
             kMadeAtOnce_bytes / spec.optimizer.layout(spec.weights, spec.dim).bytes() * count_) {
    promise.set(place(shore_->make(spec, std::move(slots))));
  } else {
    making_[name].spec = spec;
    making_[name].waiting.push_back(std::move(promise));
    const auto made_it = [this, name, place](Result<shards::TableShard> shard) {
      auto made = making_.extract(name);
      if (made.empty()) return;
      const Result<void> placed =
          tables_.contains(name) ? Result<void>() : place(std::move(shard));  // a restore came between
      for (auto& waiting : made.mapped().waiting) waiting.set(placed);
    };
    try {
      on_disk([shore = shore_, spec, slots = std::move(slots)] { return shore->make(spec, slots); }, made_it);
    } catch (...) {  // it has not begun
      making_.erase(name);
      throw;
    }
  }
  return future;
}

// ---- Restoring ----------------------------------------------------------------------------------

Result<void> ShardServer::check_idle() const {
  if (saving_) return Error{Code::kFailedPrecondition, saving_->state()};
  if (restoring_)
    return Error{Code::kFailedPrecondition, "a checkpoint is being read already: wait for its end"};
  return {};
}

Result<ShardServer::Restored> ShardServer::Shore::read_checkpoint(const std::string& folder) const {
  auto manifest = shards::read_manifest(folder, known_);
  if (!manifest) return manifest.error();
  Restored restored;
  for (const shards::TableSpec& spec : manifest->tables) {
    if (gone_) return Error{Code::kCancelled, "the server has gone"};
    auto shard = make(spec, own_slots(spec));
    if (!shard) return shard.error();
    auto loaded = shards::load_rows(folder, *manifest, spec.name, *shard, &gone_);
    if (!loaded) return loaded.error();
    restored.rows += *loaded;
    restored.tables.push_back(std::move(*shard));
  }
  return restored;
}

Result<std::uint64_t> ShardServer::restore_now(const std::string& folder) {
  if (auto idle = check_idle(); !idle) return idle.error();
  auto restored = shore_->read_checkpoint(folder);
  if (!restored) return restored.error();
  const std::uint64_t rows = restored->rows;
  // Only now, so that a damaged checkpoint leaves what was there.
  put_in_place(std::move(*restored));
  return rows;
}

/// Rows are those of the checkpoint; where tables lie and who takes part in them stays as it is, but for
/// tables that are not there any more. Pushes for what was there before are known by its generation.
void ShardServer::put_in_place(Restored restored) {
  Tables tables;
  for (shards::TableShard& shard : restored.tables) {
    const std::string name = shard.spec().name;
    tables.emplace(name, std::make_unique<Table>(std::move(shard), node_.loop()));
  }
  ++generation_;
  for (auto& [name, table] : tables) {
    table->generation = generation_;
    const auto before = tables_.find(name);
    if (before == tables_.end()) continue;
    table->route = before->second->route;
    table->shard.set_active_groups(before->second->shard.groups().active());
    table->shard.begin_orders_at(before->second->shard.order_number());
  }
  std::swap(tables_, tables);
  std::vector<std::shared_ptr<Deciding>> gone, kept;
  for (auto at = deciding_.begin(); at != deciding_.end();) {
    const auto table = tables_.find(at->first);
    const bool stays = table != tables_.end() && table->second->shard.spec() == at->second->spec;
    (stays ? kept : gone).push_back(at->second);
    at = stays ? std::next(at) : deciding_.erase(at);
  }
  drop(std::move(tables));
  // Last: those who waited may do anything.
  for (const auto& deciding : kept) deciding->clocks.lose_offers();
  for (const auto& deciding : gone) deciding->close();
}

/// Giving back much memory takes a while.
void ShardServer::drop(Tables tables) {
  const auto waiting = take_work(tables);
  try {
    on_disk(
        [tables = std::move(tables)]() mutable -> Result<void> {
          tables.clear();
          return {};
        },
        [](const Result<void>&) {});
  } catch (const std::bad_alloc&) {  // then it has been given back here
  }
}

rpc::Future<std::uint64_t> ShardServer::restore(const rpc::CallContext& context, const std::string& folder) {
  rpc::Promise<std::uint64_t> promise(node_.loop(), context.deadline);
  auto future = promise.future();
  if (auto idle = check_idle(); !idle) {
    promise.set(idle.error());
    return future;
  }
  restoring_.emplace(std::move(promise));
  try {
    on_disk([shore = shore_, folder] { return shore->read_checkpoint(folder); },
            [this](Result<Restored> restored) {
              rpc::Promise<std::uint64_t> waiting = std::move(*restoring_);
              restoring_.reset();
              if (!restored) return waiting.set(restored.error());
              const std::uint64_t rows = restored->rows;
              put_in_place(std::move(*restored));
              waiting.set(rows);
            });
  } catch (...) {  // it has not begun
    restoring_.reset();
    throw;
  }
  return future;
}

// ---- Saving -------------------------------------------------------------------------------------

rpc::Future<std::vector<std::string>> ShardServer::save(const rpc::CallContext& context,
                                                        const std::string& folder,
                                                        const std::vector<std::string>& tables) {
  rpc::Promise<std::vector<std::string>> promise(node_.loop(), context.deadline);
  auto future = promise.future();
  if (auto idle = check_idle(); !idle) {
    promise.set(idle.error());
    return future;
  }
  saving_ = std::make_unique<Saving>(*this, folder, tables, std::move(promise));
  saving_->begin();
  return future;
}

ShardServer::Saving::Saving(ShardServer& server, std::string folder, const std::vector<std::string>& tables,
                            rpc::Promise<std::vector<std::string>> promise)
    : server_(server),
      folder_(std::move(folder)),
      promise_(std::move(promise)),
      begun_(server.node_.loop().clock().now()),
      names_(tables) {
  // So that nothing fails for want of memory while tables are held.
  held_.reserve(names_.size());
  parts_.reserve(names_.size());
  entries_.reserve(names_.size());
  // Its deadline has passed, or its caller is gone: no disk is waited for.
  // The call may be all that still keeps this server.
  promise_.on_cancel([this, gone = given_up_] {
    if (!*gone) fail({Code::kCancelled, "nobody waits for the checkpoint any more"});
  });
}

ShardServer::Saving::~Saving() {
  *given_up_ = true;
  close_cuts();
}

std::string ShardServer::Saving::state() const {
  if (!error_) return "a checkpoint is being written to " + folder_ + " already: wait for its end";
  const auto seconds = (server_.node_.loop().clock().now() - begun_) / std::chrono::seconds(1);
  return "the disk has not given back what was written of a checkpoint to " + folder_ + ", which was begun " +
         std::to_string(seconds) + " s ago and given up (" + error_->message + "): wait for the disk";
}

Result<void> ShardServer::Saving::open(const std::string& name) {
  auto table = server_.find(name);
  if (!table) return table.error();
  auto rows = (*table)->shard.open_cut();
  if (!rows) return rows.error();
  parts_.push_back({{}, *table, nullptr, {}});  // whatever comes now: its cut is to be closed
  parts_.back().name = name;
  parts_.back().writer = shards::ShardFileWriter::create(folder_, server_.index_, (*table)->shard, *rows);
  return {};
}

void ShardServer::Saving::begin() {
  unsettled_ = 1;
  for (const std::string& name : names_) {
    const auto table = server_.tables_.find(name);
    if (table == server_.tables_.end()) continue;
    Table* const held = table->second.get();
    if (std::find(held_.begin(), held_.end(), held) != held_.end()) continue;
    held_.push_back(held);
    ++unsettled_;
    held->work->hold([this] { settled(); });
  }
  settled();
}

/// No table is in the middle of something: all are cut at this moment.
void ShardServer::Saving::settled() {
  if (--unsettled_ > 0) return;
  for (const std::string& name : names_) {
    if (error_) break;
    auto open_it = [&] { return open(name); };
    auto opened = result_of(open_it, "a cut");
    if (!opened) error_ = with_context(std::move(opened).error(), "saving table '" + name + "'");
  }
  for (Table* table : std::exchange(held_, {})) table->work->let_go();
  go_on();
}

void ShardServer::Saving::go_on() {
  scheduled_ = false;
  if (!error_ && at_ < parts_.size()) {
    auto make_step = [&] { return step(); };
    if (auto done = result_of(make_step, "a page"); !done) return fail(std::move(done).error());
    return;
  }
  if (error_) close_cuts();
  if (on_their_way_ == 0) end();
}

Result<void> ShardServer::Saving::step() {
  Part& part = parts_[at_];
  if (!part.page.done) {
    if (on_their_way_ < kPagesOnTheirWay) return copy_page(part);
  } else if (on_their_way_ == 0) {
    give_to_disk([writer = part.writer] { return writer->finish(); },
                 [](Saving& self, Result<shards::FileEntry> entry) { self.finished(std::move(entry)); });
  }
  return {};
}

template <class Body, class Then>
void ShardServer::Saving::give_to_disk(Body work, Then then) {
  using Answer = decltype(work());
  server_.on_disk(
      [given_up = given_up_, work = std::move(work)]() mutable -> Answer {
        if (*given_up) return Error{Code::kCancelled, "given up"};
        return work();
      },
      [this, then = std::move(then)](Answer answer) { then(*this, std::move(answer)); });
  ++on_their_way_;
}

Result<void> ShardServer::Saving::copy_page(Part& part) {
  shards::RowBatch rows;
  auto page = part.table->shard.read_cut(part.page.next_cursor, part.writer->page_rows(), rows);
  if (!page) return page.error();
  part.page = *page;
  if (!rows.keys.empty()) {
    give_to_disk([writer = part.writer, rows = std::move(rows)] { return writer->append(rows); },
                 [](Saving& self, const Result<void>& result) { self.came_back(result); });
  }
  if (scheduled_) return {};
  server_.node_.loop().post([this, alive = std::weak_ptr<int>(server_.alive_)] {
    if (!alive.expired()) go_on();
  });
  scheduled_ = true;
  return {};
}

void ShardServer::Saving::came_back(const Result<void>& result) {
  --on_their_way_;
  if (!result) return fail(result.error());
  if (!scheduled_) go_on();
}

void ShardServer::Saving::finished(Result<shards::FileEntry> entry) {
  auto keep = [&]() -> Result<void> {
    if (!entry) return entry.error();
    entries_.push_back(shards::to_json(*entry));
    return {};
  };
  const auto kept = result_of(keep, "what a checkpoint's file is");
  if (kept) ++at_;
  came_back(kept);
}

void ShardServer::Saving::fail(Error error) {
  if (!error_) {
    auto name_it = [&]() -> Result<void> {
      if (at_ < parts_.size())
        error = with_context(std::move(error), "saving table '" + parts_[at_].name + "'");
      return {};
    };
    (void)result_of(name_it, "");
    error_ = std::move(error);
    *given_up_ = true;
  }
  if (unsettled_ > 0) return;  // settled() comes
  close_cuts();
  if (on_their_way_ == 0 && !scheduled_) end();
}

/// Rows that change keep copies of what they were as long as a cut is open.
void ShardServer::Saving::close_cuts() {
  for (Part& part : parts_)
    if (Table* const table = std::exchange(part.table, nullptr)) table->shard.close_cut();
}

void ShardServer::Saving::end() {
  const std::unique_ptr<Saving> self = std::move(server_.saving_);
  close_cuts();  // before the answer
  rpc::Promise<std::vector<std::string>> promise = std::move(promise_);
  if (error_) {
    // A file that was not finished is removed, which is work for the other thread, too.
    try {
      server_.on_disk(
          [parts = std::move(parts_)]() mutable -> Result<void> {
            parts.clear();
            return {};
          },
          [](const Result<void>&) {});
    } catch (const std::bad_alloc&) {  // then it has been removed here
    }
    promise.set(std::move(*error_));
  } else {
    promise.set(std::move(entries_));
  }
}

}  // namespace troupe
